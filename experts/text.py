"""Documents: read from an owner's files, cut into training windows, or scored one by one."""

import json
import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedmore.experts.errors import DataError

PLAIN = (".txt", ".md")
TABLES = {".csv": "csv", ".parquet": "parquet"}
KNOWN = (*PLAIN, ".jsonl", *TABLES)


def read_documents(path: Path) -> list[str]:
    """All documents below `path` (a file or a folder), in order of file name.

    A .txt or .md file is one document; a .jsonl, .csv or .parquet file is one a row, in its column
    `text`. Raises `DataError` when the path cannot be read or holds no text.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    documents = [text for file in _files(path) for text in _read(file) if text.strip()]
    if not documents:
        raise DataError(f"{path}: no text in it; expected files ending in {', '.join(KNOWN)}")
    return documents


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    try:
        return sorted(f for f in path.rglob("*") if f.suffix in KNOWN and f.is_file())
    except OSError as error:
        raise DataError(f"{path}: cannot be listed: {error.strerror}") from error


def _read(file: Path) -> Iterator[str]:
    try:
        if file.suffix in PLAIN:
            yield file.read_text(encoding="utf-8")
        elif file.suffix == ".jsonl":
            yield from _lines(file)
        elif file.suffix in TABLES:
            yield from _table(file)
        else:
            raise DataError(f"{file}: unknown kind of file; known are {', '.join(KNOWN)}")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text: {error}") from error


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = json.loads(line)["text"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise DataError(f'{file}:{number}: expected {{"text": …}} a line') from error
            if not isinstance(text, str):
                raise DataError(f"{file}:{number}: text is {type(text).__name__}, not a string")
            yield text


def _table(file: Path) -> Iterator[str]:
    # A cache of its own, gone afterwards: private text is not left in a shared cache folder.
    with tempfile.TemporaryDirectory() as cache:
        rows = _load(file, cache)
        if "text" not in rows.column_names:
            raise DataError(f"{file}: no column named text, only {', '.join(rows.column_names)}")
        yield from (str(text) for text in rows["text"] if text is not None)


def _load(file: Path, cache: str) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    kind = TABLES[file.suffix]
    try:
        return load_dataset(
            kind, data_files=str(file), split="train", cache_dir=cache, keep_in_memory=True
        )
    except (DatasetsError, ValueError) as error:
        cause = error.__cause__ or error
        raise DataError(f"{file}: not a {file.suffix} table: {cause}") from error


def start_token(tokenizer: Any) -> int:
    """The token that opens a document: <bos> where there is one, else <eos>."""
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return int(token)


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Tokens of one document, opened by the start token."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [start_token(tokenizer), *ids]


def windows(documents: Sequence[str], tokenizer: Any, length: int, count: int, seed: int) -> Tensor:
    """`count` training windows [count, length + 1] of shuffled documents laid end to end.

    Tokenises only as much as it needs and starts over when the text is used up. Raises `DataError`
    when there is not one token to train on.
    """
    if not documents:
        raise DataError("no documents to train on")
    stream = _endless(documents, tokenizer, seed)
    needed = count * length + 1
    tokens: list[int] = []
    while len(tokens) < needed:
        tokens.extend(next(stream))
    flat = torch.tensor(tokens[:needed])
    return flat.unfold(0, length + 1, length).clone()


def _endless(documents: Sequence[str], tokenizer: Any, seed: int) -> Iterator[list[int]]:
    order = list(range(len(documents)))
    generator = random.Random(seed)
    while True:
        generator.shuffle(order)
        for index in order:
            yield tokenize(tokenizer, documents[index])


def sample(documents: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` documents (or all), drawn without replacement."""
    generator = random.Random(seed)
    chosen: Iterable[str] = generator.sample(list(documents), min(count, len(documents)))
    return list(chosen)
