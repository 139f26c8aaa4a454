"""Digests of what owners have put into an expert, and of the plan that it was trained by."""

import hashlib

import torch

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.config.terms import terms_of
from fedmore.experts.factors import Factors, to_state
from fedmore.strategies.expert_stage.state import ExpertState


def digests_by_owner(state: ExpertState) -> dict[str, str]:
    """The digest of every owner's contribution, which is the part that its withdrawal removes."""
    return {name: _digest(state, name) for name in state.owners}


def plan_digest(config: FederationConfig) -> str:
    """The digest of the plan that owners agree to."""
    return f"sha256:{hashlib.sha256(terms_of(config).dump().encode()).hexdigest()}"


def _digest(state: ExpertState, owner: str) -> str:
    found = hashlib.sha256()
    if part := state.components.get(owner):
        found.update(f"{part.weight!r} {part.scale!r}\n".encode())
        _add(found, part.factors)
    found.update(b"settled\n")
    _add(found, state.settled.get(owner, {}))
    return f"sha256:{found.hexdigest()}"


def _add(found: "hashlib._Hash", factors: Factors) -> None:
    """Hash the factors in order of their names, with shapes, types and bytes."""
    for name, tensor in sorted(to_state(factors).items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        found.update(flat.view(torch.uint8).numpy().data)
