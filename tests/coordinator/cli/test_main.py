import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from quick_help import help_answers_at_once
from thinning import rarer_slow
from typer.testing import CliRunner

from fedmore.coordinator.cli.main import app, names
from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.folder import create as inits
from fedmore.coordinator.run.recovery import count_tokens
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import ConfigError, FedmoreError, RegistryError

COMMANDS = (
    "init", "invite", "start", "status", "experts", "assemble", "evaluate", "revoke", "stop",
    "generate", "chat",
    "health", "operator", "authority", "renew", "withdraw",
)  # fmt: skip
OFTEN = ((), ("start",), ("generate",))


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    "command", rarer_slow([(), *[(c,) for c in COMMANDS]], OFTEN), ids=" ".join
)
def test_help_answers_at_once(command: tuple[str, ...]) -> None:
    assert help_answers_at_once([sys.executable, "-m", "fedmore.coordinator.cli.main", *command])


def test_the_command_line_imports_nothing_heavy() -> None:
    script = (
        "import sys, fedmore.coordinator.cli.main\n"
        "print(*{'torch', 'flwr', 'grpc', 'mlflow', 'sqlalchemy', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b""


@pytest.mark.usefixtures("base")
def test_init_invite_status_experts(tmp_path: Path, base: Path) -> None:
    directory, out = tmp_path / "hub", tmp_path / "amt.json"
    said = run(
        "init", directory, "--base", base, "--domain", "legal", "--domain", "medical",
        "--language", "gl", "--clients", 4, "--port", 4711,
    )  # fmt: skip
    assert "coordinator invite" in said
    assert "client join amt.json" in run("invite", directory, "amt", "--out", out)
    assert json.loads(out.read_text())["address"] == "127.0.0.1:4711"
    found = json.loads(run("status", directory, "--json"))
    assert (found["federation"], found["phase"], found["expected"]) == ("hub", "new", 4)
    assert (found["members"], found["invited"]) == ([], ["amt"])
    assert "invited, not yet here: amt" in run("status", directory)
    assert json.loads(run("experts", directory, "--json")) == []
    assert "no expert yet" in run("experts", directory)


def test_how_much_of_its_text_each_client_was_trained_on(federation: Path) -> None:
    """The last round in which it took part says so; one who took part in none has none."""
    with Registry.open(federation) as registry:
        for name in ("amt", "ufficio"):
            registry.enrol(registry.invite(name), name, "expert", "legal", 4)
        for number, epochs in ((1, 0.4), (2, 1.25)):
            said = {"amt": {"tokens": 512, "epochs": epochs}}
            metrics = {"clients": said, "experts": {}}
            registry.add_round(stage=0, kind="experts", round=number, metrics=metrics)
        count_tokens(registry)
    members = json.loads(run("status", federation, "--json"))["members"]
    found = {m["name"]: (m["train_tokens"], m["epochs"]) for m in members}
    assert found == {"amt": (1024, 1.25), "ufficio": (0, 0.0)}
    (line,) = [text for text in run("status", federation).splitlines() if text.startswith("amt")]
    assert line.split()[8:10] == ["1024", "1.25"]


def test_members_and_experts_are_listed(federation: Path) -> None:
    with Registry.open(federation) as registry:
        registry.enrol(registry.invite("amt"), "amt", "expert", "legal", 4)
        registry.add_traffic("amt", 1_500_000, 10)
        registry.add_expert(
            name="legal", kind="expert", target="legal", rank=16, params=12345, stage=0, round=1,
            digest="ab" * 32,
        )  # fmt: skip
        registry.add_round(stage=0, kind="experts", round=0, metrics={})
    found = json.loads(run("status", federation, "--json"))
    assert found["members"][0]["bytes_up"] == 1_500_000
    assert found["stages"][0] == {
            "kind": "experts", "rounds": 3, "done": 1, "failures": [], "ended": None,
            "experts": {},
        }  # fmt: skip
    assert "node_id" not in found["members"][0]
    assert "1.5 MB" in run("status", federation)
    assert json.loads(run("experts", federation, "--json"))[0]["digest"] == "ab" * 32
    assert "12,345" in run("experts", federation)


@pytest.mark.parametrize("command", ["start", "status", "experts", "assemble", "evaluate"])
def test_a_folder_without_a_federation_is_a_clear_error(command: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="coordinator init"):
        run(command, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["assemble"], RegistryError, "no expert yet"),
        (["assemble", "--router", "magic"], ConfigError, "uniform, domain, arrow"),
        (["evaluate"], RegistryError, "no expert yet"),
    ],
)
def test_what_cannot_be_assembled_is_said(
    federation: Path, arguments: list[str], error: type[FedmoreError], says: str
) -> None:
    command, *options = arguments
    with pytest.raises(error, match=says):
        run(command, federation, *options)


def test_an_unknown_expert_is_named_with_the_known_ones(federation: Path) -> None:
    with Registry.open(federation) as registry:
        registry.add_expert(
            name="legal", kind="expert", target="legal", rank=1, params=1, stage=0, round=0,
            digest="ab" * 32,
        )  # fmt: skip
    with pytest.raises(RegistryError, match="'music'; there are: legal"):
        run("assemble", federation, "--experts", "legal,music")


def test_an_error_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fedmore.coordinator.cli.main", "status", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"ConfigError: {tmp_path}")
    assert done.stderr.count("\n") == 1


def test_the_name_is_the_folders_if_none_is_given(base: Path, tmp_path: Path) -> None:
    run("init", tmp_path / "hub", "--base", base, "--domain", "legal", "--name", "Our-hub")
    assert json.loads(run("status", tmp_path / "hub", "--json"))["federation"] == "Our-hub"


def test_names() -> None:
    assert names("") is None
    assert names(" a, b,") == ("a", "b")


def test_a_configuration_made_by_hand_can_be_created(base: Path, tmp_path: Path) -> None:
    config: FederationConfig = inits.new_config(name="x", base=str(base), domains=("legal",))
    config = replace(config, federation=replace(config.federation, seed=7))
    assert inits.create(tmp_path / "hub", config).federation.seed == 7
