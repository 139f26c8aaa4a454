"""What a hostile client answers: refused with a reason and its name; the round goes on."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.blobs import digest_of
from fedmore.strategies.tasks.train import METRICS

NUMBERS = dict.fromkeys(METRICS, 1.0)
SIZE = 4 * 3 * 4 * (8 + 12)


def raw(data, shape=None, stype="fedmore.fp32", dtype="uint8"):
    array = Array(dtype, shape or (len(data),), stype, data)
    return RecordDict({"update": ArrayRecord({"change": array}), "metrics": MetricRecord(NUMBERS)})


def floats(value):
    return np.full(SIZE // 4, value, "<f4").tobytes()


def sign1(scale):
    """All ones, at the largest scale that bfloat16 has."""
    import torch

    from fedmore.strategies.compression.codec import CODECS, encode

    return encode(CODECS["sign1"], [torch.full((4, 8), scale)])


GOOD = floats(1e-4)
LIES = {
    "a byte too few": (raw(GOOD[:-1]), "bytes where the shapes ask for"),
    "a rank more": (raw(GOOD + bytes(4 * 3 * 20)), "bytes where the shapes ask for"),
    "nothing": (raw(b""), "bytes where the shapes ask for"),
    "NaN": (raw(floats(np.nan)), "NaN or Inf"),
    "infinity": (raw(floats(np.inf)), "NaN or Inf"),
    "one NaN": (raw(GOOD[:-4] + floats(np.nan)[:4]), "NaN or Inf"),
    "huge": (raw(floats(1e38)), "root mean square"),
    "large": (raw(floats(1.0)), "root mean square"),
    "sign1 where fp32 was asked": (raw(GOOD, stype="fedmore.sign1"), "asked for fp32"),
    "an unknown codec": (raw(GOOD, stype="fedmore.zip"), "asked for fp32"),
    "no codec": (raw(GOOD, stype=""), "asked for fp32"),
    "two arrays": (
        RecordDict({"update": ArrayRecord({"change": Array("uint8", (1,), "x", b"1"),
                                           "more": Array("uint8", (1,), "x", b"1")}),
                    "metrics": MetricRecord(NUMBERS)}),
        "not one array named change",
    ),
    "no update": (RecordDict({"metrics": MetricRecord(NUMBERS)}), "not one array named change"),
    "text": (RecordDict({"update": ConfigRecord({"change": "x"})}), "not one array named change"),
    "a metric more": (
        RecordDict({**raw(GOOD), "metrics": MetricRecord(NUMBERS | {"x": 1.0})}), "metrics are"),
    "a metric that is NaN": (
        RecordDict({**raw(GOOD), "metrics": MetricRecord(NUMBERS | {"loss": float("nan")})}),
        "not a finite number"),
    "a list of metrics": (
        RecordDict({**raw(GOOD), "metrics": MetricRecord(NUMBERS | {"loss": [1.0]})}),
        "not a finite number"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "says"), LIES.values(), ids=LIES)
def test_a_lie_costs_the_liar_its_round_and_nobody_else(round_of, content, says):
    round_of.eve.introduce()
    round_of.eve.reply(round_of.eve.task("train").task_id, content)
    metrics = round_of.end()
    assert list(metrics["clients"]) == ["alice"]
    (failure,) = metrics["failures"]
    assert failure.startswith("eve: ")
    assert says in failure
    assert metrics["experts"]["legal"]["owners"] == ["alice"]


def protobufs():
    records = pb.Records()
    entry = records.entries.add(key="update")
    entry.arrays.entries.add(key="change").array.CopyFrom(
        pb.Array(dtype="uint8", shape=[-4], stype="fedmore.fp32", data=b"x")
    )
    twice = pb.Records()
    for _ in range(2):
        twice.entries.add(key="update").arrays.SetInParent()
    bare = pb.Records()
    bare.entries.add(key="update").arrays.entries.add(key="change").array.shape.append(1)
    lost = pb.Content(blob=pb.Blob(digest="0" * 64, size=10))
    array = pb.Records()
    array.entries.add(key="update").arrays.entries.add(key="change").array.CopyFrom(
        pb.Array(dtype="uint8", shape=[SIZE], blob=pb.Blob(digest="0" * 64, size=SIZE))
    )
    return {
        "a negative size": (pb.Content(records=records), "negative size"),
        "a key twice": (pb.Content(records=twice), "occurs twice"),
        "an array without data": (pb.Content(records=bare), "no data"),
        "neither records nor blob": (pb.Content(), "neither records nor a blob"),
        "a blob that was not uploaded": (lost, "was not uploaded"),
        "an array that was not uploaded": (pb.Content(records=array), "was not uploaded"),
    }


@pytest.mark.parametrize(("content", "says"), protobufs().values(), ids=protobufs())
def test_what_no_records_are(round_of, content, says):
    round_of.eve.introduce()
    task_id = round_of.eve.task("train").task_id
    round_of.eve.say(reply=pb.Reply(task_id=task_id, content=content))
    metrics = round_of.end()
    assert list(metrics["clients"]) == ["alice"]
    assert says in metrics["failures"][0]


def test_a_blob_of_garbage(round_of):
    round_of.eve.introduce()
    task_id = round_of.eve.task("train").task_id
    data = b"\xff" * 2000
    round_of.eve.upload(data)
    blob = pb.Blob(digest=digest_of(data), size=len(data))
    round_of.eve.say(reply=pb.Reply(task_id=task_id, content=pb.Content(blob=blob)))
    assert "not a Records message" in round_of.end()["failures"][0]


def test_a_blob_of_a_hundred_thousand_empty_entries(round_of):
    round_of.eve.introduce()
    task_id = round_of.eve.task("train").task_id
    data = b"\x0a\x00" * 300_000
    round_of.eve.upload(data)
    blob = pb.Blob(digest=digest_of(data), size=len(data))
    round_of.eve.say(reply=pb.Reply(task_id=task_id, content=pb.Content(blob=blob)))
    assert "more than 1048576 parts" in round_of.end()["failures"][0]


def test_a_failure_of_a_megabyte_of_words(round_of):
    round_of.eve.introduce()
    task_id = round_of.eve.task("train").task_id
    failure = pb.Failure(code=2, reason="x\n" * (1 << 19))
    round_of.eve.say(reply=pb.Reply(task_id=task_id, failure=failure))
    (said,) = round_of.end()["failures"]
    assert len(said) < 5000
