"""Finishes a withdrawal in which a command was killed."""

from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from fedmore.coordinator.folder import recovery_rounds
from fedmore.coordinator.folder.federation import Federation, open_federation, running_alone
from fedmore.coordinator.folder.layout import MIXTURE
from fedmore.coordinator.folder.open_journal import open_journal
from fedmore.coordinator.folder.withdrawals_begun import NONE, begun, unfinished
from fedmore.coordinator.store.state_keys import PHASE, WITHDRAWALS_BEGUN
from fedmore.experts.errors import RegistryError


def finish(federation: Federation, *, forget: bool = True) -> tuple[list[str], bool]:
    """Remove the part of every withdrawn owner from everything that is here.

    Returns the experts that this command, or the killed one, has changed, and whether a mixture had
    to be removed. With `forget` off the mixture stays for `assemble` to continue from; its mark
    keeps every other command from using it. No round may be running.
    """
    from fedmore.coordinator.mixture.withdrawal import leave_out

    registry = federation.registry
    experts = set(registry.get_state(WITHDRAWALS_BEGUN, NONE)["experts"])
    asked = recovery_rounds.asked_for(federation.config, registry)
    changed = leave_out(federation.with_config(asked))
    open_journal(federation).ledger.sweep()
    outdated = forget and forget_outdated(federation)
    registry.set_state(WITHDRAWALS_BEGUN, NONE)
    return sorted({*experts, *changed}), outdated


def forget_outdated(federation: Federation) -> bool:
    """Remove the mixture unless it was made without everybody who has withdrawn."""
    # `coordinator start` is ready before it imports torch, which these bring.
    from fedmore.coordinator.mixture.validity import check_current
    from fedmore.experts.mixture.checkpoint import forget_mixture

    folder = federation.directory / MIXTURE
    try:
        check_current(federation.directory, folder, federation.registry)
    except RegistryError:  # it is outdated, or not whole
        return forget_mixture(folder)
    return False


def finish_first(directory: Path, finished: str, console: Console) -> None:
    """Finish a withdrawal in which a command was killed, before a coordinator serves.

    A plan whose phase is `finished` forms no further aggregate that could leave the part out.
    """
    with ExitStack() as stack:
        federation = stack.enter_context(open_federation(directory))
        stack.enter_context(running_alone(directory))
        stack.enter_context(federation.registry.database.alone())
        over = federation.registry.get_state(PHASE) == finished
        names = (unfinished if over else begun)(federation.registry)
        if names:
            console.print(f"{directory}: first the withdrawal of {', '.join(names)} is finished")
            finish(federation)
