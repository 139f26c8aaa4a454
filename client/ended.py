"""A client remembers that its federation was finished, so that a later start says so at once."""

from pathlib import Path

from fedmore.client.invite import Identity, read_identity
from fedmore.client.keys import secret_digest
from fedmore.protos.files import write_private
from fedmore.protos.invite import Invite

FILE = "finished"


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


def finished_line(invite: Invite) -> str:
    """What a person is told who comes after the end."""
    return f"{invite.federation} is finished; nothing is left to do for {invite.name}"
