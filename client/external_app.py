"""Somebody else's Flower ClientApp, run by `client join INVITE --app module:object`.

Only the code that the owner named here runs; nothing of it comes over the wire. The app's
`Context.state` is written down after each task, with the answer, before the answer leaves. So a
client that was killed neither loses it nor does a task twice. Answers pass the guard of foreign
apps: they are let through and noted in the audit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.guard import AuditOnlyGuard
from fedmore.client.identity.enrolment import Identity, enrol
from fedmore.client.joining.finished_federation import finished_line, is_finished, note_finished
from fedmore.client.joining.join import DOWNLOADS, LOG, Say, patiently
from fedmore.client.session.runner import Session
from fedmore.client.state.app_memory import Memory
from fedmore.client.state.paths import check_state, default_state
from fedmore.protos.enrolment.federation_info import FederationInfo
from fedmore.protos.enrolment.invite import Invite, read_invite
from fedmore.protos.runtime.exits import interruptible
from fedmore.protos.runtime.flower_apps import Value, load_app
from fedmore.protos.runtime.logs import also, logged
from fedmore.protos.system.terminal import plain
from fedmore.protos.wire.flower_compat import RUN, make_reply

FOLDER = "app"
LONGEST_SAID = 4_000


@dataclass(frozen=True)
class AppOptions:
    """What the command line says: the app, and what it is given as its node config."""

    invite: Path
    app: str
    node_config: Mapping[str, Value] = field(default_factory=dict)
    state: Path | None = None
    patience_s: float = 300.0
    insecure: bool = False
    address: str = ""


def join(options: AppOptions, say: Say) -> None:
    """Take part until the federation is finished, or Ctrl-C."""
    with interruptible("the same `client join` goes on where this one stopped"):
        take_part(options, say)


def take_part(options: AppOptions, say: Say) -> None:
    """Load the app, enrol, and do tasks until the federation is finished."""
    invite = read_invite(options.invite)
    state = options.state or default_state(invite)
    check_state(state, invite)
    if is_finished(invite, state):
        say(finished_line(invite))
        return
    app = load_app(options.app, ClientApp)
    with Audit(state) as audit, logged(state / LOG) as log:
        say = also(log, say)
        identity = patiently(
            lambda: come_in(invite, state, options, audit), options.patience_s, say
        )
        say(f"joined {invite.federation} as {invite.name}: {options.app}")
        run_config = RunConfig(say)
        run_config.hear(identity.info)
        session = Session(
            identity,
            patience_s=options.patience_s,
            on_status=say,
            guard=AuditOnlyGuard(audit),
            audit=audit,
            downloads=state / DOWNLOADS,
            on_info=run_config.hear,
        )
        finished = session.run(
            make_handler(app, identity.node_id, options.node_config, state, run_config.values)
        )
    if finished:
        note_finished(identity)
        say("the federation is finished; thank you")


def come_in(invite: Invite, state: Path, options: AppOptions, audit: Audit) -> Identity:
    """Enrol, or come back with what an earlier start was given."""
    return enrol(
        invite, state, kind="app", target="", rank=0, insecure=options.insecure, audit=audit,
        address=options.address,
    )  # fmt: skip


class RunConfig:
    """What the coordinator gives the app as its run config; the owner is shown it, and changes."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._now: Mapping[str, Value] = {}

    def hear(self, info: FederationInfo) -> None:
        """The federation has said what it is."""
        if info.run_config != self._now:
            said = ", ".join(f"{key} = {value!r}" for key, value in info.run_config.items())
            self._say(f"run config from the coordinator: {plain(said, LONGEST_SAID) or 'empty'}")
        self._now = dict(info.run_config)

    def values(self) -> Mapping[str, Value]:
        """As it is now."""
        return self._now


def make_handler(
    app: ClientApp,
    node_id: int,
    config: Mapping[str, Value],
    state: Path,
    run_config: Callable[[], Mapping[str, Value]] = dict,
) -> Callable[[Message], Message]:
    """The function that answers tasks with `app`, as node `node_id`."""
    memory = Memory(state / FOLDER)

    def handle(message: Message) -> Message:
        known = memory.answer(message.metadata.message_id)
        if known is not None:
            return make_reply(message, known)
        context = Context(RUN, node_id, dict(config), memory.state(), dict(run_config()))
        reply = app(message, context)
        if isinstance(reply, Message) and reply.has_content():
            memory.write(message.metadata.message_id, context.state, reply.content)
        return reply

    return handle
