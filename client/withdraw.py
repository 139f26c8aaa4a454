"""`client withdraw`: the owner takes its work back."""

from collections.abc import Callable
from pathlib import Path

from fedmore.client.egress.audit_log import Audit
from fedmore.client.identity.enrolment import read_identity, read_invite
from fedmore.experts.errors import ConfigError, PeerError, TransportError


def withdraw(place: Path, reason: str, say: Callable[[str], None], invite: Path | None) -> None:
    """Withdraw the client of the invite `place`, or of the state folder `place` and its `invite`.

    The invite is the second proof: a key that was stolen with its folder takes nothing back.
    """
    from fedmore.client.state.paths import default_state

    proof = invite if place.is_dir() else place
    if proof is None:
        raise ConfigError(
            f"{place}: taking work back for good needs the invite too, as a second proof; give it "
            "with --invite FILE, or ask the operator for `coordinator withdraw`"
        )
    invited = read_invite(proof)
    state = place if place.is_dir() else default_state(invited)
    identity = read_identity(state)
    if identity is None:
        raise ConfigError(f"{state}: no client has joined from there; give its state folder")
    try:
        with Audit(state) as audit, identity.link(audit) as link:
            link.withdraw(reason, invited.token)
    except PeerError:
        raise
    except TransportError as error:
        raise TransportError(
            f"{error}; nothing was withdrawn yet: try again while it runs, or ask its operator to "
            f"run `coordinator withdraw DIR {identity.name}`, which needs no running coordinator"
        ) from error
    say(
        f"{identity.name} has left {identity.federation}: the next aggregate is without its work, "
        "and it cannot come back under this name"
    )
