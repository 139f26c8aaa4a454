"""From an invite to membership: enrolment, and coming back as who one is.

The key is made and kept before it is enrolled, so an answer that was lost can be asked for again.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from fedmore.client.identity.keys import expiry, own_key, own_secret, secret_digest, signing_request
from fedmore.client.state.paths import IDENTITY, check_state
from fedmore.client.transport.audited_stub import Recorder
from fedmore.client.transport.channel import UNRECORDED, Link
from fedmore.client.transport.credentials import Keys, invite_keys
from fedmore.experts.errors import ConfigError, TokenError
from fedmore.experts.ranks import described
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.enrolment.federation_info import FederationInfo
from fedmore.protos.enrolment.invite import Invite, host_of, is_loopback, read_invite
from fedmore.protos.system.files import write_private
from fedmore.protos.system.hosts import address as address_of

__all__ = [
    "Identity",
    "Invite",
    "describe",
    "enrol",
    "keep",
    "keep_plan",
    "read_identity",
    "read_invite",
]

FILE = IDENTITY
_UNSAID = ("key", "state")


@dataclass(frozen=True)
class Identity:
    """Who this client is in its federation; kept in its `state` folder, the key in its own file.

    `ca` and `certificate` are PEM; without TLS they are null and `key` is the secret. `address` is
    where the coordinator is, and `invited` where the invite said so. `ranks` is the pattern of its
    ranks, of which `rank` is the largest; empty if all are `rank`.
    """

    federation: str
    name: str
    address: str
    ca: str | None = field(repr=False)
    certificate: str | None = field(repr=False)
    token_digest: str = field(repr=False)
    node_id: int
    kind: str
    target: str
    rank: int
    info: FederationInfo
    key: str = field(repr=False)
    state: Path
    invited: str = ""
    ranks: str = ""

    @property
    def keys(self) -> Keys | None:
        """What it connects with; None without TLS."""
        if self.ca is None or self.certificate is None:
            return None
        return Keys(self.ca, self.certificate, self.key)

    def link(self, audit: Recorder = UNRECORDED) -> Link:
        """A link that calls as this client; raises `TokenError` once its certificate expired."""
        if self.keys is None:
            return Link(self.address, None, self.key, audit)
        _, end = expiry(self.keys.certificate)
        if end <= datetime.now(UTC):
            raise TokenError(
                f"the certificate of {self.name!r} expired {end:%Y-%m-%d %H:%M} UTC, while this "
                "client was away; ask the operator for an invite under another name"
            )
        return Link(self.address, self.keys, audit=audit)


def describe(
    invite: Invite, *, insecure: bool = False, audit: Recorder = UNRECORDED
) -> FederationInfo:
    """What the federation is, before joining it."""
    _check_security(invite, insecure)
    with Link(invite.address, invite_keys(invite), audit=audit) as link:
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
    audit: Recorder = UNRECORDED,
    address: str = "",
    ranks: str = "",
) -> Identity:
    """Use the invite's token, for the key in `state`, and keep there who this client is now.

    If that was done before, come back with what is there. `insecure` is for an invite without TLS,
    and for no other. `address` is where the coordinator is if not where the invite says: it is
    remembered until another is given, or an invite with another.
    """
    check_state(state, invite)
    known = read_member(state, invite)
    invited, invite = invite.address, at_address(invite, address, known)
    _check_security(invite, insecure)
    if known is not None:
        _check_unchanged(known, kind, target, rank, ranks)
        return keep(replace(known, address=invite.address, invited=invited))
    invite.check_expiry()
    key = own_secret(state) if insecure else own_key(state)
    identity = secret_digest(key) if insecure else signing_request(key, invite.name)
    request = pb.EnrolRequest(
        token=invite.token,
        name=invite.name,
        kind=kind,
        target=target,
        rank=rank,
        fingerprint=fingerprint,
        identity=identity,
        ranks=ranks,
    )
    with Link(invite.address, invite_keys(invite), audit=audit) as link:
        reply = link.enrol(request)
    _check_same(read_identity(state), reply.node_id)
    made = Identity(
        federation=invite.federation,
        name=invite.name,
        address=invite.address,
        ca=invite.ca,
        certificate=reply.certificate or None,
        token_digest=secret_digest(invite.token),
        node_id=reply.node_id,
        kind=kind,
        target=target,
        rank=rank,
        info=FederationInfo.from_proto(reply.federation),
        key=key,
        state=state,
        invited=invited,
        ranks=ranks,
    )
    return keep(made)


def read_member(state: Path, invite: Invite) -> Identity | None:
    """Who the client in `state` is, if it came with this very invite."""
    known = read_identity(state)
    used = known is not None and known.token_digest == secret_digest(invite.token)
    return known if used else None


def at_address(invite: Invite, given: str, known: Identity | None) -> Invite:
    """The invite with the address that counts: the one given now, or given earlier, or its own."""
    if given:
        try:
            return replace(invite, address=address_of(given))
        except ValueError as error:
            raise ConfigError(f"--address: {error}") from error
    moved = known is not None and known.invited == invite.address
    return replace(invite, address=known.address) if known and moved else invite


def read_identity(state: Path) -> Identity | None:
    """Who the client in `state` is, if it has enrolled; raises `ConfigError` for damaged files."""
    path = state / FILE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        key = own_secret(state) if table["ca"] is None else own_key(state)
        info = FederationInfo(**table["info"])
        return Identity(**{**table, "info": info, "key": key, "state": state})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); restore or remove it") from error


def keep(identity: Identity) -> Identity:
    """Write all but the key to the state folder."""
    table = {k: v for k, v in asdict(identity).items() if k not in _UNSAID}
    write_private(identity.state / FILE, json.dumps(table, indent=2) + "\n")
    return identity


def keep_plan(state: Path, plan: str) -> None:
    """Remember the plan that the federation has now, beside who this client is."""
    known = read_identity(state)
    if known is not None and known.info.plan != plan:
        keep(replace(known, info=replace(known.info, plan=plan)))


def _check_unchanged(known: Identity, kind: str, target: str, rank: int, ranks: str) -> None:
    before = (known.kind, known.target, known.rank, known.ranks)
    if before != (kind, target, rank, ranks):
        raise ConfigError(
            f"{known.name!r} joined to train the {known.kind} {known.target!r} at rank "
            f"{described(known.rank, known.ranks)} ({known.state / FILE}); run with the same, or "
            "ask for another invite"
        )


def _check_same(before: Identity | None, node_id: int) -> None:
    """A member stays the one that it is: what it has answered is kept under its node id."""
    if before is not None and before.node_id != node_id:
        raise ConfigError(
            f"the coordinator takes {before.name!r} for another member than before (node id "
            f"{node_id}, not {before.node_id}); its work stays in {before.state}. If it lost its "
            "registry, join as a new member with another --state"
        )


def _check_security(invite: Invite, insecure: bool) -> None:
    if (invite.ca is None) != insecure:
        raise ConfigError(
            "the invite has certificates, so leave --insecure out"
            if insecure
            else "the invite has no certificates; ask for another, or allow that by --insecure"
        )
    if insecure and not is_loopback(host_of(invite.address)):
        raise ConfigError(f"--insecure is for this machine alone, and not for {invite.address}")
