"""What the calls of the service share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmore.coordinator.mailbox import Mailbox
from fedmore.coordinator.rpc.blobs import Blobs
from fedmore.coordinator.rpc.connections import Connections
from fedmore.coordinator.rpc.traffic import TrafficBook
from fedmore.protos.info import FederationInfo
from fedmore.strategies.events import Event

if TYPE_CHECKING:
    from fedmore.coordinator.config import FederationConfig
    from fedmore.coordinator.registry import Registry


@dataclass(frozen=True)
class Parts:
    """One server's state and the seams to the rest of the coordinator."""

    registry: "Registry"
    mailbox: Mailbox
    blobs: Blobs
    connections: Connections
    traffic: TrafficBook
    config: "FederationConfig"
    info: FederationInfo
    emit: Callable[[Event], None]
