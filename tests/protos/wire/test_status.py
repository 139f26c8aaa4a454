import asyncio

import grpc
import pytest

from fedmore.experts import errors
from fedmore.experts.errors import FedmoreError, PeerError, TransportError
from fedmore.protos.wire.status import TABLE, abort, describe, exit_code, from_rpc, status_of

ROOT = FedmoreError.__module__


def tree(cls):
    inner = (c for c in cls.__subclasses__() if c.__module__ in (errors.__name__, ROOT))
    return {cls}.union(*map(tree, inner))


def test_the_table_is_total_over_the_tree_and_has_nothing_else():
    assert set(TABLE) == tree(FedmoreError)
    documented = {n for n in dir(errors) if n.endswith("Error")}
    assert {cls.__name__ for cls in TABLE} == documented


def test_exit_codes_are_distinct_and_none_means_success_or_a_signal():
    codes = [status.exit for status in TABLE.values()]
    assert len(set(codes)) == len(codes)
    assert all(0 < code < 64 for code in codes)
    assert all(status.grpc != grpc.StatusCode.OK for status in TABLE.values())


def test_a_subclass_from_elsewhere_has_its_parents_status_and_a_stranger_is_internal():
    class Special(errors.RankError):
        pass

    assert status_of(Special()) == TABLE[errors.RankError]
    assert exit_code(KeyError()) == TABLE[FedmoreError].exit


class Context:
    async def abort(self, code, details, trailing):
        raise Aborted(code, details, trailing)


class Aborted(grpc.RpcError):
    def __init__(self, code, details, trailing):
        self._all = code, details, trailing

    def code(self):
        return self._all[0]

    def details(self):
        return self._all[1]

    def trailing_metadata(self):
        return self._all[2]


def crossed(error):
    """`error` as the other end raises it."""
    with pytest.raises(Aborted) as caught:
        asyncio.run(abort(Context(), error))
    trailing = caught.value.trailing_metadata()
    assert all(value.isascii() and len(value) < 5000 for _, value in trailing)
    return from_rpc(caught.value, "host:1")


@pytest.mark.parametrize("cls", sorted(TABLE, key=lambda c: c.__name__))
def test_every_class_crosses_the_wire_with_its_message(cls):
    message = "stages[0].rounds: „0“ is\nnot above 0 %41 ✓"
    raised = crossed(cls(message))
    assert type(raised) is cls
    assert str(raised) == message.replace("\n", " ")  # one line, whatever a peer says


def test_a_foreign_error_arrives_as_an_internal_one_with_its_class():
    raised = crossed(KeyError("x"))
    assert type(raised) is FedmoreError
    assert "KeyError" in str(raised)


def test_a_very_long_message_is_cut():
    assert len(str(crossed(errors.DataError("✓" * 10_000)))) < 1000


@pytest.mark.parametrize(
    ("code", "details", "error", "says"),
    [
        (grpc.StatusCode.UNAVAILABLE, "refused", TransportError, "cannot be reached"),
        (grpc.StatusCode.UNAVAILABLE, "Too many pings", TransportError, "connection was lost"),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", TransportError, "connection was lost"),
        (grpc.StatusCode.UNAVAILABLE, "CERTIFICATE_VERIFY_FAILED", PeerError, "not this fed"),
        (grpc.StatusCode.UNIMPLEMENTED, "", PeerError, "not a fedmore coordinator"),
        (grpc.StatusCode.CANCELLED, "", TransportError, "CANCELLED"),
    ],
)
def test_a_transport_failure_says_where_and_what(code, details, error, says):
    raised = from_rpc(Aborted(code, details, ()), "host:1")
    assert type(raised) is error
    assert says in str(raised)
    assert "host:1" in str(raised)


def test_a_class_that_is_not_ours_in_the_metadata_is_not_believed():
    raised = from_rpc(Aborted(grpc.StatusCode.INTERNAL, "", (("fedmore-error", "OSError x"),)), "h")
    assert type(raised) is errors.TransportError


def test_describe_is_one_line():
    assert describe(errors.DataError("a\n  b")) == "DataError: a b"
    assert describe(KeyError()) == "KeyError"
