"""What operators may do: from the federation's folder, or by an access file and over gRPC."""

import logging
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmore.coordinator.config.schema import load_config
from fedmore.coordinator.folder import recovery_rounds, withdrawals_begun
from fedmore.coordinator.folder.federation import (
    Federation,
    is_running,
    open_federation,
    running_alone,
)
from fedmore.coordinator.folder.invites import check_out, make_invite, write_invite, write_out
from fedmore.coordinator.folder.operator_access import list_own, local_access, read_access
from fedmore.coordinator.lineage.promotion import in_use
from fedmore.coordinator.mixture.unfinished_withdrawal import finish
from fedmore.coordinator.monitor import status as states
from fedmore.coordinator.pki.tls_files import OPERATOR
from fedmore.coordinator.store import state_keys
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import OPERATORS, WITHDRAWN_BY_OPERATOR
from fedmore.experts.errors import ConfigError, TransportError

if TYPE_CHECKING:
    from fedmore.coordinator.rpc.operator_client import Remote

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderOffice:
    """What the running coordinator answers its operators with."""

    federation: Federation

    def status(self) -> dict[str, Any]:
        """What `coordinator status --json` prints."""
        return states.status(self.federation)

    def invite(self, name: str, expires_s: float) -> str:
        """An invite file's text."""
        return make_invite(self.federation, name, insecure=False, expires_s=expires_s).text()

    def stop(self, reason: str) -> None:
        """End this process as Ctrl-C does.

        By SIGTERM, which ends in the same place: a shell starts its background jobs deaf to SIGINT.
        """
        log.warning("an operator stops the coordinator: %s", reason or "no reason given")
        os.kill(os.getpid(), signal.SIGTERM)


def status(place: Path) -> dict[str, Any]:
    """Who takes part and how far the plan is; `place` is the folder or an access file."""
    if place.is_file():
        with _remote(place) as remote:
            return remote.status()
    with open_federation(place) as federation:
        return states.status(federation)


def app_of(place: Path) -> str:
    """The foreign Flower app of the federation, `module:object`; empty for a plan of ours."""
    if place.is_file():
        return str(status(place).get("app", ""))
    return load_config(place).federation.app


@dataclass(frozen=True)
class Withdrawal:
    """What a withdrawal did: what became of experts, whether a mixture is gone.

    `left` is the number of experts that a mixture could be made of.

    `evidence` is the signed file that says what was removed.

    `running` is whether a coordinator runs, which then does all of it at its next aggregate.
    `recovers` are the experts whose owners are to train on, by kind of stage.
    """

    running: bool = False
    recovers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    told: Mapping[str, Sequence[str]] = field(default_factory=dict)
    left: int = 0
    mixture: bool = False
    evidence: Path | None = None


def withdraw(directory: Path, name: str, reason: str, recover: int = 0) -> Withdrawal:
    """Write down that `name` takes its work back, and take it out of everything that is here.

    A coordinator that runs does that itself, unless its plan is finished. With `recover` the
    remaining owners of an expert that is worse without it are to train for so many rounds more.
    Finishes what an earlier command was killed in.
    """
    with open_federation(directory) as federation:
        registry = federation.registry
        if is_running(directory) and registry.get_state(state_keys.PHASE) != state_keys.FINISHED:
            registry.withdraw(
                name, reason, withdrawals_begun.asked(recover) | _by_operator(registry, name)
            )
            return Withdrawal(running=True)
        mark = withdrawals_begun.mark(registry, name, recover) | _by_operator(registry, name)
        registry.withdraw(name, reason, mark)
        from fedmore.coordinator.lineage.evidence import path_of
        from fedmore.coordinator.mixture.withdrawal import outcomes

        changed, mixture = finish(federation)
        return Withdrawal(
            told=outcomes(registry, changed),
            recovers=recovery_rounds.ahead(federation.config, registry) if changed else {},
            left=len(in_use(registry)),
            mixture=mixture,
            evidence=path_of(federation, name),
        )


def _by_operator(registry: Registry, name: str) -> dict[str, list[str]]:
    """The state that says whose withdrawal an operator has begun, and not its owner."""
    known = registry.get_state(WITHDRAWN_BY_OPERATOR, [])
    mine = set() if name in registry.withdrawn() else {name}
    return {WITHDRAWN_BY_OPERATOR: sorted({*known, *mine})}


def invite(
    place: Path, name: str, out: Path, *, insecure: bool, expires_s: float, again: bool = False
) -> None:
    """Write an invite for `name` to `out`; with `again`, for one who has joined already."""
    if not place.is_file():
        write_invite(place, name, out, insecure=insecure, expires_s=expires_s, again=again)
        return
    if insecure or again:
        option = "--insecure" if insecure else "--again"
        raise ConfigError(f"{option} goes with the federation's folder, on the same machine")
    check_out(out)
    with _remote(place) as remote:
        write_out(out, remote.invite(name, expires_s))


def revoke(place: Path, name: str, reason: str) -> None:
    """Let `name` take part no more.

    From the folder too that holds at once: every call looks into the registry, and a coordinator
    that runs ends the member's stream within a second.
    """
    if place.is_file():
        with _remote(place) as remote:
            remote.revoke(name, reason)
    else:
        with open_federation(place) as federation:
            federation.registry.revoke(name, reason)


def stop(place: Path, reason: str) -> None:
    """End the coordinator that runs there."""
    if not place.is_file() and not is_running(place):
        raise TransportError(f"{place}: no coordinator is running on this federation")
    try:
        with _remote(place) as remote:
            remote.stop(reason)
    except TransportError as error:
        raise TransportError(f"{error}; one that was started --insecure stops by Ctrl-C") from error


def check_health(place: Path) -> None:
    """Raise `TransportError` unless a coordinator answers there."""
    with _remote(place) as remote:
        remote.check_health()


def renew(directory: Path) -> None:
    """New certificates for the server and the folder's operator; the operator's old one ends."""
    from fedmore.coordinator.folder.create import certificate_hosts
    from fedmore.coordinator.pki.tls_files import make_tls, read_authority

    with open_federation(directory) as federation:
        read_authority(directory)  # alone: the others may be lost, or not fit
        config = federation.config
        make_tls(directory, config.federation.name, certificate_hosts(config))
        list_own(directory, federation.registry)


def roll(directory: Path) -> list[str]:
    """Put another authority in place of the present one; the members who need another invite."""
    from fedmore.coordinator.folder.create import certificate_hosts
    from fedmore.coordinator.pki import authority
    from fedmore.coordinator.pki.tls_files import make_tls

    with open_federation(directory) as federation, running_alone(directory):
        config, registry = federation.config, federation.registry
        authority.roll(directory, config.federation.name)
        make_tls(directory, config.federation.name, certificate_hosts(config))
        registry.set_state(OPERATORS, {})
        list_own(directory, registry)
        registry.add_event("access", OPERATOR, {"call": "another authority"})
        return [member.name for member in registry.members() if not member.barred]


def _remote(place: Path) -> "Remote":
    from fedmore.coordinator.rpc.operator_client import Remote

    return Remote(read_access(place) if place.is_file() else local_access(place))
