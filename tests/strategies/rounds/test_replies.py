"""One reader of replies for stages of every kind: what counts, what does not, and why."""

import random
from dataclasses import dataclass

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedmore.experts.errors import StoreError, WireError
from fedmore.protos.wire.flower_compat import identify, make_failure, make_reply, stamp
from fedmore.strategies.members import Member
from fedmore.strategies.rounds.replies import by_node, by_task, check_has_text, read_replies
from fedmore.strategies.stages.embedding import EmbeddingStage

NAMES = {11: "ada", 12: "bob", 13: "cy"}
GOOD = 3


@dataclass(frozen=True)
class Ask:
    name: str
    limit: int = 10


def sent(task_id, node):
    identify()
    return stamp(Message(RecordDict(), dst_node_id=node, message_type="train"), task_id)


def answer(task_id, node, value=GOOD, **metrics):
    found = {"size": ConfigRecord({"value": value}), "metrics": MetricRecord({"n": 1} | metrics)}
    return make_reply(sent(task_id, node), RecordDict(found))


def value_of(content, ask):
    value = content["size"]["value"]
    if value > ask.limit:
        raise WireError(f"{value} is above {ask.limit}")
    return value


def read(replies, **options):
    asked = {node: Ask(name) for node, name in NAMES.items()}
    return read_replies(replies, asked, by_node, value_of, metrics=("n",), **options)


CASES = {
    "a good one counts": (answer("b", 12), None),
    "an error is told": (make_failure(sent("b", 12), "out of memory"), "out of memory"),
    "what cannot be read is refused": (answer("b", 12, 99), "99 is above 10"),
    "other metrics are refused": (answer("b", 12, m=1), "the metrics are ['m', 'n'], not ['n']"),
    "no answer is told": (None, "no answer in time"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_reply_counts_or_says_why_not(case):
    reply, why = CASES[case]
    others = [answer("c", 13, 1), answer("a", 11, 2)]
    found = read(others + ([reply] if reply else []))
    taken = {each.asked.name: each.value for each in found.accepted}
    assert taken == {"ada": 2, "cy": 1} | ({} if why else {"bob": GOOD})
    assert found.failures == ([f"bob: {why}"] if why else [])
    assert found.unanswered == ({} if reply else {12: Ask("bob")})


def test_whoever_has_withdrawn_has_no_part_whatever_was_sent():
    replies = [answer("a", 11), answer("b", 12, 99)]
    found = read(replies, withdrawn=lambda: {"ada", "bob"})
    assert found.accepted == []
    assert found.failures == ["ada: withdrawn", "bob: withdrawn", "cy: no answer in time"]


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_replies_does_not_matter(seed):
    replies = [answer("c", 13), answer("a", 11, 1), make_failure(sent("b", 12), "gone")]
    random.Random(seed).shuffle(replies)
    found = read(replies)
    assert [each.asked.name for each in found.accepted] == ["ada", "cy"]
    assert list(found.clients.items()) == [("ada", {"n": 1}), ("cy", {"n": 1})]
    assert found.failures == ["bob: gone"]


@pytest.mark.parametrize("last", [0, 1])
def test_of_a_node_that_was_asked_again_the_good_reply_counts(last):
    replies = [make_failure(sent("b1", 12), "left"), answer("b2", 12)]
    found = read(replies[::-1] if last else replies, missing=["bob: left before it was asked"])
    assert found.clients == {"bob": {"n": 1}}
    assert not any(text.startswith("bob") for text in found.failures)


def test_a_task_without_a_reply_stays_open_with_the_reason_of_the_stage():
    asked = {"new": Ask("ada"), "old": Ask("bob")}
    found = read_replies(
        [answer("new", 11)], asked, by_task, value_of, metrics=("n",),
        unanswered=lambda key, ask: f"{ask.name} is at the {key} task",
    )  # fmt: skip
    assert found.unanswered == {"old": Ask("bob")}
    assert found.failures == ["bob: bob is at the old task"]


def test_both_replies_of_a_client_that_was_late_count():
    asked = {"late": Ask("ada"), "new": Ask("ada")}
    replies = [answer("late", 11, 1), answer("new", 11, 2, n=7)]
    found = read_replies(replies, asked, by_task, value_of, metrics=("n",))
    assert [each.value for each in found.accepted] == [1, 2]
    assert found.clients == {"ada": {"n": 7}}


def test_the_row_of_a_round_says_the_same_for_every_kind_of_stage():
    found = read([answer("a", 11)], missing=["dan: unreadable"])
    failures = ["bob: no answer in time", "cy: no answer in time", "dan: unreadable"]
    assert found.row(EmbeddingStage(), 2, {"legal": {}}) == {
        "stage": EmbeddingStage().kind,
        "round": 2,
        "clients": {"ada": {"n": 1}},
        "experts": {"legal": {}},
        "failures": failures,
    }


def test_what_the_disk_has_lost_is_no_refusal():
    def lost(_content, _ask):
        raise StoreError("blob: missing")

    with pytest.raises(StoreError, match="missing"):
        read_replies([answer("a", 11)], {11: Ask("ada")}, by_node, lost, metrics=("n",))


def test_a_member_without_text_is_refused():
    member = Member("ada", "expert", "legal", 2, 5, [], [])
    check_has_text(member)
    with pytest.raises(WireError, match="says that it has no text"):
        check_has_text(Member("ada", "expert", "legal", 2, 0, [], []))
