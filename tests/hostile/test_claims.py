"""A client that says it is somebody else, or more than it is."""

import pytest
from flwr.app import ConfigRecord, RecordDict
from stages import OWN_FACTORS

from fedmore.strategies.members import HELLO

LIES = {
    "another's name": ({"name": "alice"}, "its name is 'alice'; it enrolled as 'eve'"),
    "another's expert": ({"target": "medical"}, "its target is 'medical'"),
    "another kind": ({"kind": "adapter"}, "its kind is 'adapter'"),
    "a rank that no matrix has": ({"rank": 10**9}, "its rank is 1000000000"),
    "a pattern of ranks": ({"ranks": "gate=4,up=4,down=4"}, "its ranks is 'gate=4"),
    "a rank of 0": ({"rank": 0}, "its rank is 0"),
    "all text of the world": ({"size": 1 << 62}, "bytes of text"),
    "less than no text": ({"size": -100}, "bytes of text"),
    "updates of nothing": ({"updates": [1]}, "how many updates"),
    "a mirror of nothing": ({"mirrors": [1]}, "as many mirrors as experts"),
    "others' experts": ({"experts": ["medical"], "updates": [1]}, "how many updates"),
}


@pytest.mark.parametrize(("lie", "says"), LIES.values(), ids=LIES)
def test_it_is_left_out_and_named(round_of, lie, says):
    round_of.eve.introduce(**lie)
    metrics = round_of.end()
    assert list(metrics["clients"]) == ["alice"]
    assert says in metrics["failures"][0]
    assert metrics["experts"]["legal"]["owners"] == ["alice"]


@pytest.mark.parametrize(
    "content",
    [RecordDict(), RecordDict({"member": ConfigRecord({"name": "eve"})})],
    ids=["nothing", "half of it"],
)
def test_it_must_say_who_it_is(round_of, content):
    round_of.eve.reply(round_of.eve.task(HELLO).task_id, content)
    assert list(round_of.end()["clients"]) == ["alice"]


@pytest.mark.parametrize(
    ("round_of", "part"),
    [({"max_client_weight": 0.5} | OWN_FACTORS, 0.5), (OWN_FACTORS, 1.0)],
    indirect=["round_of"],
)
def test_who_lies_about_its_size_has_no_more_than_an_owners_share(round_of, update, part):
    round_of.eve.introduce(size=1 << 50)
    round_of.eve.reply(round_of.eve.task("train").task_id, update(1e-3))
    assert set(round_of.end()["clients"]) == {"alice", "eve"}
    state = round_of.states["legal"]
    for path, (b, a) in state.aggregate.items():
        alice, eve = (product(state.components[name], path) for name in ("alice", "eve"))
        found = (b.double() @ a.double() - alice).norm() / (eve - alice).norm()
        assert float(found) == pytest.approx(part, abs=1e-3)


def product(component, path):
    b, a = component.factors[path]
    return component.scale * b.double() @ a.double()
