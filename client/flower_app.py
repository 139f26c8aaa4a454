"""The client side of fedmore as a Flower App: `[tool.flwr.app]` in pyproject.toml names `app`.

The owner says on the SuperNode's command line what `client join` would be told::

    flower-supernode … --node-config 'name="hospital" domain="medicine" data="/text" base="/base"'

Keys: name, domain or language, data, base; rank, dtype, device, quantization, state (a folder),
column and encoding as `fedmore.client.owner.node_config` has them; `plan`, the file of `coordinator
plan` that the owner agrees to, and `policy`, a file as `client join --policy` takes it. The answers
pass the same guard, and what was let out is in `audit.jsonl` of the state folder; the bytes that
Flower sends around them are not.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedmore.client.client_app import handle
from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.policy_guard import guard_of
from fedmore.client.hardware.device import choose_device, inspect_machine
from fedmore.client.joining.consent import policy_of
from fedmore.client.joining.options import DEFAULT_RANK, training
from fedmore.client.owner.agreement import Agreement, read_plan
from fedmore.client.owner.policy import dump_policy
from fedmore.experts.base.fingerprint import explain
from fedmore.experts.base.model import fingerprint_of
from fedmore.experts.errors import BaseError, ConfigError
from fedmore.experts.names import check_name
from fedmore.experts.ranks import chosen as rank_chosen
from fedmore.experts.text.opener import AUTO
from fedmore.strategies.members import HELLO
from fedmore.strategies.stages.kinds import message_types

app = ClientApp()
NEEDED = ("name", "data", "base")


@app.query("hello")
def answer(message: Message, context: Context) -> Message:
    """Do one task as the client that the node config describes."""
    config = node_config(dict(context.node_config)) | opening(context.run_config)
    if message.metadata.message_type == HELLO:
        check_base(config["base"], str(context.run_config.get("fingerprint", "")))
    own = Context(context.run_id, context.node_id, config, context.state, context.run_config)
    guard = guard_of(context.node_id, config, audit_in(Path(str(config["state"]))))
    check_reply = guard.check_task(message)
    return check_reply(handle(message, own))


for message_type in message_types():
    app.train(message_type.partition(".")[2] or "default")(answer)


def node_config(said: dict[str, Any]) -> dict[str, Any]:
    """The node config (`client.owner.node_config`) from what the owner said.

    Raises `ConfigError` if a needed key is missing.
    """
    missing = [key for key in NEEDED if not said.get(key)]
    if missing:
        raise ConfigError(f"--node-config: {', '.join(missing)} missing")
    kind, target = training(said.pop("domain", None), said.pop("language", None))
    chosen = {
        "kind": kind,
        "target": target,
        "rank": DEFAULT_RANK[kind],
        "dtype": "auto",
        "device": said.get("device") or choose_device(inspect_machine()),
        "quantization": "none",
        "state": str(default_state(said["name"])),
    }
    policy = policy_of(Path(said.pop("policy")) if said.get("policy") else None)
    if "rank" in said:
        chosen["rank"], chosen["ranks"] = rank_chosen(said.pop("rank"))
    plan, config = said.pop("plan", ""), chosen | said
    if plan:
        pin(Path(str(config["state"])), Path(plan))
    return config | {"policy": dump_policy(policy)}


def pin(state: Path, plan: Path) -> None:
    """Take the plan in a file for agreed: its owner named it."""
    terms, agreement = read_plan(plan), Agreement(state)
    if agreement.agreed != terms:
        agreement.accept(terms)


def opening(run_config: Mapping[str, Any]) -> dict[str, Any]:
    """What opens a document in this federation, as the run config says."""
    return {
        "opener": run_config.get("opener", AUTO),
        "open_windows": run_config.get("open-windows", False),
    }


def default_state(name: str) -> Path:
    """The client's folder in the user's state directory."""
    check_name(name)
    from platformdirs import user_state_path

    return user_state_path("fedmore") / "flower" / name


@functools.lru_cache
def audit_in(folder: Path) -> Audit:
    """One audit for a folder and process."""
    return Audit(folder)


def check_base(base: str, fingerprint: str) -> None:
    """Raise `BaseError` if the run config names a base and this is another."""
    if fingerprint and (found := fingerprint_of(base)) != fingerprint:
        raise BaseError(
            f"the base {base} has fingerprint {found}, the run's is {fingerprint}"
            f"{explain(found, fingerprint)}"
        )
