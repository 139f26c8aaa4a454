import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.blobs import MAX_MESSAGE, digest_of
from fedmore.protos.wire.records import INLINE_ARRAY, INLINE_CONTENT, dumps, loads, pack, unpack

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
integers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats()


def lists(*kinds):
    return st.one_of(*(st.lists(kind, max_size=4) for kind in kinds))


arrays = st.builds(
    Array,
    text,
    st.lists(st.integers(0, 2**40), max_size=4).map(tuple),
    text,
    st.binary(max_size=64),
)
metrics = integers | floats | lists(integers, floats)
configs = metrics | text | st.binary(max_size=16) | st.booleans()
configs |= lists(text, st.binary(max_size=16), st.booleans())
records = st.dictionaries(
    text,
    st.one_of(
        st.dictionaries(text, arrays, max_size=3).map(ArrayRecord),
        st.dictionaries(text, metrics, max_size=4).map(MetricRecord),
        st.dictionaries(text, configs, max_size=4).map(ConfigRecord),
    ),
    max_size=4,
).map(RecordDict)


def plain(value):
    """A form in which types, order and NaNs count."""
    if isinstance(value, float):
        return ("float", math.copysign(1, value), "nan" if math.isnan(value) else value)
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, Array):
        return (value.dtype, value.shape, value.stype, value.data)
    if isinstance(value, RecordDict | ArrayRecord | MetricRecord | ConfigRecord):
        return (type(value).__name__, [(k, plain(v)) for k, v in value.items()])
    return (type(value).__name__, value)


@given(records)
def test_round_trip_is_exact_and_in_order(content):
    assert plain(loads(dumps(content))) == plain(content)
    packed = pack(content)
    assert plain(unpack(packed.content, no_blobs)) == plain(content)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_the_wire_error(data):
    try:
        decoded = loads(data)
    except WireError:
        return
    assert isinstance(decoded, RecordDict)


@given(records, st.data())
def test_damaged_records_decode_or_raise_the_wire_error(content, data):
    damaged = bytearray(dumps(content))
    for _ in range(3):
        if damaged:
            place = data.draw(st.integers(0, len(damaged) - 1))
            damaged[place] = data.draw(st.integers(0, 255))
    try:
        loads(bytes(damaged))
    except WireError:
        return


def test_a_large_array_is_a_blob_and_a_small_one_is_inline():
    content = RecordDict(
        {
            "arrays": ArrayRecord(
                {
                    "small": Array("u1", (INLINE_ARRAY,), "raw", b"s" * INLINE_ARRAY),
                    "large": Array("u1", (INLINE_ARRAY + 1,), "raw", b"l" * (INLINE_ARRAY + 1)),
                }
            )
        }
    )
    packed = pack(content)

    assert list(packed.blobs.values()) == [b"l" * (INLINE_ARRAY + 1)]
    assert packed.content.ByteSize() < INLINE_ARRAY + 200
    assert packed.size == packed.content.ByteSize() + INLINE_ARRAY + 1
    assert plain(unpack(packed.content, lambda d, _: packed.blobs[d])) == plain(content)


def test_many_small_arrays_go_as_one_blob_and_stay_below_the_message_limit():
    many = {str(i): Array(np.full(1000, i, np.float64)) for i in range(300)}
    content = RecordDict({"arrays": ArrayRecord(many), "config": ConfigRecord({"a": b"x" * 10})})
    packed = pack(content)

    assert packed.content.ByteSize() < 200
    assert len(packed.blobs) == 1
    [(digest, data)] = packed.blobs.items()
    assert digest == digest_of(data)
    assert INLINE_CONTENT < len(data) < MAX_MESSAGE
    assert plain(unpack(packed.content, lambda d, _: packed.blobs[d])) == plain(content)


@pytest.mark.parametrize(
    "records",
    [
        RecordDict({"c": ConfigRecord({"n": 2**63})}),
        RecordDict({"c": ConfigRecord({"n": [0, -(2**63) - 1]})}),
        RecordDict({"c": ConfigRecord({"s": "\ud800"})}),
        RecordDict({"a": ArrayRecord({"w": Array("f4", (-1,), "raw", b"")})}),
    ],
)
def test_what_the_wire_cannot_carry_is_refused(records):
    with pytest.raises(WireError, match="cannot be encoded"):
        dumps(records)


def entries(*pairs):
    return pb.Records(entries=pairs).SerializeToString()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (entries(pb.Entry(key="a")), "holds no record"),
        (entries(*[pb.Entry(key="a", config=pb.ValueRecord())] * 2), "occurs twice"),
        (
            entries(pb.Entry(key="a", config=pb.ValueRecord(entries=[pb.ValueEntry(key="b")]))),
            "has no value",
        ),
        (
            entries(
                pb.Entry(
                    key="a",
                    metrics=pb.ValueRecord(entries=[pb.ValueEntry(key="b", text="no number")]),
                )
            ),
            "not valid",
        ),
        (
            entries(
                pb.Entry(key="a", arrays=pb.ArrayRecord(entries=[pb.ArrayEntry(key="w", array={})]))
            ),
            "no data",
        ),
    ],
)
def test_malformed_records_say_what_is_wrong(data, reason):
    with pytest.raises(WireError, match=reason):
        loads(data)


def test_a_blob_that_did_not_come_is_a_wire_error():
    array = pb.Array(dtype="u1", shape=[1], stype="raw", blob=pb.Blob(digest="d", size=1))
    record = pb.ArrayRecord(entries=[pb.ArrayEntry(key="w", array=array)])
    with pytest.raises(WireError, match="did not come along"):
        loads(entries(pb.Entry(key="a", arrays=record)))


def test_a_content_must_be_one_of_the_two():
    with pytest.raises(WireError, match="neither records nor a blob"):
        unpack(pb.Content(), no_blobs)


def no_blobs(digest, size):
    raise AssertionError("no blob expected")
