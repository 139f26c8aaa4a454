"""The contract of routing tasks: which are done, and what may leave as their answer."""

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from owners import lenient

from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.audit_report import read_ledger
from fedmore.client.egress.policy_guard import guard_of
from fedmore.client.egress.schema import route_answer
from fedmore.experts.errors import EgressError, WireError
from fedmore.protos.wire.flower_compat import make_failure, make_task
from fedmore.strategies.router_stage.tasks import ABSENT, ROUTE, read_route_task
from fedmore.strategies.tasks.train import METRICS, STYPE, update_content

SECRET = "Mrs Example was admitted on 3 May"
NUMBERS = 4 * 64 + 4  # a row and a bias for three experts and the public one


@pytest.fixture
def guard(context, tmp_path):
    return guard_of(5, context.node_config, Audit(tmp_path / "state"))


@pytest.fixture
def route(asked):
    """Call it with changes of the task: the message."""

    def make(**changes):
        content = asked(**{"codec": "fp32"} | changes)
        return make_task(content, task_id="t", node_id=5, message_type=ROUTE)

    return make


def answer(task, content):
    return Message(content, reply_to=task)


@pytest.mark.parametrize("kind", ["softmax", "xlora", "remix"])
@pytest.mark.parametrize("codec", ["fp32", "sign1", "auto", "bf16"])
def test_what_the_client_answers_may_leave_and_is_noted(do, guard, route, tmp_path, kind, codec):
    task = route(kind=kind, codec=codec, steps=1)
    reply = answer(task, do(task.content))
    assert guard.check_task(task)(reply) is reply
    (line,) = read_ledger(tmp_path / "state").lines
    (array,) = line["arrays"]
    assert line["type"] == ROUTE
    assert (array["name"], array["codec"]) == ("update/change", STYPE + codec)
    wanted = {"softmax": {"1x4x64", "1x4"}, "xlora": {"6x4x8", "6x4", "8x64", "8"}}
    assert set(array["factors"]) == wanted.get(kind, wanted["softmax"])


def test_the_declared_metrics_are_those_of_the_task(route):
    asked = read_route_task(route().content)
    assert tuple(route_answer(asked).metrics["metrics"]) == METRICS


def metrics(**changes):
    return {
        "loss": 2.5, "tokens": 192, "tokens_per_s": 80.0, "documents": 12, "epochs": 0.5,
        "numbers": NUMBERS, "payload_bytes": 4 * NUMBERS,
    } | changes  # fmt: skip


def update(data=bytes(4 * NUMBERS), codec="fp32", **changes):
    return update_content(data, codec, metrics(**changes))


def with_arrays(**arrays):
    return RecordDict({**update(), "update": ArrayRecord(arrays)})


TEXT = Array("uint8", (len(SECRET),), STYPE + "fp32", SECRET.encode())
CHANGE = update()["update"]["change"]
BAD = {
    "the features that the router centres by": update(bytes(4 * (NUMBERS + 2 * 64))),
    "a byte less": update(bytes(4 * NUMBERS - 1)),
    "a byte more": update(bytes(4 * NUMBERS + 1)),
    "a change of experts": update(bytes(4 * 3 * 6 * 3 * (64 + 176))),
    "another codec": update(bytes(2 * NUMBERS), "bf16"),
    "text for the change": with_arrays(change=TEXT),
    "an array more": with_arrays(change=CHANGE, text=TEXT),
    "an array of another name": with_arrays(router=CHANGE),
    "a record more": RecordDict({**update(), "notes": ConfigRecord({"text": SECRET})}),
    "a record less": RecordDict({"update": update()["update"]}),
    "text for metrics": RecordDict({**update(), "metrics": ConfigRecord({"loss": SECRET})}),
    "a metric more": update(ess=1.5),
    "losses of every step": RecordDict(
        {**update(), "metrics": MetricRecord(metrics(loss=[2.5, 2.4]))}
    ),
    "NaN": update(loss=float("nan")),
    "digits that hide something": update(loss=2.50001234),
    "tokens that do not follow": update(tokens=193),
    "numbers that do not follow": update(numbers=NUMBERS + 1),
    "bytes that do not follow": update(payload_bytes=0),
}


def test_an_answer_as_declared_may_leave(guard, route):
    """So that the answers below stay for the one reason that they are there for."""
    task = route()
    guard.check_task(task)(answer(task, update()))


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_any_other_answer_stays(guard, route, content):
    task = route()
    with pytest.raises(EgressError) as raised:
        guard.check_task(task)(answer(task, content))
    assert "Example" not in str(raised.value)


def test_an_error_that_the_app_worded_itself_stays(guard, route):
    task = route()
    with pytest.raises(EgressError, match="its text stays here"):
        guard.check_task(task)(make_failure(task, SECRET))


RANKS = 3 * 42
ABSURD = {
    "no expert": ({"experts": (), "ranks": ()}, "a router of 0 experts"),
    "many experts": ({"experts": tuple(map(str, range(257)))}, "a router of 257 experts"),
    "one name twice": ({"experts": ("a", "b", "a")}, "two experts of one name"),
    "no hidden number": ({"hidden": 0}, "a router of 0 hidden numbers"),
    "much hidden": ({"hidden": 4097}, "a router of 4097 hidden numbers"),
    "no selection": ({"num_selections": 0}, "0 selections a window"),
    "many selections": ({"num_selections": 65}, "65 selections a window"),
    "one selection for ReMix": ({"num_selections": 1}, "ReMix with one selection"),
    "a router that is set": ({"kind": "domain"}, "'domain', which is set, not trained"),
    "uniform": ({"kind": "uniform"}, "'uniform', which is set"),
    "arrow": ({"kind": "arrow"}, "'arrow', which is set"),
    "another base": ({"width": 128}, "a router of width 128; the base has 64"),
    "a rank above the matrix": ({"ranks": (65,) + (ABSENT,) * (RANKS - 1)}, "a rank of 65"),
    "a rank below 0": ({"ranks": (-2,) + (ABSENT,) * (RANKS - 1)}, "a rank of -2"),
    "experts that change nothing": ({"ranks": (ABSENT,) * RANKS}, "change no matrix"),
    "more decisions than blocks": ({"layers": 7}, "7 decisions over 6 changed blocks"),
    "fewer decisions": ({"layers": 5}, "5 decisions over 6"),
    "no steps": ({"steps": 0}, "made of 0 x 2 windows"),
    "steps below 0": ({"steps": -4, "batch_size": -4}, "made of -4 x -4 windows"),
    "little text": ({"steps": 1, "batch_size": 1, "sequence_length": 31}, "31 tokens of text"),
}


@pytest.mark.parametrize(("changes", "says"), ABSURD.values(), ids=ABSURD)
def test_absurd_tasks_are_refused(do, guard, route, context, changes, says):
    task = route(**changes)
    with pytest.raises(EgressError, match=says):
        guard.check_task(task)
    with pytest.raises(EgressError, match=says):
        do(task.content)
    assert not list((guard.policy.node.memory.directory).glob("*"))


def test_a_gate_for_every_layer_has_a_decision_for_each(guard, route):
    with pytest.raises(EgressError, match="1 decisions over 6 changed blocks"):
        guard.check_task(route(kind="xlora", layers=1))
    guard.check_task(route(kind="xlora"))
    guard.check_task(route(kind="softmax", layers=6))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ranks": (1, 2)}, "2 ranks for 3 experts and 42 matrices"),
        ({"top_k": 0}, "ReMix chooses from 1 to 4"),
        ({"codec": "zip"}, "unknown codec"),
    ],
)
def test_what_is_no_task_is_no_task(guard, route, changes, says):
    with pytest.raises(WireError, match=says):
        guard.check_task(route(**changes))


@pytest.mark.parametrize("codec", ["fp32", "auto", "sign1,router=bf16"])
def test_only_layouts_that_the_owner_allows(context, route, tmp_path, codec):
    guard = guard_of(
        5, context.node_config | {"policy": lenient(codecs=("sign1",))}, Audit(tmp_path)
    )
    guard.check_task(route(codec="sign1"))
    with pytest.raises(EgressError, match="the owner allows sign1"):
        guard.check_task(route(codec=codec))


def test_an_owner_with_little_text_is_refused_however_much_is_asked(do, route, context):
    context.node_config["policy"] = lenient(min_tokens=800)
    with pytest.raises(EgressError, match="made of 192 tokens of text"):
        do(route().content)
    with pytest.raises(EgressError, match=r"the owner's text has 7\d\d tokens"):
        do(route(steps=20).content)


def test_what_comes_with_a_task_may_be_as_large_as_the_experts_are(guard, route):
    content = route().content
    size = sum(len(array.data) for array in content.array_records["state"].values())
    assert size < guard.max_download
