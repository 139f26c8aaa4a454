"""The contract with the installed Flower: what `protos/wire/flower_compat.py` relies on holds."""

import inspect

import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp.strategy import FedAvg

from fedmore.protos.wire import flower_compat
from fedmore.protos.wire.flower_compat import identify, make_failure, make_reply, make_task, stamp


def make(message_type="train", **changes):
    content = RecordDict({"config": ConfigRecord({"lr": 0.1})})
    return make_task(content, task_id="t1", node_id=7, message_type=message_type, **changes)


def test_flowers_constants_are_what_we_say():
    assert flower_compat.COORDINATOR == SUPERLINK_NODE_ID
    assert flower_compat.CLIENT_RAISED == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert flower_compat.REPLY_UNAVAILABLE == ErrorCode.REPLY_MESSAGE_UNAVAILABLE
    assert flower_compat.NODE_UNAVAILABLE == ErrorCode.NODE_UNAVAILABLE


@pytest.mark.parametrize("message_type", ["train", "evaluate", "query", "train.experts"])
def test_a_task_is_answered_by_a_client_app_and_its_ids_match(message_type):
    app = ClientApp()
    category, _, action = message_type.partition(".")
    seen = []

    @getattr(app, category)(*([action] if action else []))
    def answer(message: Message, context: Context) -> Message:
        seen.append(message)
        return Message(RecordDict({"m": MetricRecord({"x": 1})}), reply_to=message)

    task = make(message_type, group_id="round 3")
    reply = app(task, Context(1, 7, {}, RecordDict(), {}))

    assert seen == [task]
    assert reply.metadata.reply_to_message_id == "t1"
    assert reply.metadata.group_id == "round 3"
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (7, 1)
    assert reply.metadata.message_type == message_type
    assert reply.content["m"]["x"] == 1


def test_replies_and_failures_are_what_a_strategy_expects():
    task = make()
    metrics = MetricRecord({"num-examples": 1, "loss": 0.5})
    reply = make_reply(task, RecordDict({"metrics": metrics}))
    failure = make_failure(make(), "DataError: nothing to read")

    for message in (reply, failure):
        assert message.metadata.reply_to_message_id == "t1"
        assert message.metadata.message_id
        assert message.metadata.src_node_id == 7
    assert failure.has_error()
    assert not failure.has_content()
    assert failure.error.reason == "DataError: nothing to read"
    aggregated = FedAvg().aggregate_evaluate(1, [reply, failure])
    assert aggregated["loss"] == 0.5


def test_a_strategy_can_make_messages_once_the_process_has_an_identity():
    identify(run_id=3)
    message = Message(RecordDict(), 9, "train", group_id="g")
    assert message.metadata.run_id == 3
    assert message.metadata.src_node_id == flower_compat.COORDINATOR
    assert message.metadata.message_id == ""
    assert stamp(message, "id") is message
    assert message.metadata.message_id == "id"
    identify()


def test_an_unknown_message_type_is_refused():
    with pytest.raises(ValueError, match="Invalid message type"):
        make("dance")


def test_the_simulation_takes_what_we_give_it():
    from flwr.simulation import run_simulation

    names = list(inspect.signature(run_simulation).parameters)
    assert names[:3] == ["server_app", "client_app", "num_supernodes"]
    assert "backend_config" in names


def test_a_run_can_be_made():
    assert flower_compat.EmptyRun(5).run_id == 5
