"""The lock that keeps a second coordinator off a shared database, and whether it is still held."""

import signal
import threading
from collections.abc import Callable
from typing import Self

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from fedmore.experts.errors import TransportError

KEY = 0x6665_646D_0002
"""Of PostgreSQL's advisory lock of a running coordinator."""
PROBE_S = 2.0
_HELD = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() "
    "AND classid = :high AND objid = :low AND granted"
)


class Lock:
    """Held by `connection` as long as the server has it; looked after every `probe_s` seconds.

    `lost` hears why it is gone. Then the main thread is interrupted if it is the one that waits.
    """

    def __init__(
        self, connection: Connection, lost: Callable[[str], None], probe_s: float = PROBE_S
    ) -> None:
        self._connection, self._lost, self._probe_s = connection, lost, probe_s
        self._over = threading.Event()
        self._holder = threading.current_thread()
        self._thread = threading.Thread(target=self._watch, name="lock", daemon=True)

    def __enter__(self) -> Self:
        """Take it; raises `TransportError` if another coordinator has it."""
        mine = self._connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": KEY})
        self._connection.commit()  # the lock is the connection's, not the transaction's
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
            self._connection.invalidate()  # closes it, and with it the lock

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
