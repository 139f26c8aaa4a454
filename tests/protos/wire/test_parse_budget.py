"""What would become far more in memory than it is on the wire is refused before it is parsed."""

import subprocess
import sys

import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.parse_budget import OBJECT, check_parts
from fedmore.protos.wire.records import dumps, unpack


def records(**values):
    return dumps(RecordDict({"c": ConfigRecord(values)}))


def count(data):
    """The least limit that lets `data` through."""
    low, high = 0, 1 << 16
    while low < high:
        middle = (low + high) // 2
        try:
            check_parts(data, middle)
            high = middle
        except WireError:
            low = middle + 1
    return low


def test_a_number_of_a_list_is_a_part_and_an_object_several():
    one = count(records(x=[1.5]))
    assert count(records(x=[1.5] * 1001)) == one + 1000
    assert count(records(x=[1] * 1001)) == one + 1000
    assert count(records(x=[True] * 1001)) == one + 1000
    assert count(records(x=["a"] * 1001)) == count(records(x=["a"])) + 1000 * OBJECT
    assert count(records(x=b"x" * 10_000)) == count(records(x=b""))


@given(st.binary(max_size=100))
def test_any_bytes_are_counted_or_refused(data):
    try:
        check_parts(data)
    except WireError:
        return
    assert count(data) <= OBJECT * len(data)


@pytest.mark.parametrize(
    "data", [b"\x0a", b"\x0a\x7f", b"\x0b", b"\xff" * 20, b"\x0a\x80", b"\x0a\x02\x0a\x05"]
)
def test_what_does_not_end_is_refused(data):
    with pytest.raises(WireError, match="not a Records message"):
        check_parts(data)


BOMB = """
import resource
from pathlib import Path
from fedmore.experts.errors import WireError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.wire.records import unpack

part = {part!r}
data = part * ((8 << 20) // len(part))
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (32 << 20), now + (32 << 20)))
try:
    unpack(pb.Content(blob=pb.Blob(digest="0" * 64, size=len(data))), lambda *_: data)
except WireError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "part",
    [
        b"\x0a\x00",  # entries
        pytest.param(b"\x0a\x05\x0a\x01x\x22\x00", marks=pytest.mark.slow),  # entries of one key
        b"\x0a\x04\x1a\x02\x0a\x00",  # values
    ],
)
def test_eight_mib_of_nothing_take_no_memory(part):
    """Parsed they would take up to 32 times their size."""
    done = subprocess.run(
        [sys.executable, "-c", BOMB.format(part=part)], capture_output=True, text=True, check=False
    )
    assert "more than 1048576 parts" in done.stdout, done.stderr[-500:]


def test_the_same_inline_is_refused_too():
    inline = pb.Records.FromString(b"\x0a\x00" * (1 << 20))
    with pytest.raises(WireError, match="parts"):
        unpack(pb.Content(records=inline), lambda *_: b"")


def test_a_content_has_a_limit_of_bytes_for_each_kind():
    content = pb.Content(blob=pb.Blob(digest="0" * 64, size=1001))
    with pytest.raises(WireError, match=r"1001 bytes .* above 1000"):
        unpack(content, lambda *_: b"", 1000)
