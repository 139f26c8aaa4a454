"""Loads a base's model by transformers' own loader, with its weights or on the meta device."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from fedmore.experts.base.files import one_line, weight_files
from fedmore.experts.base.parts import SAFE, config_of, generation_of
from fedmore.experts.errors import BaseError

_ERRORS = (
    OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError,
    SafetensorError,
)  # fmt: skip


def read_model(
    name: str,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: str = "meta",
    quantization: Any = None,
) -> Any:
    """Load the model in `folder`; on the device `meta` it has shapes but no numbers.

    Raises `BaseError` if the family has no causal LM, or if weights are missing, because
    transformers would fill those with random numbers.
    """
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    config = causal_config(name, folder)
    weight_files(name, folder)
    try:
        model, info = auto.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            device_map=device,
            quantization_config=quantization,
            generation_config=generation_of(folder),
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **SAFE,
        )
    except _ERRORS as error:
        raise BaseError(f"base {name!r} cannot be loaded: {one_line(error)}") from error
    _check_complete(name, info)
    return model


def causal_config(name: str, folder: Path) -> Any:
    """Read the configuration; raises `BaseError` if the family has no causal LM."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = config_of(folder)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        parts = [key for key in ("vision_config", "audio_config") if hasattr(config, key)]
        kind = " and ".join(part.removesuffix("_config") for part in parts) or "another kind of"
        raise BaseError(
            f"base {name!r}: {config.model_type} is a {kind} model that transformers has no causal "
            "language model for; take one of its family that reads text alone"
        )
    return config


def _check_complete(name: str, info: dict[str, Any]) -> None:
    wrong = sorted(map(str, info["mismatched_keys"]))
    missing = sorted(map(str, info["missing_keys"]))
    for what, keys in (("missing", missing), ("of another shape than config.json says", wrong)):
        if keys:
            raise BaseError(
                f"base {name!r}: {len(keys)} tensors are {what}, such as {keys[0]}; take another "
                "copy of it"
            )
