import pytest
import torch
from assertions import same

from fedmore.client.state import memory
from fedmore.client.state.memory import Memory, Remembered, Routing
from fedmore.experts.errors import DataError

PATH = "model.layers.0.mlp.up_proj"


def entry(updates=3, answer=b"\x00\xffanswer"):
    factors = {PATH: (torch.randn(4, 2), torch.randn(2, 5))}
    owed = {PATH: (torch.randn(4, 2), torch.randn(2, 5))}
    mirror = {PATH: (torch.randn(4, 3).bfloat16().float(), torch.randn(3, 5).bfloat16().float())}
    numbers = {"loss": 1.25, "tokens": 7}
    return Remembered(factors, owed, updates, "experts/3/2", answer, numbers, mirror)


def assert_same(found, wanted):
    assert same(found.component, wanted.component)
    assert same(found.residual, wanted.residual)
    assert same(found.mirror, wanted.mirror)
    assert (found.updates, found.task) == (wanted.updates, wanted.task)
    assert (found.answer, found.metrics) == (wanted.answer, wanted.metrics)


def test_what_is_remembered_comes_back(tmp_path):
    store, wanted = Memory(tmp_path / "state"), entry()
    assert store.read("legal") is None
    assert {k: e.updates for k, e in store.entries().items()} == {}
    store.write("legal", wanted)
    store.write("with.dots", entry(1))
    assert_same(Memory(tmp_path / "state").read("legal"), wanted)
    assert {k: e.updates for k, e in store.entries().items()} == {"legal": 3, "with.dots": 1}
    assert sorted(f.name for f in store.directory.iterdir()) == [
        f"{name}{memory.SUFFIX}" for name in ("legal", "with.dots")
    ]


def test_a_large_answer_is_no_matter(tmp_path):
    """Beyond what a safetensors header may hold, were it kept there."""
    store, wanted = Memory(tmp_path), entry(answer=bytes(range(256)) * 250_000)
    store.write("legal", wanted)
    assert store.read("legal").answer == wanted.answer


@pytest.mark.parametrize("when", ["save_file", "fsync", "replace"])
def test_a_crash_leaves_the_old_entry(tmp_path, monkeypatch, when):
    store, old = Memory(tmp_path), entry(1)
    store.write("legal", old)

    def crash(*_):
        raise OSError("power cut")

    target = {"save_file": memory, "fsync": memory.os, "replace": memory.Path}[when]
    with monkeypatch.context() as patch:
        patch.setattr(target, when, crash)
        with pytest.raises(OSError, match="power cut"):
            store.write("legal", entry(2))
    assert_same(store.read("legal"), old)
    assert {k: e.updates for k, e in store.entries().items()} == {"legal": 1}
    store.write("legal", entry(2))
    assert {k: e.updates for k, e in store.entries().items()} == {"legal": 2}


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:40], lambda data: data[:-1], lambda data: b"x" * 200],
)
def test_a_damaged_file_is_named(tmp_path, damage):
    store = Memory(tmp_path)
    store.write("legal", entry())
    file = tmp_path / f"legal{memory.SUFFIX}"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=r"legal\.component.* damaged .*remove it"):
        store.read("legal")
    with pytest.raises(DataError, match="damaged"):
        {k: e.updates for k, e in store.entries().items()}


@pytest.mark.parametrize(
    "meta", [None, {}, {"updates": "three", "task": "t", "metrics": "{}"}, {"updates": "1"}]
)
def test_a_safetensors_file_of_something_else_is_named(tmp_path, meta):
    memory.save_file({"x": torch.zeros(1)}, tmp_path / f"legal{memory.SUFFIX}", meta)
    with pytest.raises(DataError, match="damaged"):
        Memory(tmp_path).read("legal")


def routing(updates=2, answer=b"\x00\xffrouter"):
    owed = {
        "rows_LAD": torch.randn(1, 3, 4),
        "bias_LA": torch.randn(1, 3),
        "inner.bias": torch.ones(2),
    }
    experts = ("legal", "gl", "a.b")
    return Routing(owed, experts, updates, "ab" * 32, answer, {"loss": 1.25, "tokens": 7})


def assert_same_routing(found, wanted):
    assert set(found.residual) == set(wanted.residual)
    assert all(torch.equal(found.residual[name], t) for name, t in wanted.residual.items())
    assert (found.experts, found.updates, found.task) == (
        wanted.experts, wanted.updates, wanted.task
    )  # fmt: skip
    assert (found.answer, dict(found.metrics)) == (wanted.answer, dict(wanted.metrics))


@pytest.mark.parametrize("answer", [b"\x00\xffrouter", bytes(range(256)) * 4000])
def test_what_is_remembered_of_the_router_comes_back(tmp_path, answer):
    """Beside the experts, of which it is none, whatever they are called."""
    store, wanted = Memory(tmp_path / "state"), routing(answer=answer)
    assert store.routing() is None
    store.keep(wanted)
    store.write("routing", entry(5))
    assert_same_routing(Memory(tmp_path / "state").routing(), wanted)
    assert {n: e.updates for n, e in store.entries().items()} == {"routing": 5}
    newer = routing(3)
    store.keep(newer)
    assert_same_routing(store.routing(), newer)


@pytest.mark.parametrize("when", ["save_file", "fsync", "replace"])
def test_a_crash_leaves_what_was_remembered_of_the_router(tmp_path, monkeypatch, when):
    store, old = Memory(tmp_path), routing(1)
    store.keep(old)

    def crash(*_):
        raise OSError("power cut")

    target = {"save_file": memory, "fsync": memory.os, "replace": memory.Path}[when]
    with monkeypatch.context() as patch:
        patch.setattr(target, when, crash)
        with pytest.raises(OSError, match="power cut"):
            store.keep(routing(2))
    assert_same_routing(store.routing(), old)


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:40], lambda data: data[:-1], lambda data: b"x" * 200],
)
def test_a_damaged_file_of_the_router_is_named(tmp_path, damage):
    store = Memory(tmp_path)
    store.keep(routing())
    file = tmp_path / memory.ROUTING
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=r"routing\.safetensors: damaged .*remove it"):
        store.routing()
    assert store.entries() == {}


@pytest.mark.parametrize("meta", [None, {}, {"updates": "1", "task": "t", "metrics": "{}"}])
def test_a_file_of_something_else_is_no_memory_of_the_router(tmp_path, meta):
    tensors = {"answer": torch.zeros(1, dtype=torch.uint8)}
    memory.save_file(tensors, tmp_path / memory.ROUTING, meta)
    with pytest.raises(DataError, match="damaged"):
        Memory(tmp_path).routing()
