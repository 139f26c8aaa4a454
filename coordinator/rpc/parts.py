"""What the calls of the service share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmore.coordinator.journal import Journal
from fedmore.coordinator.mailbox import Mailbox
from fedmore.coordinator.rpc.connections import Connections
from fedmore.coordinator.rpc.crowd import Crowd
from fedmore.coordinator.rpc.downloads import Downloads
from fedmore.coordinator.rpc.enrolment import Desk
from fedmore.coordinator.rpc.identity import Gate
from fedmore.coordinator.rpc.refusals import Refusals
from fedmore.coordinator.rpc.traffic import TrafficBook
from fedmore.coordinator.rpc.uploads import Uploads
from fedmore.experts.errors import MembershipError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.info import FederationInfo
from fedmore.strategies.events import Event

if TYPE_CHECKING:
    from fedmore.coordinator.config import FederationConfig
    from fedmore.coordinator.registry import Registry

TRANSFERS = frozenset({"Held", "Upload", "Download"})


@dataclass(frozen=True)
class Parts:
    """One server's state and the seams to the rest of the coordinator."""

    registry: "Registry"
    mailbox: Mailbox
    journal: Journal
    uploads: Uploads
    downloads: Downloads
    connections: Connections
    traffic: TrafficBook
    crowd: Crowd
    gate: Gate
    refusals: Refusals
    desk: Desk
    config: "FederationConfig"
    info: FederationInfo
    emit: Callable[[Event], None]
    news: Callable[[], pb.News | None]

    def expel(self, node_id: int, reason: str) -> None:
        """A member that may not take part any more is gone; what it is sending or fetching ends."""
        self.connections.expel(node_id, reason)
        self.crowd.expel(node_id, MembershipError(f"you were {reason}"), TRANSFERS)
