import subprocess
import sys
from pathlib import Path

import pytest
from quick_help import help_answers_at_once
from typer.testing import CliRunner

from fedmore.client.cli.main import app
from fedmore.client.joining.options import training
from fedmore.experts.errors import ConfigError


@pytest.mark.parametrize("command", [(), ("join",), ("preflight",)], ids=" ".join)
def test_help_answers_at_once(command: tuple[str, ...]) -> None:
    assert help_answers_at_once([sys.executable, "-m", "fedmore.client.cli.main", *command])


def test_the_command_line_imports_nothing_heavy() -> None:
    script = (
        "import sys, fedmore.client.cli.main\n"
        "print(*{'torch', 'flwr', 'grpc', 'transformers', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b""


def test_exactly_one_of_domain_and_language() -> None:
    assert training("legal", None) == ("expert", "legal")
    assert training(None, "gl") == ("adapter", "gl")
    for domain, language in ((None, None), ("legal", "gl")):
        with pytest.raises(ConfigError, match="exactly one of --domain"):
            training(domain, language)


@pytest.mark.parametrize("options", [[], ["--domain", "legal", "--language", "gl"]])
def test_join_refuses_neither_and_both(tmp_path: Path, options: list[str]) -> None:
    arguments = ["join", str(tmp_path / "i.json"), "--data", str(tmp_path), *options]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ConfigError)


def test_a_missing_invite_is_one_line(tmp_path: Path) -> None:
    arguments = ["join", str(tmp_path / "none.json"), "--data", str(tmp_path), "--domain", "legal"]
    done = subprocess.run(
        [sys.executable, "-m", "fedmore.client.cli.main", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ConfigError: ")
    assert "none.json" in done.stderr
    assert done.stderr.count("\n") == 1
