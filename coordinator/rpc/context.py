"""The state that all calls of the services share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmore.coordinator.rpc.auth import Authenticator
from fedmore.coordinator.rpc.blobs.downloads import Downloads
from fedmore.coordinator.rpc.blobs.uploads import Uploads
from fedmore.coordinator.rpc.connections import Connections
from fedmore.coordinator.rpc.enrolment import EnrolmentService
from fedmore.coordinator.rpc.limits.call_limits import CallLimiter
from fedmore.coordinator.rpc.refusals import Refusals
from fedmore.coordinator.rpc.traffic import TrafficBook
from fedmore.coordinator.tasks.journal import Journal
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.experts.errors import MembershipError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.enrolment.federation_info import FederationInfo
from fedmore.strategies.events import Event

if TYPE_CHECKING:
    from fedmore.coordinator.config.schema import FederationConfig
    from fedmore.coordinator.store.registry import Registry

TRANSFERS = frozenset({"Held", "Upload", "Download"})


@dataclass(frozen=True)
class ServerContext:
    """One server's state, and its interfaces to the rest of the coordinator."""

    registry: "Registry"
    queue: TaskQueue
    journal: Journal
    uploads: Uploads
    downloads: Downloads
    connections: Connections
    traffic: TrafficBook
    crowd: CallLimiter
    gate: Authenticator
    refusals: Refusals
    desk: EnrolmentService
    config: "FederationConfig"
    info: FederationInfo
    emit: Callable[[Event], None]
    news: Callable[[], pb.News | None]

    def expel(self, node_id: int, reason: str) -> None:
        """Remove an excluded member, and end its transfers."""
        self.connections.expel(node_id, reason)
        self.crowd.expel(node_id, MembershipError(f"you were {reason}"), TRANSFERS)
