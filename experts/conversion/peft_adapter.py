"""A LoRA adapter in the format of PEFT as a change of the base, exact to the last bit.

PEFT reads it: rank and alpha patterns, rsLoRA's scale and target names are its business. What no
pair of factors can say (DoRA, biases, retrained embeddings) is refused.
"""

import copy
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from fedmore.experts.base.files import one_line
from fedmore.experts.base.suitability import suitability
from fedmore.experts.conversion.change import Converted, cut, with_whole_ffns
from fedmore.experts.errors import ConfigError
from fedmore.experts.factors import Factors
from fedmore.experts.spec import Shapes

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
REFUSED = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices",
           "target_parameters", "layer_replication", "use_qalora", "corda_config")  # fmt: skip
"""Settings of an adapter that change more than products of two factors do."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a model."""
    return (folder / CONFIG).is_file()


def adapter_change(base: str, folder: Path, shapes: Shapes, rank: int | None) -> Converted:
    """The change of `base` by the adapter in `folder`, cut to `rank` directions if given.

    Raises `ConfigError` for what is no LoRA adapter of this base, or cannot be an expert.
    """
    layers, tensors = _loaded(base, folder)
    for path in layers:
        if path not in shapes:
            raise ConfigError(f"{folder}: it changes {path}, which an expert cannot change")
    try:
        found: Factors = {path: _factors(tensors, path, scale) for path, scale in layers.items()}
    except KeyError as error:
        raise ConfigError(f"{folder}: {WEIGHTS} has no {error}; save the adapter again") from error
    if not found or tensors:
        raise ConfigError(f"{folder}: no LoRA adapter of {base}: {_strange(tensors)}")
    kept, lost = cut(found, rank) if rank else (found, 0.0)
    return Converted(with_whole_ffns(kept, shapes), lost)


def _loaded(base: str, folder: Path) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The scale of every layer that the adapter changes, and the tensors of its file.

    PEFT puts the adapter into the base without its weights, and so checks names and shapes.
    """
    try:
        from peft import PeftConfig, PeftModel, load_peft_weights
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{folder}: reading an adapter needs peft; pip install 'fedmore[peft]'"
        ) from error
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(f"{folder}: no {WEIGHTS}; only safetensors files are read")
    try:
        config: Any = PeftConfig.from_pretrained(str(folder))
        _check(folder, config)
        skeleton = copy.deepcopy(suitability(base).model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
            model = PeftModel.from_pretrained(skeleton, str(folder), low_cpu_mem_usage=True)
        return dict(_layers(model)), load_peft_weights(str(folder), device="cpu")
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{folder}: no adapter of {base}: {one_line(error)}") from error


def _check(folder: Path, config: Any) -> None:
    kind = getattr(config.peft_type, "value", config.peft_type)
    if kind != "LORA":
        raise ConfigError(f"{folder}: an adapter of type {kind}; only LoRA can be an expert")
    if config.bias != "none":
        raise ConfigError(f"{folder}: it also trains biases, which an expert cannot hold")
    for name in REFUSED:
        if getattr(config, name, None):
            raise ConfigError(f"{folder}: it was made with {name}, which an expert cannot hold")


def _layers(model: Any) -> Iterator[tuple[str, float]]:
    from peft.tuners.lora import LoraLayer

    for path, module in model.base_model.model.named_modules():
        if isinstance(module, LoraLayer):
            (name,) = module.active_adapters
            yield path, float(module.scaling[name])


def _factors(tensors: dict[str, Tensor], path: str, scale: float) -> tuple[Tensor, Tensor]:
    """B [out, R] with the scale in it and A [R, in], float32, taken out of the tensors."""
    b, a = (tensors.pop(f"base_model.model.{path}.{name}.weight") for name in ("lora_B", "lora_A"))
    return (b.float() * scale).contiguous(), a.float().contiguous()


def _strange(tensors: Collection[str]) -> str:
    return f"its file holds {min(tensors)}" if tensors else "it changes no layer"
