"""The table from every error class to its gRPC status and exit code.

The class name and the message are sent in trailing metadata, so the client raises the coordinator's
error. `tests/protos/wire/test_status.py` proves that the table covers the whole error tree.
"""

import datetime as dt
import re
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote, unquote

import grpc

from fedmore.experts import errors
from fedmore.experts.errors import FedmoreError
from fedmore.protos.system.terminal import plain

KEY = "fedmore-error"
MAX_DETAILS = 4000
"""Most characters of an encoded message on the wire; HTTP/2 headers are limited to 8 KiB."""


PEER_CAUSES = {
    "certificate is not yet valid": (
        "shows a certificate that is not valid yet: here it is {now}, so the clock of this machine "
        "is behind, or the coordinator's was ahead; set the clock and run the same again"
    ),
    "certificate has expired": (
        "shows a certificate that has expired: here it is {now}; if the clock of this machine is "
        "right, the operator runs `coordinator renew` and starts the coordinator again"
    ),
    "Hostname Verification": (
        "shows this federation's certificate, but it is not made for that host; use an address "
        "that it is for (client join --address HOST:PORT), or the operator sets server.advertise, "
        "runs `coordinator renew` and starts again"
    ),
    "CERTIFICATE_VERIFY_FAILED": (
        "shows a certificate that is not this federation's: is that another coordinator, or was "
        "the federation made again? then ask for a new invite"
    ),
    "WRONG_VERSION_NUMBER": (
        "answers without TLS: is the port right? a coordinator that was started --insecure needs "
        "an invite made --insecure"
    ),
}
"""gRPC's texts for connections that no retry can establish, and their explanations."""


class Status(NamedTuple):
    """A gRPC status, and the exit code of a program that ends with the error."""

    grpc: grpc.StatusCode
    exit: int


TABLE: dict[type[FedmoreError], Status] = {
    errors.FedmoreError: Status(grpc.StatusCode.INTERNAL, 1),
    errors.ConfigError: Status(grpc.StatusCode.INVALID_ARGUMENT, 2),
    errors.RankError: Status(grpc.StatusCode.OUT_OF_RANGE, 3),
    errors.DataError: Status(grpc.StatusCode.FAILED_PRECONDITION, 4),
    errors.DeviceError: Status(grpc.StatusCode.FAILED_PRECONDITION, 5),
    errors.BaseError: Status(grpc.StatusCode.FAILED_PRECONDITION, 6),
    errors.MembershipError: Status(grpc.StatusCode.PERMISSION_DENIED, 7),
    errors.TokenError: Status(grpc.StatusCode.UNAUTHENTICATED, 8),
    errors.NameTakenError: Status(grpc.StatusCode.ALREADY_EXISTS, 9),
    errors.WireError: Status(grpc.StatusCode.DATA_LOSS, 10),
    errors.TransportError: Status(grpc.StatusCode.UNAVAILABLE, 11),
    errors.RegistryError: Status(grpc.StatusCode.NOT_FOUND, 12),
    errors.RoundError: Status(grpc.StatusCode.ABORTED, 13),
    errors.EgressError: Status(grpc.StatusCode.PERMISSION_DENIED, 14),
    errors.PeerError: Status(grpc.StatusCode.UNIMPLEMENTED, 15),
    errors.StoreError: Status(grpc.StatusCode.RESOURCE_EXHAUSTED, 16),
    errors.KernelError: Status(grpc.StatusCode.FAILED_PRECONDITION, 17),
}
_UNREACHED = ("failed to connect", "Failed to connect", "refused", "DNS", "resolution")
"""Words in gRPC's message if no connection was established; without them, it was lost."""

_BY_NAME = {cls.__name__: cls for cls in TABLE}


def status_of(error: BaseException) -> Status:
    """The row of the nearest class in the table; a foreign error is internal."""
    for cls in type(error).__mro__:
        if cls in TABLE:
            return TABLE[cls]
    return TABLE[FedmoreError]


def exit_code(error: BaseException) -> int:
    """Exit code of a program that ends with `error`."""
    return status_of(error).exit


def describe(error: BaseException) -> str:
    """Class and message in one line, for an operator."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


async def abort(context: "grpc.aio.ServicerContext[Any, Any]", error: Exception) -> NoReturn:
    """End the call with the status, class and message of `error`."""
    nearest = next((c for c in type(error).__mro__ if c in TABLE), FedmoreError)
    known = isinstance(error, FedmoreError)
    details = str(error) if known else f"the coordinator failed: {describe(error)}"
    trailing = ((KEY, f"{nearest.__name__} {quote(details, safe=' ')[:MAX_DETAILS]}"),)
    # The status text is for foreign clients; ours read the exact trailing metadata.
    await context.abort(status_of(error).grpc, ascii(details[:200])[1:-1], trailing)


def from_rpc(error: grpc.RpcError, where: str) -> FedmoreError:
    """The error that the peer raised, or one for the transport's status at `where`."""
    for key, value in getattr(error, "trailing_metadata", tuple)() or ():
        name, _, text = str(value).partition(" ")
        if key == KEY and name in _BY_NAME:
            return _BY_NAME[name](plain(unquote(text), MAX_DETAILS))
    return _explained(error, where)


def _explained(error: grpc.RpcError, where: str) -> errors.TransportError:
    code = getattr(error, "code", lambda: None)()
    details = plain(getattr(error, "details", lambda: None)() or "", MAX_DETAILS)
    for sign, cause in PEER_CAUSES.items():
        if sign in details:
            now = dt.datetime.now(dt.UTC)
            return errors.PeerError(f"{where} {cause.format(now=f'{now:%Y-%m-%d %H:%M} UTC')}")
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return errors.PeerError(
            f"{where} answers, but is not a fedmore coordinator of this version ({details})"
        )
    if code == grpc.StatusCode.UNAVAILABLE and any(word in details for word in _UNREACHED):
        return errors.TransportError(
            f"{where} cannot be reached: is the coordinator running? ({details})"
        )
    if code == grpc.StatusCode.UNAVAILABLE:
        return errors.TransportError(f"{where}: the connection was lost ({details})")
    name = getattr(code, "name", "UNKNOWN")
    return errors.TransportError(f"{where}: the call ended with {name} ({details})")
