"""A certificate is renewed when less than a third of its time is left."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Self

from fedmore.client.identity.enrolment import Identity, keep
from fedmore.client.identity.keys import expiry, signing_request
from fedmore.client.transport.channel import Link
from fedmore.experts.errors import FedmoreError

EVERY_S = 3600.0
log = logging.getLogger(__name__)


def is_due(certificate: str, now: datetime | None = None) -> bool:
    """Whether less than a third of the certificate's time is left."""
    start, end = expiry(certificate)
    return end - (now or datetime.now(UTC)) < (end - start) / 3


def renew(identity: Identity, link: Link) -> Identity:
    """Get and keep a fresh certificate; `link` calls with it from now on."""
    certificate = link.renew(signing_request(identity.key, identity.name))
    fresh = keep(replace(identity, certificate=certificate))
    link.use(fresh.keys)
    return fresh


class Renewal:
    """Looks at the certificate at once and every hour, in a thread, as long as it is entered."""

    def __init__(
        self,
        identity: Identity,
        link: Link,
        on_status: Callable[[str], None],
        every_s: float = EVERY_S,
    ) -> None:
        self._identity = identity
        self._link = link
        self._on_status = on_status
        self._every_s = every_s
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renewal", daemon=True)

    def __enter__(self) -> Self:
        if self._identity.certificate is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()

    def _run(self) -> None:
        while True:
            self._look()
            if self._left.wait(self._every_s):
                return

    def _look(self) -> None:
        certificate = self._identity.certificate
        if certificate is None or not is_due(certificate):
            return
        try:
            self._identity = renew(self._identity, self._link)
        except FedmoreError as error:  # there is time: a third of it, and a try every hour
            log.warning("the certificate could not be renewed: %s", error)
        except ValueError:  # gRPC's, of a link that was closed at this moment
            if not self._left.is_set():
                raise
        else:
            self._on_status("the certificate was renewed")
