"""From an invite to a credential: enrolment, and coming back with what it gave."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from fedmore.client.rpc import Link
from fedmore.experts.errors import ConfigError
from fedmore.protos.info import FederationInfo
from fedmore.protos.invite import Invite, read_invite, write_private

__all__ = ["Credential", "Invite", "describe", "enrol", "read_credential", "read_invite"]

FILE = "credential.json"


@dataclass(frozen=True)
class Credential:
    """Who this client is in its federation; kept in the client's state folder, mode 0600."""

    federation: str
    name: str
    address: str
    ca: str | None = field(repr=False)
    credential: str = field(repr=False)
    token_digest: str = field(repr=False)
    node_id: int
    kind: str
    target: str
    rank: int
    info: FederationInfo

    def link(self) -> Link:
        """A link to the coordinator that calls as this client."""
        return Link(self.address, self.ca, self.credential)


def describe(invite: Invite, *, insecure: bool = False) -> FederationInfo:
    """What the federation is, before joining it."""
    _check_security(invite, insecure)
    with Link(invite.address, invite.ca) as link:
        return link.describe()


def enrol(
    invite: Invite,
    state: Path,
    *,
    kind: str,
    target: str,
    rank: int,
    fingerprint: str = "",
    insecure: bool = False,
) -> Credential:
    """Use the invite's token and keep the credential in `state`.

    Where that was done before, come back with what is there. `insecure` allows an invite without
    a certificate.
    """
    _check_security(invite, insecure)
    known = read_credential(state)
    if known is not None and _same(known, invite):
        _check_unchanged(known, kind, target, rank, state)
        return _keep(state, replace(known, address=invite.address))
    invite.check_expiry()
    with Link(invite.address, invite.ca) as link:
        reply = link.enrol(invite.token, invite.name, kind, target, rank, fingerprint)
    credential = Credential(
        federation=invite.federation,
        name=invite.name,
        address=invite.address,
        ca=invite.ca,
        credential=reply.credential,
        token_digest=_digest(invite.token),
        node_id=reply.node_id,
        kind=kind,
        target=target,
        rank=rank,
        info=FederationInfo.from_proto(reply.federation),
    )
    return _keep(state, credential)


def read_credential(state: Path) -> Credential | None:
    """The credential in `state`, if there is one; raises `ConfigError` where it is damaged."""
    path = state / FILE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return Credential(**{**table, "info": FederationInfo(**table["info"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); restore or remove it") from error


def _keep(state: Path, credential: Credential) -> Credential:
    write_private(state / FILE, json.dumps(asdict(credential), indent=2) + "\n")
    return credential


def _same(known: Credential, invite: Invite) -> bool:
    return known.token_digest == _digest(invite.token)


def _check_unchanged(known: Credential, kind: str, target: str, rank: int, state: Path) -> None:
    if (known.kind, known.target, known.rank) != (kind, target, rank):
        raise ConfigError(
            f"{known.name!r} joined to train the {known.kind} {known.target!r} at rank "
            f"{known.rank} ({state / FILE}); run with the same, or ask for another invite"
        )


def _check_security(invite: Invite, insecure: bool) -> None:
    if invite.ca is None and not insecure:
        raise ConfigError("the invite has no certificate; ask for one, or allow insecure")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
