"""The plan that an owner has agreed to, kept in the client's state folder.

`plan.json` is what the owner accepted, `plan.offered.json` what the coordinator has offered since
and the owner has not accepted yet (`client accept`).
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fedmore.client.owner.policy import OwnerPolicy
from fedmore.experts.errors import ConfigError, EgressError, WireError
from fedmore.protos.system.files import write_private
from fedmore.strategies.terms import Terms, changes, read_terms

PLAN = "plan.json"
OFFERED = "plan.offered.json"


def read_plan(path: Path, plugins: Collection[str] = ()) -> Terms:
    """The terms in a file, read as `read_terms` does; raises `ConfigError` for anything else."""
    try:
        return read_terms(path.read_text(encoding="utf-8"), plugins)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (WireError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Agreement:
    """What is agreed and what is offered, below the folder `state`.

    `plugins` are those that the owner has allowed; a stage of any other is left unread.
    """

    state: Path
    plugins: tuple[str, ...] = ()

    @property
    def agreed(self) -> Terms | None:
        """The terms that the owner accepted; None before that."""
        path = self.state / PLAN
        return read_plan(path, self.plugins) if path.is_file() else None

    @property
    def offered(self) -> Terms | None:
        """The terms that wait for the owner's word; None if there are no such terms."""
        path = self.state / OFFERED
        return read_plan(path, self.plugins) if path.is_file() else None

    def accept(self, terms: Terms) -> None:
        """Keep the terms as agreed; nothing waits any more."""
        write_private(self.state / PLAN, terms.dump() + "\n")
        (self.state / OFFERED).unlink(missing_ok=True)

    def offer(self, terms: Terms, policy: OwnerPolicy) -> list[str]:
        """Compare terms that came with the agreed ones: lines about what waits for the owner.

        A policy whose consent is "bounds" accepts them at once if they are inside its bounds.
        """
        agreed = self.agreed
        if agreed == terms:
            (self.state / OFFERED).unlink(missing_ok=True)
            return []
        found = changes(agreed, terms) if agreed else ["there is no plan yet that was agreed to"]
        if policy.consent == "bounds" and not excess(terms, policy):
            self.accept(terms)
            return []
        write_private(self.state / OFFERED, terms.dump() + "\n")
        return found


def excess(terms: Terms, policy: OwnerPolicy) -> list[str]:
    """What of the terms is out of the owner's bounds; nothing if they are inside."""
    found = [line for stage in terms.stages for line in policy.excess(stage.kind, stage)]
    return found + policy.strangers(terms.plugins())


def check_bounds(terms: Terms, policy: OwnerPolicy) -> None:
    """Raise `EgressError` for terms outside the owner's bounds."""
    if found := excess(terms, policy):
        raise EgressError(f"the plan is out of the owner's bounds: {'; '.join(found)}")
