"""The fingerprint of a base: one line, equal for equal bases however they are saved.

It covers the tensors that are loaded: name, dtype, shape and content, but not the files that hold
them. It also covers everything else that the model's output depends on: configuration, tokenizer,
chat template and the generation settings that are used. A base with NaN has no fingerprint, since
every number is checked on the way.
"""

import functools
import hashlib
import json
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedmore.experts.base.files import Stamp, check_folder, folder_of, stamp_of, weight_files
from fedmore.experts.base.parts import config_of, generation_of, tokenizer_of
from fedmore.experts.errors import BaseError

SCHEME = "v2"
"""Prefix of every fingerprint. The first scheme, which hashed weight files, used `sha256:`."""

UNSEEN = frozenset(
    ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "architectures", "use_cache",
     "auto_map", "_commit_hash", "output_attentions", "output_hidden_states", "return_dict")
)  # fmt: skip
"""Keys of a configuration that do not influence the model's output."""

_INFINITY = {"F64": 0x7FF << 52, "F32": 0xFF << 23, "F16": 0x1F << 10, "BF16": 0xFF << 7}
"""Bits of plus infinity, by dtype."""

_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2,
          "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its byte range, and the properties that enter the fingerprint."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def fingerprint_of(name: str) -> str:
    """Compute the fingerprint, `v2:…`, of a base by path or hub name.

    Raises `BaseError` if the base is missing, damaged, truncated, or contains NaN or infinity.
    """
    folder = folder_of(name)
    check_folder(name, folder)
    total = hashlib.sha256(_weights(name, folder).encode())
    total.update(_settings(folder, stamp_of(folder)))
    return f"{SCHEME}:{total.hexdigest()}"


@functools.lru_cache(maxsize=4)
def _settings(folder: Path, _stamp: Stamp) -> bytes:
    """Digest of everything except the weights."""
    parts = (_config(folder), _tokenizer(folder), _generation(folder))
    lines = (json.dumps(part, sort_keys=True, default=str).encode() + b"\n" for part in parts)
    return hashlib.sha256(b"".join(lines)).digest()


def explain(found: str, wanted: str) -> str:
    """Advice for two fingerprints that differ; begins with a semicolon."""
    if found.partition(":")[0] == wanted.partition(":")[0]:
        return "; weights, configuration and tokenizer have to be the same"
    return (
        f"; the expected one comes from another version of fedmore (this one makes {SCHEME}:…): "
        "use that version to the end of the federation, or make it again with `coordinator init`"
    )


def _weights(name: str, folder: Path) -> str:
    lines: dict[str, str] = {}
    for file in weight_files(name, folder):
        state = file.stat()
        for tensor, line in _digests(file.resolve(), state.st_size, state.st_mtime_ns):
            if tensor in lines:
                raise BaseError(f"base {name!r}: {tensor} is in more than one file")
            lines[tensor] = line
    return "".join(f"{lines[tensor]}\n" for tensor in sorted(lines))


@functools.lru_cache(maxsize=256)
def _digests(file: Path, size: int, _modified_ns: int) -> tuple[tuple[str, str], ...]:
    """Name and describing line, with its digest, of every tensor in a file."""
    with file.open("rb") as stream:
        if size < 8:
            raise BaseError(f"base: {file} is cut short; fetch it again")
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return tuple(_lines(file, data, size))


def _lines(file: Path, data: mmap.mmap, size: int) -> Iterator[tuple[str, str]]:
    start, entries = _header(file, data, size)
    with memoryview(data) as view:
        for entry in entries:
            with view[start + entry.begin : start + entry.end] as part:
                digest = hashlib.sha256(part).hexdigest()
            _check_numbers(file, entry, data, start)
            yield entry.name, json.dumps([entry.name, entry.dtype, entry.shape, digest])


def _header(file: Path, data: mmap.mmap, size: int) -> tuple[int, list[Entry]]:
    length = int.from_bytes(data[:8], "little")
    start = 8 + length
    try:
        if start > size:
            raise ValueError("cut short")
        table = json.loads(data[8:start])
        table.pop("__metadata__", None)
        entries = [
            Entry(name, each["dtype"], tuple(each["shape"]), *each["data_offsets"])
            for name, each in table.items()
        ]
        _check_whole(entries, size - start)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BaseError(
            f"base: {file} is damaged or cut short ({error}); fetch it again"
        ) from error
    return start, entries


def _check_whole(entries: list[Entry], size: int) -> None:
    """Raise `ValueError` unless the tensors fill the file one after another, without gaps."""
    at = 0
    for entry in sorted(entries, key=lambda each: (each.begin, each.end)):
        length = math.prod(entry.shape) * _BYTES.get(entry.dtype, 0)
        if entry.begin != at or entry.end - entry.begin != length:
            raise ValueError(f"{entry.name} is not where it should be")
        at = entry.end
    if at != size:
        raise ValueError(f"{size} bytes of tensors instead of {at}")


def _check_numbers(file: Path, entry: Entry, data: mmap.mmap, start: int) -> None:
    """Raise `BaseError` if the tensor contains NaN or infinity.

    The bits are compared as integers: without the sign, infinity and NaN have the largest ones.
    """
    if entry.dtype not in _INFINITY or entry.begin == entry.end:
        return
    size, infinity = _BYTES[entry.dtype], _INFINITY[entry.dtype]
    count, place = (entry.end - entry.begin) // size, start + entry.begin
    signed = np.frombuffer(data, f"<i{size}", count, place)
    unsigned = np.frombuffer(data, f"<u{size}", count, place)
    if int(signed.max()) >= infinity or int(unsigned.max()) >= infinity + (1 << (8 * size - 1)):
        raise BaseError(
            f"base: {entry.name} in {file} holds NaN or infinity; such a base cannot be trained, "
            "take another copy of it"
        )


def _config(folder: Path) -> Any:
    config = config_of(folder)
    return [type(config).__name__, _seen(config.to_diff_dict())]


def _seen(value: Any) -> Any:
    """The value without the keys that do not influence the output."""
    if isinstance(value, dict):
        return {str(k): _seen(v) for k, v in value.items() if k not in UNSEEN and v is not None}
    return [_seen(each) for each in value] if isinstance(value, (list, tuple)) else value


def _tokenizer(folder: Path) -> Any:
    """Describe the tokenizer: rules, vocabulary, special tokens and chat template."""
    tokenizer = tokenizer_of(folder)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: Any = [type(tokenizer).__name__, tokenizer.get_vocab()]
    else:
        rules = json.loads(backend.to_str())
        rules = {k: v for k, v in rules.items() if k not in ("version", "truncation", "padding")}
    return [rules, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.chat_template]


def _generation(folder: Path) -> Any:
    return generation_of(folder).to_diff_dict() | {"transformers_version": ""}
