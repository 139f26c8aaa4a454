"""`client join`: everything is checked before the invite is used up, then tasks are done.

In order: the options, the device, the private text, the federation's base and the rank; then
enrolment, and the session until the federation is finished.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fedmore.client.data.owner_text import documents_of, look_at
from fedmore.client.egress.audit_log import Audit
from fedmore.client.hardware.device import choose_device, inspect_machine
from fedmore.client.identity.enrolment import (
    Identity,
    at_address,
    describe,
    enrol,
    keep_plan,
    read_identity,
    read_member,
)
from fedmore.client.joining.base_choice import check_base, check_change, choose_base, load
from fedmore.client.joining.consent import agree, agree_again, asker, tell_offer, terms_in
from fedmore.client.joining.finished_federation import (
    finished_line,
    is_finished,
    longer_plan,
    note_finished,
)
from fedmore.client.joining.node_options import (
    check_floors,
    highest_rank,
    make_guard,
    make_handler,
    node_config,
    search_rank,
)
from fedmore.client.joining.options import AUTO, DEFAULT_RANK, JoinOptions
from fedmore.client.owner.agreement import Agreement
from fedmore.client.owner.policy import OwnerPolicy
from fedmore.client.session.runner import Session
from fedmore.client.state.joined_texts import twin_of
from fedmore.client.state.paths import check_state, default_state
from fedmore.client.transport.retry import persist
from fedmore.experts.errors import ConfigError, TransportError
from fedmore.experts.ranks import chosen as rank_chosen
from fedmore.experts.ranks import described
from fedmore.protos.enrolment.federation_info import FederationInfo
from fedmore.protos.enrolment.invite import Invite, read_invite
from fedmore.protos.runtime.exits import interruptible
from fedmore.protos.runtime.logs import also, logged

Say = Callable[[str], None]
T = TypeVar("T")
DOWNLOADS, LOG = "downloads", "client.log"


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
        info = longer_plan(invite, state, options.address)
        if info is None:
            say(finished_line(invite))
            return
        say(f"{invite.federation} was finished and goes on with another plan")
        agreed = Agreement(state, options.rules.plugins)
        agree_again(info, agreed, options.rules, say, asker(options.yes), options.plan)
        keep_plan(state, info.plan)
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
            on_info=watch(state, options.rules, say),
        )
        if session.run(make_handler(identity.node_id, config)):
            note_finished(identity)
            say("the federation is finished; thank you")


def watch(state: Path, rules: OwnerPolicy, say: Say) -> Callable[[FederationInfo], None]:
    """What to do with the federation's word on itself, each time that this client connects."""

    def told(info: FederationInfo) -> None:
        agreement = Agreement(state, rules.plugins)
        tell_offer(agreement.offer(terms_in(info, rules.plugins), rules), state, say)
        keep_plan(state, info.plan)

    return told


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

    def ask() -> FederationInfo:
        there = at_address(invite, options.address, known)
        return describe(there, insecure=options.insecure, audit=audit)

    info = known.info if known else patiently(ask, options.patience_s, say)
    base = choose_base(options.base, info, say)
    fingerprint = check_base(base, info)
    rank, ranks = rank_of(options, before)
    auto = options.rank == AUTO and before is None
    highest = highest_rank(options, info, base, device) if auto else rank
    check_change(base, invite.name, options.kind, options.target, rank, say, ranks)
    load(base, info, device, options.kind, rank, ranks)
    chosen = (base, info.dtype, device, info.quantization)
    documents = documents_of(options.data.resolve(), options.form, *chosen)
    if twin := twin_of(invite, documents):
        say(
            f"this text has joined {invite.federation} as {twin!r} already; under two names every "
            "round is answered twice from one text, which tells more of it"
        )
    if auto:
        rank = search_rank(options, info, base, highest, device, state, invite.name, say)
    check_floors(options, info, base, rank, device, state, ranks)
    agreed = Agreement(state, options.rules.plugins)
    agree(info, agreed, options.rules, say, asker(options.yes), options.plan)

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
            ranks=ranks,
        )

    identity = patiently(ask_in, options.patience_s, say)
    trains = f"{options.kind} {options.target}, rank {described(rank, ranks)}"
    say(f"joined {invite.federation} as {invite.name}: {trains}")
    check_told(info, identity.info)
    trained = (identity.name, identity.rank, base, device, state, identity.ranks)
    config = node_config(options, info, *trained)
    return identity, fingerprint, config


def rank_of(options: JoinOptions, before: Identity | None) -> tuple[int, str]:
    """The owner's rank and pattern of ranks: as it says now, or said before, or the default.

    What `AUTO` found is kept with the identity, so that it is not looked for again. Until it is
    found the rank is 1, which every matrix allows.
    """
    if options.rank is not None and options.rank != AUTO:
        return rank_chosen(options.rank)
    if before is not None:
        return before.rank, before.ranks
    return (1 if options.rank == AUTO else DEFAULT_RANK[options.kind]), ""


def check_told(before: FederationInfo, after: FederationInfo) -> None:
    """Raise `ConfigError` if the federation is another one than was shown and checked.

    A plan that has changed meanwhile waits for the owner as any later one.
    """
    told = {k: v for k, v in vars(before).items() if k not in ("plan", "run_config")}
    changed = [name for name, value in told.items() if value != vars(after)[name]]
    if changed:
        raise ConfigError(
            f"the federation's {', '.join(changed)} changed between what was checked and your "
            "enrolment; nothing was trained. The same `client join` checks what it is now"
        )


def patiently(action: Callable[[], T], patience_s: float, say: Say) -> T:
    """Do `action`, again and again while the coordinator cannot be reached; says so once."""
    try:
        return action()
    except TransportError as error:
        say(f"{error}; trying for up to {patience_s:g} s")
        return persist(action, patience_s, threading.Event())
