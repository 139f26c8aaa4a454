"""Domain embeddings as the clients sent them: one vector each, so that an owner can be left out."""

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import load, save
from torch import Tensor


@dataclass(frozen=True)
class Embedding:
    """The mean input embedding [D] of one client's text, for `expert`; `size` in bytes of text."""

    expert: str
    size: int
    mean_D: Tensor


def by_expert(
    embeddings: Mapping[str, Embedding], without: Container[str] = ()
) -> dict[str, Tensor]:
    """Every expert's embedding, float64: the mean of its owners', by size of text.

    The clients named in `without` count nothing; an expert of theirs alone is not there.
    """
    sums: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    for client, one in sorted(embeddings.items()):
        if client not in without:
            weighted = one.mean_D.double() * one.size
            sums[one.expert] = sums.get(one.expert, torch.zeros(())) + weighted
            sizes[one.expert] = sizes.get(one.expert, 0) + one.size
    return {name: total / sizes[name] for name, total in sums.items()}


def dump(embeddings: Mapping[str, Embedding]) -> bytes:
    """All of them as one safetensors file."""
    index = {client: [one.expert, one.size] for client, one in sorted(embeddings.items())}
    text = torch.tensor(list(json.dumps(index).encode()), dtype=torch.uint8)
    rows = {f"of/{client}": one.mean_D.contiguous() for client, one in embeddings.items()}
    blob: bytes = save({**rows, "index": text})
    return blob


def restore(data: bytes) -> dict[str, Embedding]:
    """The inverse of `dump`."""
    tensors: dict[str, Tensor] = load(data)
    index = json.loads(bytes(tensors["index"].tolist()))
    return {
        client: Embedding(expert, size, tensors[f"of/{client}"])
        for client, (expert, size) in index.items()
    }
