"""Engine `grpc`: one coordinator process and one process per client, on this machine's loopback.

These are the operator's and the owners' programs, started with the same commands.
"""

import sys
import time
from dataclasses import replace

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.config.sections import ServerSection
from fedmore.coordinator.folder.create import create
from fedmore.coordinator.folder.invites import write_invite
from fedmore.experts.errors import RoundError
from fedmore.sims.engines.prepare import Prepared
from fedmore.sims.engines.processes import (
    POLL_S,
    Child,
    Processes,
    ended_by_signals,
    free_port,
    quiet_environment,
    wait_for_port,
)
from fedmore.sims.scenarios.scenario import ClientSpec

CLIENTS_END_S = 30.0


def run(prepared: Prepared) -> None:
    """Run the whole plan; raises `RoundError` with the cause if a program ends early.

    The coordinator uses this terminal; each client writes to `client.log` in its folder. All
    processes are ended, also after an error.
    """
    server = establish(prepared)
    with ended_by_signals(), Processes(quiet_environment()) as processes:
        coordinator = processes.start("the coordinator", coordinator_command(prepared))
        wait_for_port(coordinator, server.host, server.port)
        clients = [
            processes.start(
                f"client {client.name}",
                client_command(prepared, client),
                prepared.folder(client) / "client.log",
            )
            for client in prepared.scenario.clients
        ]
        watch(coordinator, clients)
        processes.wait(CLIENTS_END_S)


def establish(prepared: Prepared) -> ServerSection:
    """Create the federation and an invite for every client; returns the server's address."""
    config = create(prepared.directory, with_port(prepared.config), print)
    for client in prepared.scenario.clients:
        write_invite(prepared.directory, client.name, prepared.folder(client) / "invite.json")
    return config.server


def with_port(config: FederationConfig) -> FederationConfig:
    """Choose a free port unless the scenario names one.

    Invites need it before the server starts.
    """
    server = config.server
    chosen = replace(server, port=server.port or free_port(server.host))
    return replace(config, server=chosen)


def coordinator_command(prepared: Prepared) -> list[str]:
    """The command `coordinator start DIR` with this Python."""
    return [sys.executable, "-m", "fedmore.coordinator.cli.main", "start", str(prepared.directory)]


def client_command(prepared: Prepared, client: ClientSpec) -> list[str]:
    """The command `client join INVITE` with the client's text, base and target."""
    folder = prepared.folder(client)
    target = "--domain" if client.kind == "expert" else "--language"
    command = [sys.executable, "-m", "fedmore.client.cli.main", "join", str(folder / "invite.json")]
    command += ["--data", str(prepared.data(client)), "--state", str(folder / "state")]
    command += ["--base", prepared.config.base.model]
    command += ["--policy", str(prepared.policy(client)), "--yes"]
    return [*command, target, client.target, "--rank", str(client.rank)]


def watch(coordinator: Child, clients: list[Child]) -> None:
    """Wait for the coordinator's success; raise `RoundError` as soon as any program fails."""
    while coordinator.process.poll() is None:
        for client in clients:
            if client.process.poll():
                raise RoundError(failure(client))
        time.sleep(POLL_S)
    if coordinator.process.returncode:
        raise RoundError(failure(coordinator))


def failure(child: Child) -> str:
    """Name a program that failed, with its exit code and the end of its log."""
    said = f"; the end of {child.log}:\n{child.tail()}" if child.log else "; its message is above"
    return f"{child.name} ended with exit code {child.process.returncode}{said}"
