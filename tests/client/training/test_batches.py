"""What a task trains on: every token once an epoch, whatever is lost, asked again or killed."""

import json
from collections import Counter

import owners
import pytest
import torch
from flwr.app import Context, RecordDict

from fedmore.client.data.holdout import set_aside
from fedmore.client.egress.expert_rules import RULES
from fedmore.client.owner.node_config import Node
from fedmore.client.state.memory import Memory, Remembered, Routing
from fedmore.client.state.reading_position import Reading
from fedmore.client.training.batches import holdout, training_windows
from fedmore.experts.text.opener import resolve
from fedmore.experts.text.tokenization import TextTokenizer
from fedmore.experts.text.windows import Place, Stream
from fedmore.sims.data.tiny_model import END, byte_tokenizer
from fedmore.strategies.tasks.train import TrainTask

LENGTH = 16


def task(steps=2, **changes):
    values = {
        "expert": "kitchen", "kind": "expert", "target": "kitchen", "rank": 4, "first_layers": 1,
        "last_layers": 1, "stage": "experts", "round": 1, "rounds": 9, "steps": steps,
        "batch_size": 2, "sequence_length": LENGTH, "learning_rate": 1e-2, "codec": "fp32",
        "threads": 0, "seed": 0, "updates": 0,
    }  # fmt: skip
    return TrainTask(**(values | changes))


def owner(tiny, folder, documents, **chosen):
    folder.mkdir(exist_ok=True)
    data = folder / "docs.jsonl"
    lines = (json.dumps({"text": text}) + "\n" for text in documents)
    data.write_text("".join(lines), encoding="utf-8")
    config = {
        "name": "a", "kind": "expert", "target": "kitchen", "rank": 4, "data": str(data),
        "base": str(tiny), "dtype": "float32", "device": "cpu", "quantization": "none",
        **owners.owner(folder / "state", "a", min_tokens=1),
    }  # fmt: skip
    return Node.of(Context(1, 5, config | chosen, RecordDict(), {}))


def texts(count, size):
    """Documents of which each byte can be told: in two bytes of them is their number."""
    return ["".join(f"{chr(65 + i)}{chr(97 + j % 26)}" for j in range(size)) for i in range(count)]


def windows_of(node, asked, reading):
    return training_windows(node, asked, reading, RULES.tokens_needed(node, asked))


def epoch(node, **changes):
    """All windows of an epoch, round by round, each from what the one before left on disk."""
    reading, rows = Reading(), []
    while reading.place.epoch == 0:
        found = windows_of(node, task(**changes), Reading.load(reading.dump()))
        rows.append(found.windows)
        assert found.reading.epochs > reading.epochs
        reading = found.reading
    return torch.cat(rows), reading


@pytest.mark.parametrize("form", [("<|end|>", False), ("<|end|>", True), ("none", False)])
@pytest.mark.parametrize("documents", [texts(20, 30), texts(1, 400)], ids=["short", "long"])
def test_rounds_read_every_token_once_an_epoch(tiny, tmp_path, documents, form):
    node = owner(tiny, tmp_path, documents, opener=form[0], open_windows=form[1])
    rows, reading = epoch(node)
    text = node.load().text
    counts = Counter(token for token in rows[:, 1:].flatten().tolist() if token != 256)
    whole = Counter(token for document in documents for token in text.plain(document))
    assert not whole - counts
    again = sum((counts - whole).values())
    assert again < 5 * (LENGTH + 1)  # of the round that ends the epoch
    assert 0.95 < reading.epochs < 1 + 5 * (LENGTH + 1) / sum(whole.values())


def test_a_task_that_is_lost_or_asked_again_does_not_move_the_text(tiny, tmp_path):
    node = owner(tiny, tmp_path, texts(20, 30))
    one = windows_of(node, task(), Reading())
    assert torch.equal(one.windows, windows_of(node, task(), Reading()).windows)
    two = windows_of(node, task(), one.reading)
    assert not torch.equal(one.windows, two.windows)
    entry = Remembered({}, {}, 2, "key", b"", {}, reading=two.reading, read_before=one.reading)
    assert entry.reading_at(2) == two.reading
    assert entry.reading_at(1) == one.reading  # its answer was of no use


def test_another_text_is_read_from_its_beginning_and_the_epochs_go_on(tiny, tmp_path):
    node = owner(tiny, tmp_path / "one", texts(20, 30))
    first = windows_of(node, task(), Reading())
    other = owner(tiny, tmp_path / "two", texts(21, 30))
    second = windows_of(other, task(), first.reading)
    assert second.reading.place == Place(1, 0, 4, 0)
    assert second.reading.epochs > first.reading.epochs
    longer = windows_of(node, task(sequence_length=32), first.reading)
    assert longer.reading.place == Place(1, 0, 4, 0)


def test_what_was_read_is_on_disk_with_the_answer(tmp_path):
    memory, read = Memory(tmp_path), Reading("k", Place(3, 1, 2, 9), 3.25)
    before = Reading("k", Place(2, 0, 1, 0), 2.5)
    one = torch.ones(2, 2)
    held, owed = ({"layer": (torch.ones(2, 2), torch.ones(2, 2))} for _ in range(2))
    memory.write("x", Remembered(held, owed, 4, "t", b"a", {}, {}, None, read, before))
    found = memory.read("x")
    assert (found.reading, found.read_before) == (read, before)
    memory.keep(Routing({"w": one}, ("x",), 4, "t", b"a", {}, read, before))
    kept = memory.routing()
    assert (kept.reading, kept.read_before) == (read, before)


def numbered(first, count):
    return "".join(f"{number:05}|" for number in range(first, first + count))


def numbers_in(rows, decode):
    """The whole numbers in windows, each as often as it is there."""
    return Counter(
        part
        for row in rows.tolist()
        for part in decode(row).replace(END, "||").split("|")
        if len(part) == 5
    )


HELD = {
    "forty short documents": ([numbered(100 * i, 10) for i in range(40)], 1),
    "many documents": ([numbered(100 * i, 90) for i in range(200)], 16),
    "one long document": ([numbered(0, 4000)], 11),
    "four of some length": ([numbered(3000 * i, 2500) for i in range(4)], 16),
    "one that is not long": ([numbered(0, 1000)], 0),
    "few short documents": ([numbered(100 * i, 10) for i in range(31)], 0),
}


@pytest.mark.parametrize("windows", [False, True], ids=["closed", "opened"])
@pytest.mark.parametrize("case", HELD)
def test_what_is_set_aside_is_never_trained_on(case, windows):
    documents, count = HELD[case]
    tokenizer = byte_tokenizer()
    text = TextTokenizer(tokenizer, resolve(tokenizer, END, windows))
    parts = set_aside(documents, text, seed=3)
    stream = Stream(text, parts.training, 64, seed=3)
    taken = stream.take(Place(), stream.tokens // 63 + 1)
    trained = numbers_in(taken.windows[:, 1:], tokenizer.decode)
    every = {part for document in documents for part in document.split("|") if part}
    if not count:
        assert parts.holdout is None
        assert len(trained) > 0.7 * len(every)
        return
    assert len(parts.holdout) == count
    held = numbers_in(parts.holdout[:, 1:], tokenizer.decode)
    assert len(held) >= min(20 * count, 10)
    assert not set(held) & set(trained)
    assert len(held) + len(trained) > 0.7 * len(every)
    again, other = (set_aside(documents, text, seed).holdout for seed in (3, 4))
    assert torch.equal(parts.holdout, again)
    assert not torch.equal(parts.holdout, other)


def test_a_task_does_not_train_on_the_holdout(tiny, tmp_path):
    node = owner(tiny, tmp_path, HELD["many documents"][0])
    decode = node.load().tokenizer.decode
    held = numbers_in(holdout(node, seed=0), decode)
    trained = windows_of(node, task(steps=100, sequence_length=64), Reading()).windows
    assert len(held) > 100
    assert not set(held) & set(numbers_in(trained, decode))
