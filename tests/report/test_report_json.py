"""report.json: exactly the agreed keys, numbers that add up, and clear errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmore.experts.errors import ConfigError, RegistryError, WireError
from fedmore.sims.report.build import Written, write_report
from fedmore.sims.report.schema import Interval, parse_report, to_json
from fedmore.sims.report.study import Study

Make = Callable[..., Path]
Read = Callable[[Path], Study]

KEYS = {
    "scenario": None,
    "seed": None,
    "engine": None,
    "wall_s": None,
    "base": {"name", "params", "fingerprint"},
    "clients": None,
    "traffic": {"counted", "bytes_up", "bytes_down", "bytes_up_if_fp32", "bytes_up_if_full_model"},
    "experts": None,
    "aggregation_error": None,
    "mixture": {"params", "active_params", "router"},
    "bits_per_byte": None,
    "forgetting": None,
}
CLIENT = {"name", "rank", "codec", "train_tokens", "bytes_up", "bytes_down"}
NUMBERS = {"court": 3_041_280, "notary": 760_320, "clinic": 6_082_560, "xornal": 976_896}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, make_at: Make) -> Written:
    directory = make_at(tmp_path_factory.mktemp("run") / "federation")
    return write_report(directory, scenario="quickstart", engine="grpc", seed=1, wall_s=342.5)


@pytest.fixture(scope="module")
def table(written: Written) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(written.json.read_text(encoding="utf-8"))
    return loaded


def test_exactly_the_agreed_keys(table: dict[str, Any]) -> None:
    assert set(table) == set(KEYS)
    for name, keys in KEYS.items():
        assert keys is None or set(table[name]) == keys
    for client in table["clients"]:
        assert set(client) - {"domain", "language"} == CLIENT
        assert ("domain" in client) != ("language" in client)
    for expert in table["experts"]:
        assert set(expert) == {"name", "kind", "rank", "params", "digest"}
    for scores in table["bits_per_byte"].values():
        assert set(scores) == {"base", "own_expert", "mixture"}
        assert set(scores["base"]) == {"mean", "ci95"}


def test_traffic_adds_up(table: dict[str, Any]) -> None:
    traffic = table["traffic"]
    assert traffic["bytes_up"] == sum(c["bytes_up"] for c in table["clients"])
    assert traffic["bytes_down"] == sum(c["bytes_down"] for c in table["clients"])
    assert traffic["bytes_up_if_fp32"] == 4 * 3 * sum(NUMBERS.values())
    assert traffic["bytes_up_if_full_model"] == 4 * 134_515_008 * 3 * len(NUMBERS)


def test_the_newest_version_of_every_expert(table: dict[str, Any]) -> None:
    assert [e["name"] for e in table["experts"]] == ["legal", "medical", "gl"]
    assert table["experts"][0]["digest"].endswith(f"{3 * 7919 + len('legal'):x}")


def test_aggregation_error_is_the_worst(table: dict[str, Any]) -> None:
    assert table["aggregation_error"] == 4.6e-7


def test_own_expert_is_null_where_nobody_trained(table: dict[str, Any]) -> None:
    assert table["bits_per_byte"]["python"]["own_expert"] is None
    assert table["bits_per_byte"]["gl"]["own_expert"]["mean"] == 1.902


def test_codec_and_target_of_a_client(table: dict[str, Any]) -> None:
    xornal = next(c for c in table["clients"] if c["name"] == "xornal")
    assert (xornal["language"], xornal["codec"], xornal["rank"]) == ("gl", "sign1", 8)


def test_it_reads_back_to_itself(written: Written) -> None:
    assert parse_report(written.json.read_text(encoding="utf-8")) == written.report
    assert to_json(written.report) == written.json.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "value"),
    [("seed", "one"), ("mixture.params", 1.5), ("traffic.extra", 1), ("bits_per_byte.gl.base", 2)],
)
def test_a_wrong_key_is_named(table: dict[str, Any], path: str, value: object) -> None:
    changed = json.loads(json.dumps(table))
    *parents, last = path.split(".")
    inner = changed
    for key in parents:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(WireError, match=path):
        parse_report(json.dumps(changed))


@pytest.mark.parametrize("ci95", [(1.1, 1.2), (0.8, 0.9), (float("nan"), 2.0)])
def test_an_interval_lies_around_its_mean(ci95: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="interval"):
        Interval(1.0, ci95)


def test_bytes_that_no_socket_counted_are_null(make: Make, study_of: Read) -> None:
    report = study_of(make(counted=False)).report
    assert report.traffic.bytes_up is None
    assert report.traffic.bytes_down is None
    assert all(client.bytes_up is None for client in report.clients)
    assert report.traffic.bytes_up_if_fp32 > 0


def test_stages_may_be_numbered(make: Make, study_of: Read) -> None:
    row = {"stage": 1, "bits_per_byte": {"gl": {"mean": 1.9, "ci95": [1.8, 2.0]}}}
    assert study_of(make(forgetting=[row])).report.forgetting[0].stage == "language"


def test_a_missing_evaluation_says_what_to_do(make: Make, study_of: Read) -> None:
    directory = make()
    (directory / "evaluation.json").unlink()
    with pytest.raises(RegistryError, match="coordinator evaluate"):
        study_of(directory)


def test_a_malformed_evaluation_names_the_key(make: Make, study_of: Read) -> None:
    with pytest.raises(RegistryError, match=r"bits_per_byte\.legal\.base\.mean"):
        study_of(make(bits_per_byte={"legal": {"base": {"ci95": [1, 2]}}}))


def test_no_federation_is_a_clear_error(tmp_path: Path, study_of: Read) -> None:
    with pytest.raises(ConfigError, match="coordinator init"):
        study_of(tmp_path)


def test_a_wrong_number_leaves_no_half_report(make: Make) -> None:
    directory = make(mixture={"params": "many", "active_params": 1, "router": "domain"})
    with pytest.raises(RegistryError, match="params"):
        write_report(directory, scenario="s", engine="grpc", seed=1, wall_s=1.0)
    assert not (directory / "report.json").exists()
    assert not (directory / "report.html").exists()
