"""A base whose files somebody has changed."""

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS = "model.safetensors"


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Write the weights of a base anew after `change` has been at them."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
