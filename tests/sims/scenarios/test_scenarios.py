import copy

import pytest

from fedmore.experts.errors import ConfigError
from fedmore.sims.catalogue import SCENARIOS, scenario
from fedmore.sims.data.texts import TEXTS, read_documents
from fedmore.sims.engines.prepare import prepare
from fedmore.sims.scenarios.overrides import override
from fedmore.sims.scenarios.quickstart import quickstart
from fedmore.sims.scenarios.scenario import Scenario
from fedmore.sims.scenarios.smoke import smoke


@pytest.fixture
def light(monkeypatch):
    """`smoke` with a base that is a mere path: these tests train nothing."""
    chosen = smoke()
    return Scenario(**{**vars(chosen), "base": lambda directory: directory / "base"})


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_target_is_declared_and_evaluated(name):
    chosen = scenario(name)
    section = chosen.config["federation"]
    names = [client.name for client in chosen.clients]
    assert len(set(names)) == len(names) == section["clients"]
    for client in chosen.clients:
        assert client.target in section["domains" if client.kind == "expert" else "languages"]
        assert chosen.evaluation[client.target] == client.text
    trained = {client.text for client in chosen.clients}
    assert "plain" in chosen.evaluation
    assert set(chosen.evaluation.values()) - trained - {"plain"}  # a domain that nobody trained


def test_quickstart_is_what_the_readme_says():
    chosen = quickstart()
    rows = [(c.kind, c.target, c.rank) for c in chosen.clients]
    assert rows == [
        ("expert", "legal", 4),
        ("expert", "legal", 16),
        ("expert", "medical", 32),
        ("adapter", "gl", 8),
    ]
    stages = [(s["kind"], s.get("rounds", 1), s.get("codec")) for s in chosen.config["stages"]]
    assert stages == [("experts", 3, "sign1"), ("language", 3, "sign1"), ("router", 1, None)]
    assert set(chosen.texts()) == set(TEXTS) - {"estonian", "spanish"}


def test_a_run_directory_has_disjoint_halves_and_a_whole_configuration(light, tmp_path):
    prepared = prepare(light, tmp_path / "run", seed=3, settings=["stages.0.steps=5"])
    halves = [
        {d.text for d in read_documents(prepared.data(client) / "docs.jsonl")}
        for client in light.clients[:2]
    ]
    whole = {d.text for d in read_documents(light.text("kitchen", tmp_path).train)}
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == whole
    assert prepared.config.federation.seed == 3
    assert prepared.config.stages[0].steps == 5
    assert set(prepared.config.evaluation.texts) == {"kitchen", "garden", "xx", "sums", "plain"}
    assert prepared.config.base.model == str(tmp_path / "run" / "base")


def test_a_wrong_setting_is_found_before_anything_is_written(light, tmp_path):
    with pytest.raises(ConfigError, match=r"stages\[0\]\.stepz"):
        prepare(light, tmp_path / "run", settings=["stages.0.stepz=5"])
    with pytest.raises(ConfigError, match=r"federation\.seed"):
        prepare(light, tmp_path / "run", settings=["federation.seed=many"])
    assert not (tmp_path / "run").exists()


def test_a_used_folder_is_left_alone(light, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ConfigError, match="name a new folder"):
        prepare(light, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_override_reads_values_as_toml_and_leaves_the_table():
    table = {"a": {"b": [{"c": 1}]}, "d": "x"}
    before = copy.deepcopy(table)
    changed = override(table, ["a.b.0.c=2.5", "d=plain words", "e.f=true", 'd2=["x"]', "g=a=b"])
    assert changed == {
        "a": {"b": [{"c": 2.5}]},
        "d": "plain words",
        "e": {"f": True},
        "d2": ["x"],
        "g": "a=b",
    }
    assert table == before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("a.b", "dotted.path=value"),
        ("=3", "dotted.path=value"),
        ("a..b=3", "dotted.path=value"),
        ("list.2=3", r"--set list\.2: '2' is not an index from 0 to 1"),
        ("list.x.y=3", r"--set list\.x\.y: 'x' is not an index"),
        ("one.x=3", r"--set one\.x: 'x' is below a value that has no parts"),
        ("one.x.y=3", r"--set one\.x\.y: 'x' is below a value"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        override({"list": [1, 2], "one": 1}, [setting])


def test_an_unknown_scenario_names_the_known_ones():
    with pytest.raises(ConfigError, match="quickstart, routing, smoke"):
        scenario("nothing")
