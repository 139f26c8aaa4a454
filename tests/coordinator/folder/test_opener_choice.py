"""The opener of a federation, chosen at `init` over bases with every kind of tokenizer."""

import pytest
from kinds_of_tokenizers import KINDS, make_base

from fedmore.coordinator.config.schema import parse_config
from fedmore.coordinator.folder.opener_choice import (
    BETWEEN,
    BUILT_IN,
    public_documents,
    with_opener,
)
from fedmore.experts.errors import BaseError, ConfigError
from fedmore.experts.text.opener import AUTO, NONE, candidates, resolve

ENDLESS = ("bare", "unnamed")
"""Those with neither a start nor an end, which no base may have."""


@pytest.fixture(
    scope="module",
    params=[kind for kind in KINDS if kind.name not in ENDLESS],
    ids=lambda kind: kind.name,
)
def made(request, tmp_path_factory):
    tokenizer = request.param.make()
    return tokenizer, make_base(tmp_path_factory.mktemp(request.param.name), tokenizer)


def config(folder, **base):
    table = {"model": str(folder), "dtype": "float32", **base}
    return parse_config({"federation": {"name": "test"}, "base": table}, "test")


def test_auto_becomes_what_the_base_reads_best_and_the_figures_are_told(made):
    tokenizer, folder = made
    told = []
    found = with_opener(config(folder), told.append).base
    assert found.opener in candidates(tokenizer)
    assert found.opener != AUTO
    assert told[0].startswith(f"opener {found.opener}: ")
    assert all(name in told[0] for name in candidates(tokenizer))
    assert resolve(tokenizer, found.opener, found.open_windows).windows == found.open_windows


def test_a_choice_stays_and_tells_nothing(made):
    tokenizer, folder = made
    for name in candidates(tokenizer):
        told = []
        wanted = config(folder, opener=name, open_windows=name != NONE)
        assert with_opener(wanted, told.append) == wanted
        assert told == []


def test_what_the_tokenizer_has_not_is_refused(made):
    _, folder = made
    with pytest.raises(ConfigError, match=r"base\.opener '<\|none\|>'.*it has"):
        with_opener(config(folder, opener="<|none|>"), print)
    with pytest.raises(ConfigError, match="nothing can open windows"):
        with_opener(config(folder, opener=NONE, open_windows=True), print)


def test_public_text_is_the_federations_or_else_comes_with_the_program(made, tmp_path):
    _, folder = made
    mine = tmp_path / "public.jsonl"
    mine.write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8")
    table = {"federation": {"name": "test"}, "base": {"model": str(folder)}}
    chosen = parse_config(table | {"router": {"public_text": str(mine)}}, "test")
    base = load(folder)
    assert public_documents(chosen, base) == ["one", "two"]
    text = BUILT_IN.read_text(encoding="utf-8")
    assert public_documents(config(folder), base) == text.strip().split(BETWEEN)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name in ENDLESS])
def test_a_base_without_start_and_end_is_refused(kind, tmp_path):
    with pytest.raises(BaseError, match="neither a start nor an end token"):
        with_opener(config(make_base(tmp_path, kind.make())), print)


def load(folder):
    from fedmore.experts.base.model import load_base

    return load_base(str(folder), "float32")
