"""All experts' states as one file: what a restarted coordinator goes on from."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from flwr.app import Array, ArrayRecord
from safetensors.torch import load, save
from torch import Tensor

from fedmore.experts.factors import Factors, from_state, to_state
from fedmore.strategies.expert_stage.aggregation import shares
from fedmore.strategies.expert_stage.changes import COMMON
from fedmore.strategies.expert_stage.state import Component, ExpertState
from fedmore.strategies.stages.expert import ExpertStage, FactorStage

MIRROR = ""
"""In place of a client's name, which is never empty."""


PARTS = ("settled", "momentum", "starts")
"""Fields of a state that hold factors by owner, beside the components."""


def dump(states: Mapping[str, ExpertState]) -> bytes:
    """All states as one safetensors file; names of experts and clients may hold no line break."""
    tensors: dict[str, Tensor] = {}
    index: dict[str, dict[str, Any]] = {}
    for name, state in states.items():
        tensors |= _prefixed(f"{name}\n", state.aggregate)
        mirror = _prefixed(f"{name}\n{MIRROR}\n", state.mirror)
        tensors |= {key: tensor.bfloat16() for key, tensor in mirror.items()}  # bfloat16's numbers
        index[name] = {"kind": state.kind, "components": {}, "chosen": state.chosen}
        index[name] |= {"streak": state.streak, "lost": state.lost}
        for client, part in state.components.items():
            tensors |= _prefixed(f"{name}\n{client}\n", part.factors)
            numbers = {"updates": part.updates, "weight": part.weight, "scale": part.scale}
            index[name]["components"][client] = numbers
        for what in PARTS:
            parts: Mapping[str, Factors] = getattr(state, what)
            index[name][what] = sorted(parts)
            for client, factors in parts.items():
                tensors |= _prefixed(f"{name}\n{what}\n{client}\n", factors)
    blob: bytes = save({**tensors, "index": _text(json.dumps(index))})
    return blob


def arrays_of(states: Mapping[str, ExpertState]) -> ArrayRecord:
    """Every expert's aggregate as numpy arrays named `expert/module path.A` and `.B`."""
    return ArrayRecord(
        {
            f"{name}/{key}": Array(tensor.numpy())
            for name, state in states.items()
            for key, tensor in to_state(state.aggregate).items()
        }
    )


def restore(data: bytes, stage: FactorStage | None = None) -> dict[str, ExpertState]:
    """The inverse of `dump`.

    A file of the time when an owner's share belonged to its whole past is read as what it means
    today (`_from_shares`), by the rule of its `stage`.
    """
    tensors: dict[str, Tensor] = load(data)
    index = json.loads(bytes(tensors.pop("index").tolist()))
    states = {}
    for name, entry in index.items():
        components = {
            client: Component(_under(f"{name}\n{client}\n", tensors), **numbers)
            for client, numbers in entry["components"].items()
        }
        aggregate, mirror = (_under(f"{name}\n{of}", tensors) for of in ("", f"{MIRROR}\n"))
        state = ExpertState(name, entry["kind"], aggregate, components, mirror)
        if "settled" not in entry:
            states[name] = _from_shares(state, stage or ExpertStage())
            continue
        parts: dict[str, Any] = {
            what: {c: _under(f"{name}\n{what}\n{c}\n", tensors) for c in entry[what]}
            for what in PARTS
        }
        chosen, streak = tuple(entry["chosen"]), entry["streak"]
        states[name] = replace(state, **parts, chosen=chosen, streak=streak, lost=entry["lost"])
    return states


def _from_shares(state: ExpertState, stage: FactorStage) -> ExpertState:
    """A state whose weights are sizes of texts, as contributions at the owners' last shares.

    What Krum or the trimmed mean made cannot be told apart by owner now: it is kept as it is.
    """
    parts = state.components
    if stage.aggregation != "mean":
        without_weight = {name: replace(part, weight=0.0) for name, part in parts.items()}
        return replace(state, components=without_weight, settled={COMMON: state.aggregate})
    found = shares([part.weight for part in parts.values()], stage.max_client_weight)
    pairs = zip(parts.items(), found, strict=True)
    weighed = {name: replace(part, weight=share) for (name, part), share in pairs}
    return replace(state, components=weighed)


def _prefixed(prefix: str, factors: Factors) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in to_state(factors).items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> Factors:
    cut = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    return from_state({key: t.float() for key, t in cut.items() if "\n" not in key})


def _text(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)
