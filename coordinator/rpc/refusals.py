"""Reports refused calls: a line in the log, an event, and the call's status.

Frequent refusals of one peer are reported rarely, with a count, so that none can fill the log or
the registry.
"""

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from fedmore.coordinator.rpc.auth import Authenticator, Context
from fedmore.coordinator.rpc.limits.rate_limit import TokenBucket
from fedmore.experts.errors import FedmoreError
from fedmore.protos.runtime.logs import TOLD
from fedmore.protos.system.terminal import plain
from fedmore.protos.wire.status import abort, describe
from fedmore.strategies.events import Event, Refused

LONGEST = 500
NAMES = 1_000
"""Number of peers whose recent refusals are remembered."""

log = logging.getLogger(__name__)


@dataclass
class _Told:
    """The rate of reports about one peer, and the number of refusals left out."""

    pace: TokenBucket = field(default_factory=lambda: TokenBucket(rate=0.2, burst=20))
    left_out: int = 0


class Refusals:
    """Reports refusals; it is used from the server's loop only."""

    def __init__(self, gate: Authenticator, emit: Callable[[Event], None]) -> None:
        self._gate = gate
        self._emit = emit
        self._told: OrderedDict[str, _Told] = OrderedDict()
        self.stopping = False
        """Set when the server cuts all calls, so that their failures are not reported."""

    def tell(self, name: str, what: str, why: str, task_id: str = "") -> None:
        """Report that `what` of `name` was refused."""
        told = self._told.setdefault(name, _Told())
        self._told.move_to_end(name)
        if len(self._told) > NAMES:
            self._told.popitem(last=False)
        if not told.pace.allows():
            told.left_out += 1
            return
        more = f" (and {told.left_out} before that)" if told.left_out else ""
        told.left_out = 0
        why = plain(why, LONGEST) + more
        reason = why if task_id else f"{what}: {why}"
        log.warning("%s: refused: %s", name, reason, extra=TOLD)
        self._emit(Refused(name, task_id, reason))

    @asynccontextmanager
    async def of(self, context: Context, call: str) -> AsyncIterator[None]:
        """End the call with the status of an error raised inside, and report a refusal."""
        try:
            yield
        except grpc.aio.AbortError:
            raise
        except grpc.aio.InternalError as error:  # the caller is gone
            log.info("%s: a connection was lost: %s", context.peer(), describe(error))
            raise
        except FedmoreError as error:
            if not self.stopping:
                self.tell(await self._gate.name_of(context), call, describe(error))
            await abort(context, error)
        except Exception as error:
            if self.stopping:  # gRPC raises a class without a public name then
                raise
            log.exception("%s of %s failed", call, await self._gate.name_of(context))
            await abort(context, error)
