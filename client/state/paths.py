"""Where a client keeps its key and state: a folder of its own for every membership."""

import hashlib
import json
import re
from pathlib import Path

from fedmore.experts.errors import ConfigError
from fedmore.experts.names import check_name
from fedmore.protos.enrolment.invite import Invite

IDENTITY = "identity.json"


def default_state(invite: Invite) -> Path:
    """The client's folder in the user's state directory.

    A federation that was made again under the same name gets another folder, so the key and the
    work of the earlier one stay where they are.
    """
    from platformdirs import user_state_path

    for name in (invite.federation, invite.name):
        check_name(name)
    root = user_state_path("fedmore")
    plain = root / invite.federation / invite.name
    if invite.again:
        return _of_member(plain, invite)
    earlier = root / _tamed(invite.federation) / _tamed(invite.name)
    marked = plain.with_name(f"{invite.name}-{_mark(invite)}")
    if marked.exists():
        return marked
    if earlier != plain and _belongs(earlier, invite):
        return earlier  # from before, when names were written otherwise
    return plain if _is_free(plain, invite) else marked


def _of_member(plain: Path, invite: Invite) -> Path:
    """The folder of a member that has joined, whatever the federation's authority is by now."""
    folders = [plain, *sorted(plain.parent.glob(f"{invite.name}-????????"))]
    found = [folder for folder in folders if _belongs(folder, invite)]
    if len(found) > 1:
        raise ConfigError(
            f"{invite.name!a} has joined federations of the name {invite.federation!a} from "
            f"{' and '.join(map(str, found))}; say with --state which one this is for"
        )
    return found[0] if found else plain


def check_state(state: Path, invite: Invite) -> None:
    """Raise `ConfigError` if `state` is another member's, or of another federation."""
    owner = _owner(state)
    if owner is None or _belongs(state, invite):
        return
    federation, name, _ = owner
    raise ConfigError(
        f"{state} holds the key and the work of {name!a} in another membership of {federation!a}; "
        "keep it, and give another folder with --state"
    )


def _belongs(state: Path, invite: Invite) -> bool:
    """Whether the identity in `state` is of this federation and this name.

    An invite for a member that has joined may come from the federation's next authority.
    """
    owner = _owner(state)
    if owner is not None and invite.again:
        return owner[:2] == (invite.federation, invite.name)
    return owner == (invite.federation, invite.name, invite.ca)


def _is_free(state: Path, invite: Invite) -> bool:
    return _owner(state) is None or _belongs(state, invite)


def _owner(state: Path) -> tuple[str, str, str | None] | None:
    """Federation, name and authority of the identity in `state`; None if there is none yet.

    A damaged file is for `read_identity` to report.
    """
    try:
        table = json.loads((state / IDENTITY).read_text(encoding="utf-8"))
        return table["federation"], table["name"], table["ca"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _mark(invite: Invite) -> str:
    """Eight hex digits that stand for the federation's authority."""
    return hashlib.sha256((invite.ca or "").encode()).hexdigest()[:8]


def _tamed(part: str) -> str:
    return re.sub(r"[^\w-]", "_", part)
