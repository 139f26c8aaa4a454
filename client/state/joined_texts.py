"""Which text of this machine takes part where, to notice that one text joins twice.

Two members with one text answer every round twice, from two secrets. The record lies in the user's
state folder, whatever `--state` says, and holds digests, never text.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from fedmore.protos.enrolment.invite import Invite
from fedmore.protos.system.files import write_private

FILE = "joined.json"


def twin_of(invite: Invite, documents: Sequence[str], folder: Path | None = None) -> str:
    """The other name under which this text joined this federation; empty if it has none.

    Notes the name of the invite as well. `folder` is the user's state folder by default.
    """
    path = (folder or _default()) / FILE
    known = _read(path)
    key = f"{_authority(invite)}/{digest_of(documents)}"
    names = known.get(key, [])
    if invite.name not in names:
        write_private(path, json.dumps(known | {key: [*names, invite.name]}, indent=1) + "\n")
    return next((name for name in names if name != invite.name), "")


def digest_of(documents: Sequence[str]) -> str:
    """SHA-256 of the documents, whatever their order."""
    each = sorted(hashlib.sha256(d.encode(errors="surrogatepass")).digest() for d in documents)
    return hashlib.sha256(b"".join(each)).hexdigest()


def _authority(invite: Invite) -> str:
    return hashlib.sha256((invite.ca or invite.address).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, list[str]]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): [str(name) for name in names] for key, names in table.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # it warns and protects nothing, so damage is no reason to stop


def _default() -> Path:
    from platformdirs import user_state_path

    return user_state_path("fedmore")
