"""A client remembers that its federation was finished, so that a later start says so at once.

A finished federation can go on with a longer plan, as after a withdrawal. Such a plan is another
one, so the owner is asked about it as about the first.
"""

from dataclasses import replace
from pathlib import Path

from fedmore.client.egress.audit_log import Audit
from fedmore.client.identity.enrolment import Identity, at_address, read_identity
from fedmore.client.identity.keys import secret_digest
from fedmore.client.joining.consent import terms_in
from fedmore.client.owner.agreement import Agreement
from fedmore.experts.errors import PeerError, TokenError, TransportError
from fedmore.protos.enrolment.federation_info import FederationInfo
from fedmore.protos.enrolment.invite import Invite
from fedmore.protos.system.files import write_private

FILE = "finished"
ASK_S = 3.0
"""How long a coordinator may take to say what its plan is now; most are gone after the end."""


def note_finished(identity: Identity) -> None:
    """The coordinator has said that the federation is finished."""
    write_private(identity.state / FILE, identity.token_digest + "\n")


def is_finished(invite: Invite, state: Path) -> bool:
    """Whether the client in `state` was told so, in the federation of this very invite."""
    path = state / FILE
    if not path.is_file():
        return False
    known = read_identity(state)
    here = known is not None and known.token_digest == secret_digest(invite.token)
    return here and path.read_text(encoding="utf-8").strip() == secret_digest(invite.token)


def longer_plan(invite: Invite, state: Path, address: str) -> FederationInfo | None:
    """What the federation is now, if it is there and has another plan than the finished one."""
    identity = read_identity(state)
    if identity is None:
        return None
    there = replace(identity, address=at_address(invite, address, identity).address)
    try:
        with Audit(state) as audit, there.link(audit) as link:
            info = link.describe(ASK_S)
    except (TransportError, PeerError, TokenError):
        return None
    return info if Agreement(state).agreed != terms_in(info) else None


def finished_line(invite: Invite) -> str:
    """What a person is told who joins after the end."""
    return f"{invite.federation} is finished; nothing is left to do for {invite.name}"
