"""The base: the frozen public model that every member of a federation shares."""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedmore.experts.errors import BaseError


@dataclass(frozen=True)
class Base:
    """A loaded base: `model` (frozen, eval mode), its tokenizer, name and fingerprint."""

    name: str
    model: Any
    tokenizer: Any
    fingerprint: str

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones once."""
        return int(self.model.num_parameters())


@functools.lru_cache(maxsize=2)
def load_base(
    name: str, dtype: str = "auto", device: str = "cpu", quantization: str = "none"
) -> Base:
    """Load a Hugging Face causal LM by path or hub name, frozen.

    `dtype` is float32, bfloat16 or auto (see `compute_dtype`); `quantization` nf4 keeps the linear
    layers at 4 bits through bitsandbytes. Raises `BaseError` when it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet()
    chosen = compute_dtype(dtype, device)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=chosen, device_map=device, quantization_config=_four_bit(quantization)
        )
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, RuntimeError) as error:
        raise BaseError(f"base {name!r} cannot be loaded: {error}") from error
    model.requires_grad_(False).train(False)
    _keep_unpacked(model)
    return Base(name, model, tokenizer, fingerprint_of(name))


def quiet() -> None:
    """Keep the progress bars of `transformers` off a terminal that shows our own."""
    from transformers.utils import logging

    untyped: Any = logging
    untyped.set_verbosity_error()
    untyped.disable_progress_bar()


def _four_bit(quantization: str) -> Any:
    if quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    config: Any = BitsAndBytesConfig
    return config(load_in_4bit=True, bnb_4bit_quant_type=quantization)


def _keep_unpacked(model: nn.Module) -> None:
    """Have 4-bit layers compute alike on every CPU.

    With AVX-512 BF16 bitsandbytes would repack the weights in place at the first forward pass in
    eval mode: only where the rows are a multiple of 32, and under those who share the weights.
    """
    modules: Any = model.modules()
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def compute_dtype(dtype: str, device: str = "cpu") -> torch.dtype:
    """The dtype that `auto` stands for: bfloat16 where the hardware multiplies it, else float32.

    A CPU without AMX or AVX-512 BF16 emulates bfloat16 products: measured 28 times slower than
    float32 in a training step.
    """
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def fingerprint_of(name: str) -> str:
    """`sha256:…` of the weight files of a base by path or (cached) hub name.

    Raises `BaseError` when there is no such base or it holds no safetensors files.
    """
    files = sorted(_directory(name).glob("*.safetensors"))
    if not files:
        raise BaseError(f"base {name!r}: no *.safetensors in it; convert the model first")
    total = hashlib.sha256()
    for file in files:
        total.update(_digest_of(file, file.stat().st_mtime_ns))
    return f"sha256:{total.hexdigest()}"


def _directory(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors"]))
    except (OSError, ValueError, HFValidationError) as error:
        raise BaseError(
            f"base {name!r}: neither a directory nor a model that the hub gives: {error}"
        ) from error


@functools.lru_cache(maxsize=64)
def _digest_of(file: Path, _modified_ns: int) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def linear_shapes(name: str) -> dict[str, tuple[int, int]]:
    """`{module path: (out, in)}` of every linear layer of the base's blocks; loads no weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise BaseError(f"base {name!r} cannot be read: {error}") from error
    with torch.device("meta"):
        auto: Any = AutoModelForCausalLM
        model = auto.from_config(config)
    return shapes_of(model)


def shapes_of(model: nn.Module) -> dict[str, tuple[int, int]]:
    """`{module path: (out, in)}` of every linear layer inside the model's blocks."""
    return {
        path: (module.out_features, module.in_features)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in f".{path}"
    }
