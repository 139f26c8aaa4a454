"""Names, hosts and tables of `federation.toml`: what cannot work is refused with its path."""

from pathlib import Path

import pytest

from fedmore.coordinator.config.schema import FederationConfig, load_config, parse_config
from fedmore.coordinator.folder.create import certificate_hosts, default_name, new_config
from fedmore.coordinator.folder.invites import bracketed
from fedmore.experts.errors import ConfigError
from fedmore.protos.enrolment.invite import host_of, is_loopback

BAD_NAMES = [
    "", " ", "a b", "../../etc", "x\x1b[2J<script>", "a\nb", ".hidden", "-flag", "a/b", "ä",
    "x" * 65, "a\x00", "\u202eoverride",
]  # fmt: skip


def table(**sections: dict[str, object]) -> dict[str, object]:
    return {
        "federation": {"name": "demo", "domains": ["legal"]} | sections.pop("federation", {}),
        "base": {"model": "base"},
        **sections,
    }


PLACES = {
    "federation.name": lambda name: table(federation={"name": name}),
    "federation.domains[0]": lambda name: table(federation={"domains": [name]}),
    "federation.languages[1]": lambda name: table(federation={"languages": ["gl", name]}),
    "federation.run_config.": lambda name: table(federation={"run_config": {name: 1}}),
    "evaluation.texts.": lambda name: table(evaluation={"texts": {name: "x.txt"}}),
    "router.proxy_texts.": lambda name: table(router={"proxy_texts": {name: "x.txt"}}),
}


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
@pytest.mark.parametrize("path", PLACES)
def test_what_cannot_be_a_name_is_refused_with_its_path(path: str, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(PLACES[path](name), "federation.toml")
    text = str(caught.value)
    assert text.startswith(f"federation.toml: {path}")
    assert "cannot be a name" in text


@pytest.mark.parametrize(
    ("domains", "languages", "says"),
    [
        (["gl"], ["gl"], "'gl' is there already"),
        (["legal", "legal"], [], "'legal' is there already"),
        (["Legal", "legal"], [], "'legal' is there already, as 'Legal'"),
        (["public"], [], "'public' is the base's own name"),
        (["legal"], ["Public"], "'Public' is the base's own name"),
    ],
)
def test_a_domain_or_language_has_a_name_of_its_own(
    domains: list[str], languages: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=f"domains, languages: {says}"):
        parse_config(table(federation={"domains": domains, "languages": languages}), "f.toml")
    with pytest.raises(ConfigError, match=says):
        new_config(name="demo", base="b", domains=tuple(domains), languages=tuple(languages))


DEEP = {
    "arrays": "x = " + "[" * 1_000 + "]" * 1_000,
    "more arrays": "x = " + "[" * 100_000,
    "tables": "x = " + "{a=" * 1_000 + "1" + "}" * 1_000,
    "keys": ".".join("a" * 1_000) + " = 1",
    "some arrays": "x = " + "[" * 300 + "]" * 300,
    "sections": "[" + ".".join("a" * 5_000) + "]",
}


@pytest.mark.parametrize("case", DEEP)
def test_a_file_that_is_nested_deep_is_one_clear_error(tmp_path: Path, case: str) -> None:
    (tmp_path / "federation.toml").write_text(DEEP[case] + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"federation\.toml: ") as caught:
        load_config(tmp_path)
    assert len(str(caught.value)) < 500


GOOD_HOSTS = {
    "hub.example.org": "hub.example.org", "hub": "hub", "my_hub": "my_hub", "a-b.c": "a-b.c",
    "10.0.0.7": "10.0.0.7", "fd00::2": "fd00::2", "[fd00::2]": "fd00::2", "[::1]": "::1",
    "xn--fderation-27a.de": "xn--fderation-27a.de", "3com.example": "3com.example",
}  # fmt: skip


@pytest.mark.parametrize("given", GOOD_HOSTS)
def test_a_host_that_can_work_is_taken(given: str) -> None:
    config = new_config(name="demo", base="b", domains=("legal",), advertise=given)
    host = config.server.advertise
    assert host == GOOD_HOSTS[given]
    assert host in certificate_hosts(config)
    address = f"{bracketed(host)}:8470"
    assert host_of(address).strip("[]") == host
    assert is_loopback(host_of(address)) == (host == "::1")


BAD_HOSTS = [
    "host:8470", "10.0.0.7:8470", "[fd00::2]:8470", "http://hub", "grpc://hub:8470", "hub/x", "a b",
    "[hub]", "[10.0.0.7]", "0.0.0.0", "::", "[::]", "-hub", "hub-", "a..b", "hub.", "127.1",
    "256.1.1.1", "1234", "0x7f000001", "fe80::1%eth0", "föderation.de", "x" * 64, "a." * 127 + "b",
    "hub\x1b[2J", "user@hub", "*.example.org", "fd00::2::1",
]  # fmt: skip


@pytest.mark.parametrize("given", BAD_HOSTS, ids=ascii)
def test_a_host_that_cannot_work_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.advertise: "):
        new_config(name="demo", base="b", domains=("legal",), advertise=given)
    with pytest.raises(ConfigError, match=r"server\.advertise: "):
        parse_config(table(server={"advertise": given}), "f.toml")


def test_a_port_in_a_host_is_pointed_to() -> None:
    with pytest.raises(ConfigError, match=r"the port is server\.port"):
        new_config(name="demo", base="b", domains=("legal",), advertise="hub:8470")


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=r"server\.port"):
        parse_config(table(server={"port": port}), "f.toml")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("hub", "hub"), ("my hub", "my-hub"), ("a?b#c%20d", "a-b-c-20d"), ("föd", "f-d"),
     ("_", "federation")],
)  # fmt: skip
def test_a_federation_is_named_after_its_folder(tmp_path: Path, folder: str, name: str) -> None:
    assert default_name(tmp_path / folder) == name
    assert parse_config(table(federation={"name": name}), "f.toml").federation.name == name


def test_a_good_configuration_is_taken() -> None:
    assert isinstance(parse_config(table(), "f.toml"), FederationConfig)
