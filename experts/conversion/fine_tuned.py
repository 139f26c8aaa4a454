"""A fully fine-tuned model of the base as a low-rank change: ``W_tuned - W_base`` per matrix.

This is FlexMoRE's way from a full-size expert to one of any rank (arXiv 2602.08818). The two models
are read from their safetensors files, one matrix at a time, so the memory needed is that of the
largest matrix.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedmore.experts.base.files import check_folder, folder_of, one_line, weight_files
from fedmore.experts.conversion.change import Converted, leading, with_whole_ffns
from fedmore.experts.errors import BaseError, ConfigError
from fedmore.experts.factors import Factors, seed_of
from fedmore.experts.spec import Shapes


@dataclass(frozen=True)
class Weights:
    """The tensors of a model's files, by name; `what` names the model in messages."""

    what: str
    files: dict[str, Any]

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape; nothing is read."""
        return tuple(self.files[name].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """A tensor, float32."""
        found: Tensor = self.files[name].get_tensor(name)
        return found.float()


@contextmanager
def weights(name: str) -> Iterator[Weights]:
    """The weights of a model by path or hub name; raises `BaseError` for what is none."""
    folder = folder_of(name)
    check_folder(name, folder)
    with ExitStack() as stack:
        try:
            opened = [
                stack.enter_context(safe_open(file, framework="pt"))
                for file in weight_files(name, folder)
            ]
        except (OSError, SafetensorError) as error:
            raise BaseError(f"{name}: its weights cannot be read: {one_line(error)}") from error
        yield Weights(name, {key: file for file in opened for key in file.keys()})  # noqa: SIM118


def fine_tuned_change(base: str, tuned: str, shapes: Shapes, rank: int, seed: int) -> Converted:
    """The change from `base` to `tuned`, of `rank` in every matrix of `shapes` that differs.

    Raises `BaseError` if `tuned` is no fine-tuned `base`, and `ConfigError` if they are the same.
    """
    with weights(base) as before, weights(tuned) as after:
        names = _shared(before, after, shapes)
        factors, norms, left, outside = Factors(), 0.0, 0.0, 0.0
        for name in names:
            change = after.read(name) - before.read(name)
            norm = float(change.double().square().sum())
            path = name.removesuffix(".weight")
            if path not in shapes:
                outside += norm
            elif norm:
                most = min(rank, *change.shape)
                b, a, missed = leading(change, most, seed_of(path, seed))
                factors[path] = b, a
                norms, left = norms + norm, left + missed
    if not factors:
        raise ConfigError(f"{tuned}: no matrix that an expert can change differs from {base}")
    whole = with_whole_ffns(factors, shapes)
    return Converted(whole, (left / norms) ** 0.5, outside / (outside + norms))


def _shared(before: Weights, after: Weights, shapes: Shapes) -> list[str]:
    """The names of the tensors of both; raises `BaseError` unless all that matter are there."""
    for path in shapes:
        for model in (before, after):
            if f"{path}.weight" not in model.files:
                raise BaseError(
                    f"{model.what}: has no {path}.weight, by which a fine-tuned model is compared; "
                    "save both with transformers' save_pretrained"
                )
    names = [name for name in before.files if name in after.files]
    for name in names:
        if before.shape(name) != after.shape(name):
            raise BaseError(
                f"{after.what}: {name} is {_size(after, name)}, in {before.what} it is "
                f"{_size(before, name)}; it is no fine-tuned model of that base"
            )
    return sorted(names)


def _size(model: Weights, name: str) -> str:
    return " x ".join(map(str, model.shape(name)))
