"""The base: the frozen public model that every member of a federation shares."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fedmore.experts.base.blocks import shapes_of
from fedmore.experts.base.files import check_folder, folder_of
from fedmore.experts.base.fingerprint import fingerprint_of
from fedmore.experts.base.loading import read_model
from fedmore.experts.base.parts import check_vocabulary, generation_of, quiet, tokenizer_of
from fedmore.experts.base.suitability import linear_shapes
from fedmore.experts.errors import BaseError
from fedmore.experts.text.opener import AUTO, Opener, resolve
from fedmore.experts.text.tokenization import TextTokenizer

__all__ = [
    "Base",
    "compute_dtype",
    "fingerprint_of",
    "linear_shapes",
    "load_base",
    "quiet",
    "shapes_of",
]


@dataclass(frozen=True)
class Base:
    """A loaded base: `model` (frozen, eval mode), its tokenizer, name and fingerprint.

    `opener` is the federation's choice of tokens before a document; None stands for the default
    rule.
    """

    name: str
    model: Any
    tokenizer: Any
    fingerprint: str
    opener: Opener | None = None

    @property
    def text(self) -> TextTokenizer:
        """The tokenizer, with the federation's opener."""
        return TextTokenizer(self.tokenizer, self.opener or resolve(self.tokenizer))

    def opened(self, name: str = AUTO, windows: bool = False) -> "Base":
        """Return this base with the named opener.

        Raises `ConfigError` if the tokenizer lacks it.
        """
        return replace(self, opener=resolve(self.tokenizer, name, windows))

    @property
    def parameters(self) -> int:
        """Number of parameters, with tied ones counted once."""
        return int(self.model.num_parameters())


@functools.lru_cache(maxsize=2)
def load_base(
    name: str, dtype: str = "auto", device: str = "cpu", quantization: str = "none"
) -> Base:
    """Load a Hugging Face causal LM by path or hub name, frozen.

    `dtype` is float32, bfloat16 or auto (see `compute_dtype`). With `quantization` nf4,
    bitsandbytes keeps the linear layers at 4 bits. Raises `BaseError` if the base cannot be loaded.
    """
    folder = folder_of(name)
    check_folder(name, folder)
    fingerprint = fingerprint_of(name)
    tokenizer = tokenizer_of(folder)
    chosen = compute_dtype(dtype, device)
    model = read_model(name, folder, chosen, device, _four_bit(quantization))
    check_vocabulary(name, tokenizer, model.get_input_embeddings().weight.shape[0])
    model.generation_config = generation_of(folder)
    model.requires_grad_(False).train(False)
    _keep_unpacked(model)
    _check_output(name, model)
    return Base(name, model, tokenizer, fingerprint)


def _check_output(name: str, model: Any) -> None:
    """Raise `BaseError` if the model's output is not finite."""
    with torch.inference_mode():
        ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits
    if not bool(torch.isfinite(logits).all()):
        raise BaseError(
            f"base {name!r}: its output in {model.dtype} is not finite although its weights "
            "are; try base.dtype = float32"
        )


def _four_bit(quantization: str) -> Any:
    if quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    from fedmore.kernels.bitsandbytes_library import bitsandbytes

    bitsandbytes()
    config: Any = BitsAndBytesConfig
    return config(load_in_4bit=True, bnb_4bit_quant_type=quantization)


def _keep_unpacked(model: nn.Module) -> None:
    """Make 4-bit layers compute alike on every CPU.

    With AVX-512 BF16, bitsandbytes would repack the weights in place at the first forward pass in
    eval mode. It would do so only if the rows are a multiple of 32, and also for all other models
    that share these weights.
    """
    modules: Any = model.modules()
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def compute_dtype(dtype: str, device: str = "cpu") -> torch.dtype:
    """Resolve `auto`: bfloat16 if the hardware multiplies it, else float32.

    A CPU without AMX or AVX-512 BF16 emulates bfloat16 products; a training step was measured to
    take 28 times as long as in float32.
    """
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32
