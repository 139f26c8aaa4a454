"""`coordinator start`: from a folder to a finished federation, or to where it can go on.

The server is up before anything heavy is imported; torch and the rest come while clients join.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

from fedmore.coordinator import registry as registries
from fedmore.coordinator import status
from fedmore.coordinator.checks import check_plan
from fedmore.coordinator.config import FederationConfig
from fedmore.coordinator.console import make_observer
from fedmore.coordinator.federation import (
    EVALUATION,
    MIXTURE,
    Federation,
    open_federation,
    running_alone,
)
from fedmore.coordinator.grid import MailboxGrid
from fedmore.coordinator.invites import PORT, bracketed
from fedmore.coordinator.mailbox import Mailbox
from fedmore.coordinator.rpc.server import Server, serve
from fedmore.coordinator.security import read_pair
from fedmore.coordinator.tracking import MlflowTracker, Tracker
from fedmore.experts.errors import FedmoreError, RoundError
from fedmore.protos.exits import interruptible
from fedmore.protos.info import FederationInfo
from fedmore.protos.status import describe
from fedmore.strategies.events import Event, Joined, Left, Progress

PlanRunner = Callable[..., object]
"""`fedmore.coordinator.app.run_plan`, or what a test puts in its place."""


@dataclass(frozen=True)
class Settings:
    """How to start: `patience_s` limits the wait for clients (None: as long as it takes)."""

    insecure: bool = False
    patience_s: float | None = None


def start(
    directory: Path,
    console: Console,
    settings: Settings | None = None,
    run_plan: PlanRunner | None = None,
) -> None:
    """Run the federation in `directory` to its end; does nothing to one that is finished."""
    with open_federation(directory) as federation, running_alone(directory):
        if federation.registry.get_state(status.PHASE) == status.FINISHED:
            console.print(f"{directory}: this federation is finished; nothing is left to do.")
            console.print("`coordinator init` makes another one in another folder.")
            show_result(federation, console)
            return
        with interruptible(f"`coordinator start {directory}` goes on after the last full round"):
            Run(federation, console, settings or Settings(), run_plan).go()


class Run:
    """One process's part of a federation's life."""

    def __init__(
        self,
        federation: Federation,
        console: Console,
        settings: Settings,
        run_plan: PlanRunner | None,
    ) -> None:
        self._federation = federation
        self._console = console
        self._settings = settings
        self._run_plan = run_plan
        self._mailbox = Mailbox()
        config = federation.config.federation
        self._observer = make_observer(console, config.name, config.clients)
        self._tracker: Tracker = MlflowTracker(federation.directory)

    def go(self) -> None:
        """Serve, wait for the clients, run the plan, let the clients go, show the result."""
        check_plan(self._federation.config)
        try:
            server = self._serve()
            with closing_server(server), self._observer:
                self._announce(server)
                self._run(server)
        except BaseException as error:
            self._note_failure(error)
            raise
        show_result(self._federation, self._console)

    def _run(self, server: Server) -> None:
        registry = self._federation.registry
        run_plan = self._run_plan or import_run_plan()
        self._wait_for_clients()
        registry.set_state(status.PHASE, status.RUNNING)
        self._tracker.start(self._federation.config)
        run_plan(
            grid=MailboxGrid(self._mailbox),
            config=self._federation.config,
            directory=self._federation.directory,
            registry=registry,
            store=self._federation.store,
            tracker=self._tracker,
            observer=self._observer,
        )
        registry.set_state(status.PHASE, status.FINISHED)
        server.finish()
        self._tracker.finish("FINISHED")

    def _serve(self) -> Server:
        directory, config = self._federation.directory, self._federation.config
        tls = None if self._settings.insecure else read_pair(directory, "server")
        server = serve(
            self._federation.registry,
            self._federation.store,
            self._mailbox,
            on_same_port(self._federation),
            info_of(config),
            self._on_event,
            tls=tls,
            insecure=self._settings.insecure,
        )
        self._federation.registry.set_state(PORT, server.port)
        self._federation.registry.set_state(status.PHASE, status.WAITING)
        return server

    def _announce(self, server: Server) -> None:
        config = self._federation.config
        address = f"{bracketed(config.server.host)}:{server.port}"
        safe = "" if not self._settings.insecure else ", INSECURE: no TLS"
        self._observer.say(
            f"ready on {address} ({config.federation.clients} clients expected{safe})"
        )

    def _wait_for_clients(self) -> None:
        count, patience = self._federation.config.federation.clients, self._settings.patience_s
        if self._mailbox.wait_for_nodes(count, patience):
            return
        here = {self._federation.registry.member(n).name for n in self._mailbox.nodes()}
        known = [*self._federation.registry.members(), *self._federation.registry.invited()]
        missing = ", ".join(m.name for m in known if m.name not in here) or "invite more clients"
        raise RoundError(
            f"{len(here)} of {count} clients came within {patience:g} s; missing: {missing}"
        )

    def _on_event(self, event: Event) -> None:
        """From the transport; runs in a thread of its own."""
        self._observer(event)
        if isinstance(event, Joined | Left):
            payload = {k: v for k, v in asdict(event).items() if k != "name"}
            self._federation.registry.add_event(type(event).__name__.lower(), event.name, payload)
        if isinstance(event, Progress):
            self._tracker.client_step(
                event.name,
                loss=event.loss,
                tokens_per_s=event.tokens_per_s,
                tokens=event.tokens,
            )

    def _note_failure(self, error: BaseException) -> None:
        """Leave in the registry how this start ended, and close the tracked run."""
        registry = self._federation.registry
        stopped = isinstance(error, KeyboardInterrupt)
        if registry.get_state(status.PHASE) != status.FINISHED:
            registry.set_state(status.PHASE, status.INTERRUPTED if stopped else status.FAILED)
            registry.set_state("failure", None if stopped else describe(error))
        with suppress(FedmoreError):  # the first error is the one to report
            self._tracker.finish("KILLED" if stopped else "FAILED")


@contextmanager
def closing_server(server: Server) -> Iterator[None]:
    """Stop the server, however it ends."""
    try:
        yield
    finally:
        server.stop()


def import_run_plan() -> PlanRunner:
    """The heavy part: torch, transformers and what is built on them."""
    from fedmore.coordinator.app import run_plan

    # Flower narrates every round on stderr, through the live display; ours says the same.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    runner: PlanRunner = run_plan
    return runner


def on_same_port(federation: Federation) -> FederationConfig:
    """The configuration; where any port will do, with the one that the clients know already."""
    config = federation.config
    port = config.server.port or int(federation.registry.get_state(PORT, 0))
    return replace(config, server=replace(config.server, port=port))


def info_of(config: FederationConfig) -> FederationInfo:
    """What clients are told."""
    base = config.base
    return FederationInfo(
        name=config.federation.name,
        base=base.model,
        fingerprint=base.fingerprint,
        dtype=base.dtype,
        quantization=base.quantization,
        seed=config.federation.seed,
    )


def show_result(federation: Federation, console: Console) -> None:
    """The table of results, and where the files are."""
    directory = federation.directory
    members = federation.registry.members()
    if members:
        console.print(status.members_table([status.member_row(m) for m in members]))
    evaluation = directory / EVALUATION
    if evaluation.is_file():
        console.print(status.evaluation_view(json.loads(evaluation.read_text(encoding="utf-8"))))
    files = [p for p in (directory / MIXTURE, evaluation, directory / "mlflow.db") if p.exists()]
    for path in (*files, directory / registries.FILE):
        console.print(str(path), soft_wrap=True, highlight=False, markup=False)
