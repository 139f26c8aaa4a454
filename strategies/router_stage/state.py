"""What the coordinator keeps of a router that clients train, and the step from round to round.

Every client k has a *part* ``C_k``, the sum of all changes that it has sent. The router is
``R = R_0 + (C_1 + ... + C_K) / K`` over all K parts. With everybody there this is the mean of a
round's changes added to the router; formed anew from the parts, as experts are
(`fedmore.strategies.expert_stage.state`), it also leaves an owner out exactly.
"""

import copy
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from safetensors.torch import load, save
from torch import Tensor

from fedmore.experts.factors import Factors
from fedmore.experts.mixture.model import routed_blocks
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.serialization import restore_router

Change = dict[str, Tensor]
"""A change of a router's parameters, by their names."""


@dataclass(frozen=True)
class Part:
    """All that a client's changes add up to, and how many they were."""

    change: Change
    updates: int = 0


@dataclass(frozen=True)
class RouterState:
    """A router over `experts`: as it was before any training, and every client's part.

    `blocks` are those of the base that the experts change: a router that decides in every layer
    has a decision for each.
    """

    experts: tuple[str, ...]
    blocks: tuple[int, ...]
    initial: Router
    parts: Mapping[str, Part] = field(default_factory=dict)

    def updates(self, client: str) -> int:
        """How many changes of a client are in it."""
        return self.parts[client].updates if client in self.parts else 0

    @torch.no_grad()
    def router(self) -> Router:
        """The router as it is now, summed up in float64 in order of the clients' names."""
        made = copy.deepcopy(self.initial)
        parts = [part for _, part in sorted(self.parts.items())]
        for name, parameter in made.named_parameters():
            total = parameter.double()
            for part in parts:
                total = total + part.change[name].double() / len(parts)
            parameter.copy_(total.float())
        return made

    def advanced(self, changes: Mapping[str, Change]) -> "RouterState":
        """After a round in which clients sent these changes."""
        parts = dict(self.parts)
        for client, change in changes.items():
            before = parts.get(client)
            total = change if before is None else _sum(before.change, change)
            parts[client] = Part(total, self.updates(client) + 1)
        return replace(self, parts=parts)

    def without(self, clients: Collection[str]) -> "RouterState":
        """As if these clients had sent nothing."""
        left = {name: part for name, part in self.parts.items() if name not in clients}
        return replace(self, parts=left)

    def of(self, experts: Mapping[str, Factors]) -> "RouterState":
        """Of these experts only; what was learned of them is kept."""
        names, blocks = tuple(experts), routed_blocks(experts)
        if (names, blocks) == (self.experts, self.blocks):
            return self
        kept = [self.experts.index(name) for name in names]
        slots = [self.blocks.index(block) for block in blocks]
        old, initial = self.initial, self.initial.keeping(kept)
        layered = not old.shared
        parts = {}
        for client, part in self.parts.items():
            change = _arms(old, part.change, kept)
            parts[client] = replace(part, change=_layers(old, change, slots) if layered else change)
        if layered:
            table = replace(initial.spec, layers=len(slots)).table()
            initial = restore_router(table, _layers(old, initial.state_dict(), slots))
        return RouterState(names, blocks, initial, parts)


def fresh(experts: Mapping[str, Factors], initial: Router) -> RouterState:
    """A router that nobody has trained yet."""
    return RouterState(tuple(experts), routed_blocks(experts), initial)


def _sum(one: Change, other: Change) -> Change:
    return {name: tensor + other[name] for name, tensor in one.items()}


def _arms(router: Router, change: Change, experts: Sequence[int]) -> Change:
    """A change's rows for some of the experts, and the public one."""
    chosen = torch.tensor(list(experts), dtype=torch.long)
    arms = torch.cat([torch.zeros(1, dtype=torch.long), chosen + 1])
    selected = dict(change)
    for axes, index in ((router.arm_axes, arms), (router.expert_axes, chosen)):
        for name in axes.keys() & change.keys():
            selected[name] = change[name].index_select(axes[name], index)
    return selected


def _layers(router: Router, tensors: Mapping[str, Tensor], slots: Sequence[int]) -> Change:
    """The entries of some decisions, in tensors whose name says that they have one for each (L).

    A router that looks at the last hidden states (two passes) has features for all decisions in
    its first entry.
    """
    selected = dict(tensors)
    for name, tensor in tensors.items():
        if name.rpartition("_")[2].startswith("L"):
            once = router.two_pass and name.startswith("features.")
            index = torch.tensor([0] * len(slots) if once else list(slots), dtype=torch.long)
            selected[name] = tensor.index_select(0, index)
    return selected


def dump(state: RouterState) -> bytes:
    """The state as one safetensors file; names of clients may hold no line break."""
    tensors = {f"initial\n{name}": t for name, t in state.initial.state_dict().items()}
    for client, part in state.parts.items():
        tensors |= {f"{client}\n{name}\n": t for name, t in part.change.items()}
    index = {
        "spec": state.initial.spec.table(),
        "experts": state.experts,
        "blocks": state.blocks,
        "parts": {name: part.updates for name, part in sorted(state.parts.items())},
    }
    tensors["index"] = torch.tensor(list(json.dumps(index).encode()), dtype=torch.uint8)
    blob: bytes = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    return blob


def restore(data: bytes) -> RouterState:
    """The inverse of `dump`."""
    tensors: dict[str, Tensor] = load(data)
    index = json.loads(bytes(tensors.pop("index").tolist()))
    split = [(key.split("\n"), tensor) for key, tensor in tensors.items()]
    numbers = {key[1]: tensor for key, tensor in split if len(key) == 2}
    parts = {
        client: Part({k[1]: t for k, t in split if len(k) == 3 and k[0] == client}, count)
        for client, count in index["parts"].items()
    }
    experts, blocks = tuple(index["experts"]), tuple(index["blocks"])
    return RouterState(experts, blocks, restore_router(index["spec"], numbers), parts)
