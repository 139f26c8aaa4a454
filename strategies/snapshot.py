"""All experts' states as one file: what a restarted coordinator goes on from."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from fedmore.experts.factors import Factors, from_state, to_state
from fedmore.strategies.state import Component, ExpertState

MIRROR = ""
"""In place of a client's name, which is never empty."""


def dump(states: Mapping[str, ExpertState]) -> bytes:
    """All states as one safetensors file; names of experts and clients may hold no line break."""
    tensors: dict[str, Tensor] = {}
    index: dict[str, dict[str, Any]] = {}
    for name, state in states.items():
        tensors |= _prefixed(f"{name}\n", state.aggregate)
        mirror = _prefixed(f"{name}\n{MIRROR}\n", state.mirror)
        tensors |= {key: tensor.bfloat16() for key, tensor in mirror.items()}  # bfloat16's numbers
        index[name] = {"kind": state.kind, "components": {}}
        for client, part in state.components.items():
            tensors |= _prefixed(f"{name}\n{client}\n", part.factors)
            numbers = {"updates": part.updates, "weight": part.weight, "scale": part.scale}
            index[name]["components"][client] = numbers
    blob: bytes = save({**tensors, "index": _text(json.dumps(index))})
    return blob


def restore(data: bytes) -> dict[str, ExpertState]:
    """The inverse of `dump`."""
    tensors: dict[str, Tensor] = load(data)
    index = json.loads(bytes(tensors.pop("index").tolist()))
    states = {}
    for name, entry in index.items():
        components = {
            client: Component(_under(f"{name}\n{client}\n", tensors), **numbers)
            for client, numbers in entry["components"].items()
        }
        aggregate, mirror = (_under(f"{name}\n{of}", tensors) for of in ("", f"{MIRROR}\n"))
        states[name] = ExpertState(name, entry["kind"], aggregate, components, mirror)
    return states


def _prefixed(prefix: str, factors: Factors) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in to_state(factors).items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> Factors:
    cut = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    return from_state({key: t.float() for key, t in cut.items() if "\n" not in key})


def _text(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)
