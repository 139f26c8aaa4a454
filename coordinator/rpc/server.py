"""Starts the federation's gRPC server, with its own thread and event loop."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import grpc

from fedmore.coordinator.pki.tls_files import Tls
from fedmore.coordinator.rpc.auth import Authenticator
from fedmore.coordinator.rpc.blobs.downloads import Downloads
from fedmore.coordinator.rpc.blobs.uploads import Limits, Uploads
from fedmore.coordinator.rpc.connections import Connections
from fedmore.coordinator.rpc.context import ServerContext
from fedmore.coordinator.rpc.descriptors import raise_descriptors
from fedmore.coordinator.rpc.enrolment import EnrolmentService
from fedmore.coordinator.rpc.event_dispatcher import Dispatcher
from fedmore.coordinator.rpc.federation_service import FederationService
from fedmore.coordinator.rpc.health import NAME as HEALTH_SERVICE
from fedmore.coordinator.rpc.health import Health
from fedmore.coordinator.rpc.housekeeping import Tender
from fedmore.coordinator.rpc.limits.call_interceptor import CallGuard
from fedmore.coordinator.rpc.limits.call_limits import CallLimiter
from fedmore.coordinator.rpc.limits.connection_limits import Doorkeeper
from fedmore.coordinator.rpc.listen import bind, listen_address, probe
from fedmore.coordinator.rpc.operator_service import OperatorApi, OperatorService
from fedmore.coordinator.rpc.reflection import add_reflection
from fedmore.coordinator.rpc.refusals import Refusals
from fedmore.coordinator.rpc.server_options import OPTIONS, RPCS
from fedmore.coordinator.rpc.traffic import TrafficBook
from fedmore.coordinator.tasks.journal import Journal
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.experts.errors import ConfigError, TransportError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos import federation_pb2_grpc
from fedmore.protos.enrolment.federation_info import FederationInfo
from fedmore.protos.enrolment.invite import is_loopback
from fedmore.strategies.events import Event

if TYPE_CHECKING:
    from fedmore.coordinator.config.schema import FederationConfig
    from fedmore.coordinator.store.registry import Registry

log = logging.getLogger(__name__)
SERVICE = pb.DESCRIPTOR.services_by_name["Federation"].full_name
ENDING_S = 3.0
"""Seconds that calls may take to end when the server stops."""
OPERATOR_SERVICE = pb.DESCRIPTOR.services_by_name["Operator"].full_name


def serve(
    registry: "Registry",
    journal: Journal,
    queue: TaskQueue,
    config: "FederationConfig",
    info: FederationInfo,
    on_event: Callable[[Event], None],
    *,
    tls: Tls | None = None,
    insecure: bool = False,
    office: OperatorApi | None = None,
    limits: Limits | None = None,
    news: Callable[[], pb.News | None] = lambda: None,
) -> "Server":
    """Start serving at `config.server`; port 0 takes a free one.

    It raises the process's soft limit of descriptors, since every connection needs one. Raises
    `TransportError` if the port cannot be opened. Raises `ConfigError` without TLS, unless
    `insecure` is set and only this machine can connect.

    Args:
        registry: the federation's registry.
        journal: the journal of tasks.
        queue: the queue of tasks.
        config: the federation's configuration.
        info: its description for clients.
        on_event: is called with each event, in order, from one thread.
        tls: the server's certificates.
        insecure: whether to serve without TLS.
        office: answers operators, who need TLS.
        limits: limits of uploads.
        news: returns the progress of the plan.

    """
    if tls is None and not insecure:
        raise ConfigError("no server certificate; run `coordinator init`, or ask for insecure")
    if insecure and not is_loopback(config.server.host):
        raise ConfigError(
            f"--insecure is for this machine alone, and server.host is {config.server.host}"
        )
    raise_descriptors()
    return Server(
        registry,
        journal,
        queue,
        config,
        info,
        on_event,
        None if insecure else tls,
        office,
        limits,
        news,
    )


class Server:
    """A running server; `port` is the one it listens on."""

    port: int

    def __init__(
        self,
        registry: "Registry",
        journal: Journal,
        queue: TaskQueue,
        config: "FederationConfig",
        info: FederationInfo,
        on_event: Callable[[Event], None],
        tls: Tls | None,
        office: OperatorApi | None,
        limits: Limits | None,
        news: Callable[[], pb.News | None],
    ) -> None:
        self._office = office
        self._server_config = config.server
        self._events = Dispatcher(on_event)
        barred = registry.barred()
        queue.expect(m.node_id for m in registry.members() if m.node_id not in barred)
        self._connections = Connections(queue, self._events.put, config.server.heartbeat_timeout_s)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="grpc", daemon=True)

        def parts(traffic: TrafficBook) -> ServerContext:
            crowd = CallLimiter(traffic.meter.hang_up if traffic.meter else None)
            gate = Authenticator(registry, traffic, crowd, insecure=tls is None)
            return ServerContext(
                registry=registry,
                queue=queue,
                journal=journal,
                uploads=Uploads(journal, limits or Limits(member=config.server.upload_bytes)),
                downloads=Downloads(journal),
                connections=self._connections,
                traffic=traffic,
                crowd=crowd,
                gate=gate,
                refusals=Refusals(gate, self._events.put),
                desk=EnrolmentService(registry, config, info, tls.ca if tls else None),
                config=config,
                info=info,
                emit=self._events.put,
                news=news,
            )

        self._thread.start()
        try:
            self._call(self._start(parts, tls))
        except BaseException:
            self._end_threads()
            raise
        queue.subscribe(self._wake)

    def finish(self, timeout: float = 5.0) -> None:
        """Tell all clients, also new ones, that the federation is finished.

        Waits up to `timeout` seconds for them to disconnect.
        """
        self._call(self._health.end())
        self._call(self._connections.finish(timeout))
        self._call(self._tender.account())

    def stop(self) -> None:
        """Cut open calls, record the last traffic and end the threads; may be called twice."""
        if self._thread.is_alive():
            try:
                self._call(self._stop())
            finally:
                self._end_threads()

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _wake(self, node_id: int) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._connections.wake, node_id)

    async def _start(self, parts: Callable[[TrafficBook], ServerContext], tls: Tls | None) -> None:
        host, port = self._server_config.host, self._server_config.port
        probe(host, port)
        guard = CallGuard()
        self._server = grpc.aio.server(
            interceptors=(guard,), options=OPTIONS, maximum_concurrent_rpcs=RPCS
        )
        self.port = bind(self._server, listen_address(host, port), tls)
        self._parts = parts(TrafficBook(self.port))
        guard.parts = self._parts
        meter = self._parts.traffic.meter
        doors = Doorkeeper(meter, self._parts.crowd) if meter else None
        add = federation_pb2_grpc.add_FederationServicer_to_server
        add(FederationService(self._parts), self._server)  # type: ignore[no-untyped-call]
        services = [SERVICE]
        if self._office is not None and tls is not None:
            serve_operators = federation_pb2_grpc.add_OperatorServicer_to_server
            service = OperatorService(self._parts, self._office)
            serve_operators(service, self._server)  # type: ignore[no-untyped-call]
            services.append(OPERATOR_SERVICE)
        self._health = Health(self._parts.registry, self._parts.uploads, services)
        await self._health.add_to(self._server)
        names = (*services, HEALTH_SERVICE)
        add_reflection(self._server, self._parts.refusals, self._parts.gate, names)
        await self._server.start()
        self._tender = Tender(self._parts, doors, self._health)
        self._tending = asyncio.create_task(self._tender.run())

    async def _stop(self) -> None:
        self._tending.cancel()
        self._connections.stopping = self._parts.refusals.stopping = True
        await self._health.end()
        await self._end_calls()
        await self._server.stop(grace=0.2)
        await self._tender.account()

    async def _end_calls(self) -> None:
        """End each call with a message, since gRPC would cancel it at any point."""
        crowd, until = self._parts.crowd, self._loop.time() + ENDING_S
        crowd.end(TransportError("the coordinator was stopped; it may be started again"))
        while crowd.calls() and self._loop.time() < until:
            await asyncio.sleep(0.01)

    def _end_threads(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(_cancel_the_rest())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        self._events.close()


async def _cancel_the_rest() -> None:
    """Cancel handlers that a stop left running, and wait for them."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
