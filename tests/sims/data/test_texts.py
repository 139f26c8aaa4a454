import json

import pytest

from fedmore.experts.errors import DataError
from fedmore.sims.data import texts
from fedmore.sims.data.generated import GENERATED, generate_text
from fedmore.sims.data.items import Item
from fedmore.sims.data.texts import TEXTS, Text, ensure_text, join, proxy_beside, read_documents


def _items():
    names = [f"file{i // 5}" for i in range(500)]
    return [Item(f"Line {i} says é, {i * 7} words.", name, name) for i, name in enumerate(names)]


@pytest.fixture
def made(tmp_path, monkeypatch):
    calls = []

    def items():
        calls.append(1)
        return _items()

    monkeypatch.setenv("FEDMORE_CACHE", str(tmp_path))
    monkeypatch.setitem(TEXTS, "toy", Text(items, joined=True))
    return calls


@pytest.mark.parametrize("name", ["RECIPE", "RULE"])
def test_a_text_is_made_once_and_again_only_by_a_new_rule(made, monkeypatch, name):
    old = ensure_text("toy").train
    first = old.read_bytes()
    ensure_text("toy")
    assert len(made) == 1
    monkeypatch.setattr(texts, name, [getattr(texts, name), "changed"])
    assert ensure_text("toy").train != old  # a run of the old rule keeps its text
    assert ensure_text("toy").train.read_bytes() == first == old.read_bytes()
    assert len(made) == 2


def test_proxy_text_is_found_beside_held_out_text(made, tmp_path):
    files = ensure_text("toy")
    assert proxy_beside(files.heldout) == files.proxy
    assert read_documents(files.proxy)
    for other in (files.train, tmp_path / "heldout.jsonl"):
        with pytest.raises(DataError, match=r"no proxy\.jsonl"):
            proxy_beside(other)


def test_the_sides_share_no_source_and_no_line(made):
    files = ensure_text("toy")
    train, heldout = read_documents(files.train), read_documents(files.heldout)
    lines = [{line for d in side for line in d.text.splitlines()} for side in (train, heldout)]
    assert lines[0]
    assert lines[1]
    assert not lines[0] & lines[1]
    assert not {d.source for d in train} & {d.source for d in heldout}


def test_files_are_json_lines_with_text_and_source(made):
    for line in ensure_text("toy").heldout.read_text(encoding="utf-8").splitlines():
        assert set(json.loads(line)) == {"text", "source", "family"}
        assert "é" in line


def test_joined_documents_have_a_useful_size_and_lose_at_most_a_short_rest():
    items = _items()
    documents = list(join(items))
    assert all(300 <= len(d.text) < 1600 for d in documents)
    lines = [line for d in documents for line in d.text.splitlines()]
    assert lines == [i.text for i in items[: len(lines)]]
    assert sum(len(i.text) + 1 for i in items[len(lines) :]) < 300


def test_an_unknown_text_names_the_known_ones(made):
    with pytest.raises(DataError, match="legal, medical"):
        ensure_text("poetry")


@pytest.mark.parametrize("name", GENERATED)
def test_generated_text_is_the_same_each_time_and_split(name, tmp_path):
    one, two = generate_text(name, tmp_path / "1"), generate_text(name, tmp_path / "2")
    assert one.train.read_bytes() == two.train.read_bytes()
    assert len(read_documents(one.train)) >= 30
    assert len(read_documents(one.heldout)) >= 6  # near copies of train are dropped
    with pytest.raises(DataError, match="kitchen"):
        generate_text("poetry", tmp_path)
