"""`serve`: the federation's gRPC server, in a loop and a thread of its own."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from fedmore.coordinator.mailbox import Mailbox
from fedmore.coordinator.rpc.binding import bind, listen_address, probe
from fedmore.coordinator.rpc.blobs import Blobs
from fedmore.coordinator.rpc.connections import Connections
from fedmore.coordinator.rpc.dispatcher import Dispatcher
from fedmore.coordinator.rpc.parts import Parts
from fedmore.coordinator.rpc.service import FederationService
from fedmore.coordinator.rpc.traffic import TrafficBook
from fedmore.coordinator.security import KeyPair
from fedmore.experts.errors import ConfigError
from fedmore.protos import federation_pb2 as pb
from fedmore.protos import federation_pb2_grpc
from fedmore.protos.chunks import MAX_MESSAGE
from fedmore.protos.info import FederationInfo
from fedmore.strategies.events import Event, Traffic

if TYPE_CHECKING:
    from fedmore.coordinator.config import FederationConfig
    from fedmore.coordinator.registry import Registry
    from fedmore.coordinator.store import Store

log = logging.getLogger(__name__)
SERVICE = pb.DESCRIPTOR.services_by_name["Federation"].full_name
OPTIONS = (
    ("grpc.so_reuseport", 0),  # or a second coordinator would quietly share the port
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
)
TICK_S = 1.0


def serve(
    registry: "Registry",
    store: "Store",
    mailbox: Mailbox,
    config: "FederationConfig",
    info: FederationInfo,
    on_event: Callable[[Event], None],
    *,
    tls: KeyPair | None = None,
    insecure: bool = False,
) -> "Server":
    """Start serving at `config.server`; port 0 takes a free one.

    `on_event` is called from one thread, in order. Raises `TransportError` where the port cannot
    be had.
    """
    if tls is None and not insecure:
        raise ConfigError("no server certificate; run `coordinator init`, or ask for insecure")
    return Server(registry, store, mailbox, config, info, on_event, None if insecure else tls)


class Server:
    """A running server; `port` is the one it listens on."""

    port: int

    def __init__(
        self,
        registry: "Registry",
        store: "Store",
        mailbox: Mailbox,
        config: "FederationConfig",
        info: FederationInfo,
        on_event: Callable[[Event], None],
        tls: KeyPair | None,
    ) -> None:
        self._server_config = config.server
        self._events = Dispatcher(on_event)
        self._connections = Connections(mailbox, self._events.put, config.server.dead_after_s)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="grpc", daemon=True)

        def parts(traffic: TrafficBook) -> Parts:
            return Parts(
                registry=registry,
                mailbox=mailbox,
                blobs=Blobs(store),
                connections=self._connections,
                traffic=traffic,
                config=config,
                info=info,
                emit=self._events.put,
            )

        self._thread.start()
        try:
            self._call(self._start(parts, tls))
        except BaseException:
            self._end_threads()
            raise
        mailbox.subscribe(self._wake)

    def finish(self, timeout: float = 5.0) -> None:
        """Tell every client, and those that come from now on, that the federation is done.

        Waits up to `timeout` seconds for them to hang up.
        """
        self._call(self._connections.finish(timeout))
        self._call(self._account())

    def stop(self) -> None:
        """Cut what is open, write down the last bytes and end the threads; twice does nothing."""
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

    async def _start(self, parts: Callable[[TrafficBook], Parts], tls: KeyPair | None) -> None:
        host, port = self._server_config.host, self._server_config.port
        probe(host, port)
        self._server = grpc.aio.server(options=OPTIONS)
        self.port = bind(self._server, listen_address(host, port), tls)
        self._parts = parts(TrafficBook(self.port))
        add = federation_pb2_grpc.add_FederationServicer_to_server
        add(FederationService(self._parts), self._server)  # type: ignore[no-untyped-call]
        await _add_standard_services(self._server)
        await self._server.start()
        self._tending = asyncio.create_task(self._tend())

    async def _tend(self) -> None:
        tick = min(TICK_S, self._server_config.dead_after_s / 4)
        while True:
            await asyncio.sleep(tick)
            try:
                self._connections.sweep()
                await self._account()
            except Exception:
                log.exception("the server could not write down who is here")

    async def _account(self) -> None:
        fresh, seen = self._parts.traffic.sample(), self._connections.take_seen()
        await asyncio.to_thread(self._write_down, fresh, seen)

    def _write_down(self, fresh: dict[str, tuple[int, int]], seen: set[str]) -> None:
        for name, (up, down) in fresh.items():
            self._parts.registry.add_traffic(name, up, down)
            self._events.put(Traffic(name, up, down))
        for name in seen:
            self._parts.registry.touch(name)

    async def _stop(self) -> None:
        self._tending.cancel()
        await self._server.stop(grace=0.2)
        await self._account()
        self._parts.traffic.close()

    def _end_threads(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(_cancel_the_rest())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        self._events.close()


async def _cancel_the_rest() -> None:
    """Handlers that a stop has cut off: cancelled, and waited for."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _add_standard_services(server: grpc.aio.Server) -> None:
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for name in ("", SERVICE):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
