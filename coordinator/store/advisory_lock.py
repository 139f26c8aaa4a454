"""A lock that excludes a second coordinator from a shared database, with a check that it holds."""

import signal
import threading
from collections.abc import Callable
from typing import Self

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from fedmore.experts.errors import TransportError

KEY = 0x6665_646D_0002
"""Key of PostgreSQL's advisory lock for a running coordinator."""
PROBE_S = 2.0
_HELD = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() "
    "AND classid = :high AND objid = :low AND granted"
)


class Lock:
    """The lock of `connection`, checked every `probe_s` seconds.

    If it is lost, `lost` is called with the reason, and the main thread is interrupted if it waits.
    """

    def __init__(
        self, connection: Connection, lost: Callable[[str], None], probe_s: float = PROBE_S
    ) -> None:
        self._connection, self._lost, self._probe_s = connection, lost, probe_s
        self._over = threading.Event()
        self._holder = threading.current_thread()
        self._thread = threading.Thread(target=self._watch, name="lock", daemon=True)

    def __enter__(self) -> Self:
        """Take the lock; raises `TransportError` if another coordinator has it."""
        mine = self._connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": KEY})
        self._connection.commit()  # the lock belongs to the connection, not to the transaction
        if not mine:
            where = self._connection.engine.url.render_as_string()
            raise TransportError(f"{where}: another coordinator is running on this database")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._over.set()
            self._thread.join()
        finally:
            self._connection.invalidate()  # closes it, which releases the lock

    def _watch(self) -> None:
        while not self._over.wait(self._probe_s):
            try:
                held = self._connection.scalar(_HELD, {"high": KEY >> 32, "low": KEY & 0xFFFF_FFFF})
                self._connection.commit()
                reason = "" if held else "the server has given it up"
            except SQLAlchemyError as error:
                reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            if reason:
                self._lost(reason)
                if self._holder is threading.main_thread() and self._holder.ident:
                    signal.pthread_kill(self._holder.ident, signal.SIGINT)
                return
