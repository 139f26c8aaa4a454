"""Finds the folder of a base and checks it before anything in it is loaded.

Only plain safetensors files are loaded, by transformers' own classes. A folder is refused if it
would make transformers run code, download files, or load weights that the fingerprint does not
cover.
"""

import json
import re
from pathlib import Path
from typing import Any

from fedmore.experts.errors import BaseError

Stamp = tuple[tuple[str, int, int], ...]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
WANTED = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_OTHER_WEIGHTS = ("transformers_weights", "fusion_config", "kernel_config")
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")


def folder_of(name: str) -> Path:
    """Find the folder of a base by path or hub name, looking in the hub's cache and on the hub.

    Raises `BaseError` if the name is neither.
    """
    path = expanded(name)
    if path.is_dir():
        return path
    if path.is_file():
        raise BaseError(f"base {name!r} is a file; convert it to a folder with {WEIGHTS} first")
    if not _HUB_NAME.fullmatch(name):
        raise BaseError(
            f"base {name!r}: neither a directory nor a model on the hub; give a folder's path, or "
            "a name like ORG/MODEL"
        )
    return _snapshot(name)


def stamp_of(folder: Path) -> Stamp:
    """Name, size and time of every file of a folder; caches are valid while these stay equal."""
    files = [(file, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
    return tuple((file.name, state.st_size, state.st_mtime_ns) for file, state in files)


def is_path(name: str) -> bool:
    """Whether a base's name is a path on this machine, not the name of a model on the hub."""
    return not _HUB_NAME.fullmatch(name) or expanded(name).exists()


def expanded(name: str) -> Path:
    """Expand `~` in a path; raises `BaseError` if that home folder does not exist."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise BaseError(f"base {name!r}: {error}") from error


def _snapshot(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED), ignore_patterns=["*/*"]))
    except (OSError, ValueError) as error:  # the hub's own errors derive from these classes
        raise BaseError(
            f"base {name!r}: neither a directory nor a model that the hub gives: {one_line(error)}"
        ) from error


def one_line(error: Exception) -> str:
    """The first line of an error's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; raises `BaseError` for a missing or damaged file."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BaseError(f"base: {file} cannot be read: {one_line(error)}") from error
    if not isinstance(table, dict):
        raise BaseError(f"base: {file} cannot be read: not a JSON object")
    return table


def check_folder(name: str, folder: Path) -> None:
    """Raise `BaseError` if the folder must not or cannot be loaded as a base."""
    config = read_json(folder / "config.json")
    if (folder / "adapter_config.json").exists():
        raise BaseError(
            f"base {name!r}: {folder / 'adapter_config.json'} is of a PEFT adapter, which would be "
            "loaded into the base; merge it into the weights, or take it out of the folder"
        )
    for key, value in _walk(config):
        _check_key(name, key, value)
    if any(_DISTRIBUTED.fullmatch(file.name) for file in folder.glob("shard-*")):
        raise BaseError(f"base {name!r}: a distributed checkpoint; save it with save_pretrained")


def _walk(table: Any, depth: int = 0) -> list[tuple[str, Any]]:
    if depth > 8 or not isinstance(table, (dict, list)):
        return []
    pairs = list(table.items()) if isinstance(table, dict) else [("", each) for each in table]
    return pairs + [found for _, value in pairs for found in _walk(value, depth + 1)]


def _check_key(name: str, key: str, value: Any) -> None:
    if key in _OTHER_WEIGHTS and value:
        raise BaseError(f"base {name!r}: config.json sets {key}, which is not supported; remove it")
    if key.lstrip("_") in _IMPLEMENTATIONS and value not in (None, "eager", "sdpa"):
        raise BaseError(
            f"base {name!r}: config.json sets {key} to {value!r}, which may fetch code from the "
            "hub; remove it"
        )
    if key == "quantization_config" and isinstance(value, dict):
        method = str(value.get("quant_method", "bitsandbytes"))
        if method != "bitsandbytes":
            raise BaseError(
                f"base {name!r}: its weights are quantised already ({method}); take the base as it "
                "was before, base.quantization = nf4 quantises it here"
            )


def weight_files(name: str, folder: Path) -> list[Path]:
    """The safetensors files that transformers loads from `folder`, and no others."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise BaseError(
            f"base {name!r}: no {WEIGHTS} in {folder}; only *.safetensors files are loaded, so "
            "convert the model first"
        )
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise BaseError(f"base {name!r}: {folder / INDEX} has no weight_map")
    files = sorted(set(map(str, places.values())))
    for file in files:
        if Path(file).name != file or not (folder / file).is_file():
            raise BaseError(f"base {name!r}: {folder / INDEX} names {file!r}, which is not there")
    return [folder / file for file in files]
