"""No single owner's failure ends the others' plan: every kind of stage, every way to fail.

One plan has a stage of each kind, and in each another owner fails in the same way.
"""

import json
from functools import partial

import pytest
from flwr.app import Message, RecordDict
from thinning import rarer_slow

from fedmore.client.client_app import handle
from fedmore.coordinator.store.state_keys import LEFT_OUT, ROUTER
from fedmore.experts.errors import EgressError, RegistryError, RoundError
from fedmore.experts.mixture.checkpoint import read_recipe
from fedmore.experts.routers.serialization import load_router
from fedmore.strategies.events import LeftOut, StageSkipped, Waiting
from fedmore.strategies.members import HELLO

VICTIMS = {"experts": "garden", "language": "other", "router": "sums", "routing": "plain"}
"""Who fails, by the kind of stage."""


def refuse(_place, _name):
    raise EgressError("the owner of this client chose otherwise")


def fail(_place, _name):
    raise ZeroDivisionError("a fault of this machine")


def answer_nothing(_place, _name):
    return RecordDict()


def vanish(place, name):
    place.leave(name, "no sign of life for 10 s")
    raise SystemExit("its process is gone, and answers nothing")


def be_revoked(place, name):
    place.registry.revoke(name, "too little text")
    place.leave(name, "revoked by the operator", for_good=True)


def withdraw(place, name):
    place.registry.withdraw(name, "changed my mind")
    place.leave(name, "withdrawn by its owner", for_good=True)


WAYS = {
    refuse: "chose otherwise",
    fail: "ZeroDivisionError",
    answer_nothing: "",
    vanish: "no sign of life",
    be_revoked: "revoked by the operator",
    withdraw: "withdrawn",
}
"""How an owner may fail, and a word of the cause that the operator reads."""


def failing(place, way, asked, message, context):
    """What a client does with a message: the victim of a stage fails when it is `asked` so."""
    stage, name = message.metadata.group_id.partition("/")[0], context.node_config["name"]
    hello = message.metadata.message_type == HELLO
    if VICTIMS.get(stage) != name or hello != (asked == "hello"):
        return handle(message, context)
    return Message(way(place, name) or RecordDict(), reply_to=message)


CASES = [(way, asked) for asked in ("task", "hello") for way in WAYS]
OFTEN = [(fail, "task"), (vanish, "task"), (answer_nothing, "hello")]


@pytest.mark.parametrize("case", rarer_slow(CASES, OFTEN), ids=lambda c: f"{c[0].__name__}-{c[1]}")
def test_the_others_finish_and_the_cause_is_told(place, case):
    way, asked = case
    events = place.run(partial(failing, place, way, asked))
    rows = {row.kind: row.metrics for row in place.registry.rounds()}
    assert set(rows) == set(VICTIMS)  # the plan went through all its stages
    for stage, victim in VICTIMS.items():
        (told,) = [text for text in rows[stage]["failures"] if text.startswith(victim)]
        assert WAYS[way] in told
        assert victim not in rows[stage]["clients"]
        assert rows[stage]["clients"]
    noted = [e.payload for e in place.registry.events() if e.kind == "incomplete"]
    assert [set(p["failures"]) == set(rows[p["stage"]]["failures"]) for p in noted] == [True] * 4
    check_mixture(place, events)


def check_mixture(place, events):
    """Those who finished are in the mixture; the one without an embedding is not, and is told."""
    there = {expert.name for expert in place.registry.experts()}
    recipe = {expert.name for expert in read_recipe(place.directory / "mixture").experts}
    assert recipe == there - {"sums"} >= {"kitchen", "xx"}
    _, routed = load_router(place.store.get(place.registry.get_state(ROUTER)))
    assert set(routed) == recipe
    left = place.registry.get_state(LEFT_OUT, {})
    assert set(left) == there & {"sums"} == {e.name for e in events if isinstance(e, LeftOut)}
    assert json.loads((place.directory / "evaluation.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_stage_whose_only_owner_fails_ends_early(pair, way):
    def handler(message, context):
        stage = message.metadata.group_id.partition("/")[0]
        if stage != "language" or message.metadata.message_type == HELLO:
            return handle(message, context)
        return Message(way(pair, "foreign") or RecordDict(), reply_to=message)

    def observer(event):
        if isinstance(event, Waiting):  # for who vanished; its time is up
            pair.registry.revoke("foreign")

    events = pair.run(handler, observer)
    (skipped,) = [event for event in events if isinstance(event, StageSkipped)]
    assert skipped.kind == "language"
    assert WAYS[way] in skipped.reason or "no client trains" in skipped.reason
    assert [e.payload for e in pair.registry.events() if e.kind == "skipped"] == [
        {"reason": skipped.reason}
    ]
    assert pair.shows(f"ended early: {skipped.reason}")
    assert [e.name for e in read_recipe(pair.directory / "mixture").experts] == ["kitchen"]


def test_an_only_owner_who_comes_back_is_asked_again(pair):
    gone = []

    def handler(message, context):
        if message.metadata.group_id == "language/1" and not gone:
            gone.append(message)
            vanish(pair, "foreign")
        return handle(message, context)

    def observer(event):
        if isinstance(event, Waiting):
            assert event.names == ("foreign",)
            pair.come_back("foreign")

    events = pair.run(handler, observer)
    assert not [event for event in events if isinstance(event, StageSkipped)]
    assert {e.name for e in read_recipe(pair.directory / "mixture").experts} == {"kitchen", "xx"}


def test_nobody_is_left_to_go_on_for(pair):
    """With the last owner of all the plan fails, and is asked again at the next start."""

    def handler(message, context):
        return Message(fail(pair, "") or RecordDict(), reply_to=message)

    with pytest.raises(RoundError, match="kitchen: ZeroDivisionError"):
        pair.run(handler)


@pytest.mark.parametrize("kind", ["uniform", "domain"])
def test_a_router_that_needs_no_embedding_keeps_the_expert(trained, kind):
    """`sums` has an expert and no embedding."""
    trained.assemble(kind)
    recipe = {expert.name for expert in read_recipe(trained.directory / "mixture").experts}
    assert ("sums" in recipe) == (kind == "uniform")
    assert set(trained.registry.get_state(LEFT_OUT, {})) == (
        set() if kind == "uniform" else {"sums"}
    )
    assert trained.shows("sums: no owner sent a domain embedding") == (kind == "domain")


def test_an_expert_that_is_asked_for_by_name_is_not_left_out_in_silence(trained):
    with pytest.raises(RegistryError, match="no domain embedding of sums"):
        trained.assemble("domain", "sums", "kitchen")
