"""`coordinator start`: from a folder to a finished federation, or to where it can go on.

The server is up before anything heavy is imported; torch and the rest come while clients join.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console

from fedmore.coordinator.config.validation import check_plan
from fedmore.coordinator.folder.create import certificate_hosts
from fedmore.coordinator.folder.federation import (
    Federation,
    info_of,
    open_federation,
    running_alone,
)
from fedmore.coordinator.folder.layout import BLOBS
from fedmore.coordinator.folder.open_journal import open_journal
from fedmore.coordinator.folder.operator_access import tls_of
from fedmore.coordinator.mixture.unfinished_withdrawal import finish_first
from fedmore.coordinator.monitor import status
from fedmore.coordinator.monitor.bulletin import Bulletin
from fedmore.coordinator.monitor.tracker import track
from fedmore.coordinator.pki.tls_files import FOLDER
from fedmore.coordinator.rpc.server import Server, serve
from fedmore.coordinator.run import external_app
from fedmore.coordinator.run.event_log import log_event
from fedmore.coordinator.run.operator_api import FolderOffice
from fedmore.coordinator.run.plan import Plan
from fedmore.coordinator.run.plan_runner import (
    import_plan,
    noting_failure,
    observer_of,
    run_plan,
    tracker_of,
)
from fedmore.coordinator.run.recovery import (
    expected_clients,
    on_same_port,
    recover,
    untold,
    wait_for_clients,
)
from fedmore.coordinator.store import state_keys
from fedmore.coordinator.store.state_keys import DISMISSED, PORT
from fedmore.coordinator.tasks.grid import TaskGrid
from fedmore.coordinator.tasks.queue import TaskQueue
from fedmore.protos.runtime.exits import interruptible
from fedmore.protos.runtime.flower_apps import Value
from fedmore.protos.runtime.logs import TOLD, also, logged
from fedmore.protos.system.files import private_folder
from fedmore.protos.system.hosts import bracketed
from fedmore.strategies.events import Event
from fedmore.strategies.plugins import all_plugins

LOG = "coordinator.log"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How to start: `patience_s` limits the wait for clients (None: as long as it takes).

    `app` and `run_config` replace what the configuration says of a foreign Flower app.
    """

    insecure: bool = False
    patience_s: float | None = None
    app: str = ""
    run_config: Mapping[str, Value] = field(default_factory=dict)


def start(
    directory: Path,
    console: Console,
    settings: Settings | None = None,
    plan: Plan | None = None,
) -> None:
    """Run the federation in `directory` to its end; does nothing to one that is finished."""
    settings = settings or Settings()
    finish_first(directory, state_keys.FINISHED, console)
    with (
        open_federation(directory) as federation,
        running_alone(directory),
        federation.registry.database.alone(),
        logged(directory / LOG),
    ):
        for folder in (FOLDER, BLOBS):
            private_folder(directory / folder)
        if federation.registry.get_state(state_keys.PHASE) == state_keys.FINISHED:
            if not federation.registry.get_state(DISMISSED, False) or untold(federation.registry):
                with interruptible("the federation is finished all the same"):
                    Run(federation, console, settings, plan).dismiss()
            console.print(f"{directory}: this federation is finished; nothing is left to do.")
            console.print("`coordinator init` makes another one in another folder.")
            status.show_result(federation, console)
            return
        wanted = external_app.chosen(federation, settings.app, settings.run_config)
        if (app := wanted.config.federation.app) and plan is None:
            plan = external_app.make_plan(app)
        with interruptible(f"`coordinator start {directory}` goes on where this one stopped"):
            Run(wanted, console, settings, plan).go()


class Run:
    """One process's part of a federation's life."""

    def __init__(
        self,
        federation: Federation,
        console: Console,
        settings: Settings,
        plan: Plan | None,
    ) -> None:
        self._federation = federation
        self._console = console
        self._settings = settings
        self._plan = plan
        self._queue = TaskQueue()
        self._journal = open_journal(federation)
        self._tracker = tracker_of(federation)

    def _expect(self, count: int) -> None:
        """Let the display, and the clients that wait, know of how many clients there will be."""
        config = self._federation.config.federation
        stages = 0 if config.app else len(self._federation.config.stages)
        self._expected = count
        self._observer = observer_of(self._federation, self._console, count)
        self._bulletin = Bulletin(count, stages, self._observer)

    def go(self) -> None:
        """Serve, wait for the clients, run the plan, let the clients go, show the result."""
        config, registry = self._federation.config, self._federation.registry
        for plugin in all_plugins():
            also(log, partial(self._console.print, markup=False, highlight=False))(
                f"plugin: {plugin}"
            )
        check_plan(config)
        with noting_failure(self._federation, self._tracker, self._log_end):
            begun = recover(self._journal, registry)
            self._expect(expected_clients(registry, config.federation.clients, begun))
            server = self._serve()
            with closing_server(server), self._observer:
                registry.set_state(state_keys.PHASE, state_keys.WAITING)
                self._announce(server)
                self._run(server, begun)
        status.show_result(self._federation, self._console)

    def _run(self, server: Server, begun: bool) -> None:
        plan = self._plan or import_plan()
        self._wait_for_clients(begun)
        names = self._federation.registry.name_of
        run_plan(
            self._federation,
            TaskGrid(self._queue, self._journal, names=names),
            self._tracker,
            self._bulletin,
            plan,
            settle=self._journal.settle,
            on_done=partial(self._let_go, server),
        )

    def dismiss(self) -> None:
        """Tell the end to those who were away then, or whom an earlier process had no time for."""
        away = untold(self._federation.registry)
        seconds = self._federation.config.server.heartbeat_timeout_s
        self._expect(len(away))
        with closing_server(self._serve()) as server:
            self._queue.expect(away)
            server.finish()
            if names := ", ".join(sorted(away.values())):
                self._announce(server)
                self._observer.say(f"waiting up to {seconds:g} s to tell the end to {names}")
            self._queue.wait_for_expected(seconds)
            self._let_go(server)

    def _let_go(self, server: Server) -> None:
        self._journal.clear()
        server.finish()
        self._federation.registry.set_state(DISMISSED, True)

    def _serve(self) -> Server:
        config = self._federation.config
        insecure = self._settings.insecure
        server = serve(
            self._federation.registry,
            self._journal,
            self._queue,
            on_same_port(self._federation),
            info_of(config),
            self._on_event,
            tls=None if insecure else tls_of(self._federation, certificate_hosts(config)),
            insecure=insecure,
            office=FolderOffice(self._federation),
            news=self._bulletin.news,
        )
        self._federation.registry.set_state(PORT, server.port)
        return server

    def _announce(self, server: Server) -> None:
        host, count = self._federation.config.server.host, self._expected
        safe = ", INSECURE: no TLS" if self._settings.insecure else ""
        expected = f"{count} client{'s' * (count != 1)} expected{safe}"
        also(log, self._observer.say)(f"ready on {bracketed(host)}:{server.port} ({expected})")

    def _wait_for_clients(self, begun: bool) -> None:
        """For all of them; a plan that had begun goes on without those who are long in coming."""
        registry, patience = self._federation.registry, self._settings.patience_s
        rejoin = self._federation.config.server.rejoin_timeout_s if begun else None
        wait_for_clients(self._queue, registry, self._expected, patience, rejoin)

    def _on_event(self, event: Event) -> None:
        """From the transport; runs in a thread of its own."""
        self._bulletin(event)
        log_event(self._federation.registry, event)
        track(self._tracker, event)

    def _log_end(self, reason: str) -> None:
        log.error("ended: %s", reason, extra=TOLD)


@contextmanager
def closing_server(server: Server) -> Iterator[Server]:
    """Stop the server, however it ends."""
    try:
        yield server
    finally:
        server.stop()
