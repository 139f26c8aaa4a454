"""A client that says it is somebody else, or more than it is."""

import pytest
from flwr.app import ConfigRecord, RecordDict

from fedmore.strategies.members import HELLO

LIES = {
    "another's name": ({"name": "alice"}, "its name is 'alice'; it enrolled as 'eve'"),
    "another's expert": ({"target": "medical"}, "its target is 'medical'"),
    "another kind": ({"kind": "adapter"}, "its kind is 'adapter'"),
    "a rank that no matrix has": ({"rank": 10**9}, "its rank is 1000000000"),
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
