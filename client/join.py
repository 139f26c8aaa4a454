"""`client join`: everything is checked before the invite is used up, then tasks are done.

In order: the options, the device, the private text, the federation's base and the rank; then
enrolment, and the session until the federation is finished.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from fedmore.client.audit import Audit
from fedmore.client.base_choice import check_base, check_change, choose_base, load
from fedmore.client.data import documents_of, look_at
from fedmore.client.device import choose_device, inspect_machine
from fedmore.client.egress import Guard
from fedmore.client.ended import finished_line, is_finished, note_finished
from fedmore.client.invite import Identity, at_address, describe, enrol, read_identity, read_member
from fedmore.client.paths import check_state, default_state
from fedmore.client.patience import persist
from fedmore.client.session import Session
from fedmore.experts.documents import Format
from fedmore.experts.errors import ConfigError, TransportError
from fedmore.protos.exits import interruptible
from fedmore.protos.info import FederationInfo
from fedmore.protos.invite import Invite, read_invite
from fedmore.protos.logs import also, logged
from fedmore.strategies.compression.policy import TAGS

Kind = Literal["expert", "adapter"]
Say = Callable[[str], None]
T = TypeVar("T")
DOWNLOADS, LOG = "downloads", "client.log"
DEFAULT_RANK: dict[Kind, int] = {"expert": 16, "adapter": 8}


@dataclass(frozen=True)
class JoinOptions:
    """What the command line says; `rank` None is the default, or that of an earlier start."""

    invite: Path
    data: Path
    kind: Kind
    target: str
    rank: int | None = None
    gpu: int | None = None
    cpu: bool = False
    state: Path | None = None
    base: str | None = None
    threads: int = 0
    patience_s: float = 300.0
    codecs: tuple[str, ...] = ()
    min_tokens: int = 256
    insecure: bool = False
    address: str = ""
    form: Format = field(default_factory=Format)

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a codec that there is not."""
        unknown = set(self.codecs) - set(TAGS)
        if unknown:
            raise ConfigError(f"--codec {min(unknown)}: there is none; known are {', '.join(TAGS)}")


def training(domain: str | None, language: str | None) -> tuple[Kind, str]:
    """What is trained; raises `ConfigError` unless exactly one of the two is given."""
    if domain and not language:
        return "expert", domain
    if language and not domain:
        return "adapter", language
    raise ConfigError("give exactly one of --domain NAME (an expert) and --language CODE")


def text_of(data: Path | None) -> Path:
    """Where the private text is; raises `ConfigError` where that is not said."""
    if data is None:
        raise ConfigError("give --data PATH: your text, a file or a folder")
    return data


def join(options: JoinOptions, say: Say) -> None:
    """Take part until the federation is finished, or Ctrl-C."""
    with interruptible("the same `client join` goes on where this one stopped"):
        take_part(options, say)


def take_part(options: JoinOptions, say: Say) -> None:
    """Check, enrol, and do tasks until the federation is finished."""
    invite = read_invite(options.invite)
    state = options.state or default_state(invite)
    check_state(state, invite)
    if is_finished(invite, state):
        say(finished_line(invite))
        return
    device = prepare_device(options, say)
    look_at(options.data, options.form, say)
    with Audit(state) as audit, logged(state / LOG) as log:
        say = also(log, say)
        identity, fingerprint, config = enter(options, invite, state, device, audit, say)
        session = Session(
            identity,
            fingerprint=fingerprint,
            patience_s=options.patience_s,
            on_status=say,
            guard=make_guard(identity.node_id, config, audit),
            audit=audit,
            downloads=state / DOWNLOADS,
        )
        if session.run(make_handler(identity.node_id, config)):
            note_finished(identity)
            say("the federation is finished; thank you")


def prepare_device(options: JoinOptions, say: Say) -> str:
    """Choose the device and say which; raises `DeviceError` when the GPU is not there."""
    import torch

    machine = inspect_machine()
    device = choose_device(machine, options.gpu, options.cpu)
    say(f"training on {device} ({machine.describe()})")
    if options.threads:
        torch.set_num_threads(options.threads)
    return device


def enter(
    options: JoinOptions, invite: Invite, state: Path, device: str, audit: Audit, say: Say
) -> tuple[Identity, str, dict[str, Any]]:
    """Check base and rank, then enrol: who it is, the base's fingerprint, the node's config."""
    known = read_member(state, invite)
    before = read_identity(state) if invite.again else known
    rank = options.rank or (before.rank if before else DEFAULT_RANK[options.kind])

    def ask() -> FederationInfo:
        there = at_address(invite, options.address, known)
        return describe(there, insecure=options.insecure, audit=audit)

    info = known.info if known else patiently(ask, options.patience_s, say)
    base = choose_base(options.base, info, say)
    fingerprint = check_base(base, info)
    check_change(base, invite.name, options.kind, options.target, rank, say)
    load(base, info, device, options.kind, rank)
    chosen = (base, info.dtype, device, info.quantization)
    documents_of(options.data.resolve(), options.form, *chosen)

    def ask_in() -> Identity:
        return enrol(
            invite,
            state,
            kind=options.kind,
            target=options.target,
            rank=rank,
            fingerprint=fingerprint,
            insecure=options.insecure,
            audit=audit,
            address=options.address,
        )

    identity = patiently(ask_in, options.patience_s, say)
    say(
        f"joined {invite.federation} as {invite.name}: {options.kind} {options.target}, rank {rank}"
    )
    return identity, fingerprint, node_config(options, identity, base, device, state)


def patiently(action: Callable[[], T], patience_s: float, say: Say) -> T:
    """Do `action`, again and again while the coordinator cannot be reached; says so once."""
    try:
        return action()
    except TransportError as error:
        say(f"{error}; trying for up to {patience_s:g} s")
        return persist(action, patience_s, threading.Event())


def node_config(
    options: JoinOptions, identity: Identity, base: str, device: str, state: Path
) -> dict[str, Any]:
    """What the ClientApp learns of this node."""
    return {
        "name": identity.name,
        "kind": identity.kind,
        "target": identity.target,
        "rank": identity.rank,
        "data": str(options.data.resolve()),
        "base": base,
        "dtype": identity.info.dtype,
        "device": device,
        "quantization": identity.info.quantization,
        "opener": identity.info.opener,
        "open_windows": identity.info.open_windows,
        "state": str(state.resolve()),
        "codecs": ",".join(options.codecs),
        "min_tokens": options.min_tokens,
        "column": options.form.column,
        "encoding": options.form.encoding,
    }


def make_guard(node_id: int, config: dict[str, Any], audit: Audit) -> Guard:
    """What stands between the ClientApp and the wire."""
    from fedmore.client.guard import guard_of

    return guard_of(node_id, config, audit)


def make_handler(node_id: int, config: dict[str, Any]) -> Callable[[Any], Any]:
    """The ClientApp with this node's context."""
    from flwr.app import Context, RecordDict

    from fedmore.client.app import handle
    from fedmore.protos.flower import RUN

    context = Context(
        run_id=RUN, node_id=node_id, node_config=config, state=RecordDict(), run_config={}
    )
    return lambda message: handle(message, context)
