"""`init`, `preflight` and `join` over bases of many families: what they say of each."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from thinning import rarer_slow
from typer.testing import CliRunner

from fedmore.client.cli.main import app
from fedmore.client.joining.base_choice import check_change
from fedmore.coordinator.folder.create import create, new_config
from fedmore.experts.errors import BaseError, RankError

Bases = Callable[[str], Path]
NEITHER = ["bert", "mamba"]
ADAPTER = ["mixtral", "deepseek_v3", "opt"]
BOTH = ["gpt2", "phi3", "gemma3", "qwen3_5_text"]
OFTEN = ("bert", "opt", "gpt2", "qwen3_5_text")
SOME = [*ADAPTER, "qwen3_5_text"]  # an adapter of these leaves something alone, which is said


def init(base: Path, directory: Path, kind: str) -> list[str]:
    wanted = {"domains": ("legal",)} if kind == "expert" else {"languages": ("gl",)}
    said: list[str] = []
    create(directory, new_config(name="demo", base=str(base), **wanted), said.append)  # type: ignore[arg-type]
    return said


@pytest.mark.parametrize("family", rarer_slow([*NEITHER, *ADAPTER, *BOTH], OFTEN))
def test_init_and_join_take_what_fits_and_refuse_the_rest(
    bases: Bases, tmp_path: Path, family: str
) -> None:
    base = bases(family)
    for kind in ("expert", "adapter"):
        fits = family in BOTH or (family in ADAPTER and kind == "adapter")
        told = family in SOME and kind == "adapter" and fits
        said: list[str] = []
        if fits:
            assert (
                any(f"of {family} changes" in line for line in init(base, tmp_path / kind, kind))
                is told
            )
            check_change(str(base), "amt", kind, "x", 2, said.append)
            assert any(f"of {family} changes" in line for line in said) is told
            with pytest.raises(RankError, match="at most"):
                check_change(str(base), "amt", kind, "x", 999, said.append)
            continue
        for look in (
            lambda kind=kind: init(base, tmp_path / kind, kind),
            lambda kind=kind: check_change(str(base), "amt", kind, "x", 2, print),
        ):
            with pytest.raises(BaseError, match=f"no {kind} fits {family}") as caught:
                look()
            assert "\n" not in str(caught.value)
        assert not (tmp_path / kind).exists()


@pytest.mark.parametrize("family", [*NEITHER, *ADAPTER, *BOTH])
def test_preflight_says_what_fits(bases: Bases, family: str) -> None:
    arguments = ["preflight", "--cpu", "--base", str(bases(family))]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.exception
    found = json.loads(result.stdout)["base"]
    assert (found["expert"]["highest_rank"] > 0) is (family in BOTH)
    assert (found["adapter"]["highest_rank"] > 0) is (family not in NEITHER)
    assert bool(found["expert"]["note"]) is (family not in BOTH)
    assert bool(found["adapter"]["note"]) is (family in NEITHER + SOME)
    text = CliRunner().invoke(app, arguments).stdout
    assert ("cannot be trained" in text) is (family not in BOTH)


def test_preflight_of_a_vision_base_is_one_line(bases: Bases) -> None:
    result = CliRunner().invoke(app, ["preflight", "--cpu", "--base", str(bases("qwen2_5_vl"))])
    assert isinstance(result.exception, BaseError)
    assert "qwen2_5_vl is a vision model" in str(result.exception)
    assert "\n" not in str(result.exception)
