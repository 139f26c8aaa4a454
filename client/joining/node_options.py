"""What `client join` gives the ClientApp and its guard: the node, as the owner chose it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.guard import EgressGuard
from fedmore.client.joining.consent import terms_in
from fedmore.client.joining.options import JoinOptions
from fedmore.client.owner.agreement import Agreement
from fedmore.client.owner.policy import dump_policy
from fedmore.protos.enrolment.federation_info import FederationInfo


def check_floors(
    options: JoinOptions,
    info: FederationInfo,
    base: str,
    rank: int,
    device: str,
    state: Path,
    ranks: str = "",
) -> None:
    """Raise `EgressError` if the owner's text is too little for what the plan will ask of it."""
    from fedmore.client.egress.policy import EgressPolicy
    from fedmore.client.owner.node_config import Node

    config = node_config(options, info, "", rank, base, device, state, ranks)
    EgressPolicy(Node.read(config)).check_plan(terms_in(info, options.rules.plugins))


def highest_rank(options: JoinOptions, info: FederationInfo, base: str, device: str) -> int:
    """The highest rank whose training fits into the memory that is free now, before the base is."""
    from fedmore.client.hardware.device import free_memory, inspect_machine
    from fedmore.client.hardware.memory_estimate import Batch
    from fedmore.client.hardware.preflight import report_base
    from fedmore.strategies.stages.base import TrainingStage

    trained = [
        stage
        for stage in terms_in(info, options.rules.plugins).stages
        if isinstance(stage, TrainingStage) and stage.trains in (None, options.kind)
    ]
    batch = Batch(
        max((stage.batch_size for stage in trained), default=Batch.size),
        max((stage.sequence_length for stage in trained), default=Batch.length),
    )
    free = free_memory(inspect_machine(), device)
    found = report_base(base, info.dtype, device, free, batch)
    return (found.expert if options.kind == "expert" else found.adapter).highest_rank


def search_rank(
    options: JoinOptions,
    info: FederationInfo,
    base: str,
    highest: int,
    device: str,
    state: Path,
    name: str,
    say: Callable[[str], None],
) -> int:
    """The rank that the owner's own held-out text asks for, of those up to `highest`."""
    from fedmore.client.joining.rank_search import search
    from fedmore.client.owner.node_config import Node

    node = Node.read(node_config(options, info, name, 1, base, device, state))
    return search(node, terms_in(info, options.rules.plugins), highest, options.rank_steps, say)


def node_config(
    options: JoinOptions,
    info: FederationInfo,
    name: str,
    rank: int,
    base: str,
    device: str,
    state: Path,
    ranks: str = "",
) -> dict[str, Any]:
    """What the ClientApp learns of this node.

    What opens windows is as the owner agreed to it, not as the coordinator says since.
    """
    agreed = Agreement(state).agreed
    opening = (agreed or info).opener, (agreed or info).open_windows
    return {
        "name": name,
        "kind": options.kind,
        "target": options.target,
        "rank": rank,
        "ranks": ranks,
        "data": str(options.data.resolve()),
        "base": base,
        "dtype": info.dtype,
        "device": device,
        "quantization": info.quantization,
        "opener": opening[0],
        "open_windows": opening[1],
        "state": str(state.resolve()),
        "policy": dump_policy(options.rules),
        "column": options.form.column,
        "encoding": options.form.encoding,
        "optimizer": options.saving.optimizer,
        "gradient_checkpointing": options.saving.gradient_checkpointing,
    }


def make_guard(node_id: int, config: dict[str, Any], audit: Audit) -> EgressGuard:
    """What stands between the ClientApp and the wire."""
    from fedmore.client.egress.policy_guard import guard_of

    return guard_of(node_id, config, audit)


def make_handler(node_id: int, config: dict[str, Any]) -> Callable[[Any], Any]:
    """The ClientApp with this node's context."""
    from flwr.app import Context, RecordDict

    from fedmore.client.client_app import handle
    from fedmore.protos.wire.flower_compat import RUN

    context = Context(
        run_id=RUN, node_id=node_id, node_config=config, state=RecordDict(), run_config={}
    )
    return lambda message: handle(message, context)
