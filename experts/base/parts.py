"""Reads the parts of a base beside its weights: configuration, tokenizer, generation settings.

Everything comes from the folder alone and is read by transformers' own classes. Code in the folder
is never run, and the user is never prompted.
"""

import functools
from pathlib import Path
from typing import Any

from fedmore.experts.base.files import Stamp, one_line, read_json, stamp_of
from fedmore.experts.errors import BaseError

SAFE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
"""Options for every `from_pretrained`: no code from the folder, and no downloads."""

USED = (
    "eos_token_id", "bos_token_id", "pad_token_id", "repetition_penalty", "no_repeat_ngram_size",
    "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "min_p", "typical_p",
)  # fmt: skip
"""The generation settings of a base that a mixture uses."""

_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError)


def quiet() -> None:
    """Turn off the progress bars of `transformers`, which would mix with our own output."""
    from transformers.utils import logging

    untyped: Any = logging
    untyped.set_verbosity_error()
    untyped.disable_progress_bar()


def config_of(folder: Path) -> Any:
    """Read the configuration; raises `BaseError` if transformers does not know the family."""
    from transformers import AutoConfig

    quiet()
    try:
        return AutoConfig.from_pretrained(folder, **SAFE)
    except _ERRORS as error:
        table = read_json(folder / "config.json")
        if "auto_map" in table:
            raise BaseError(
                f"base {str(folder)!r} ({table.get('model_type')}): it needs code of its own, "
                "which is never run here; take a base that transformers itself knows"
            ) from error
        raise BaseError(f"base {str(folder)!r} cannot be read: {one_line(error)}") from error


def tokenizer_of(folder: Path) -> Any:
    """Load the base's tokenizer, once; raises `BaseError` if it cannot be used."""
    return _tokenizer(folder, stamp_of(folder))


@functools.lru_cache(maxsize=2)
def _tokenizer(folder: Path, _stamp: Stamp) -> Any:
    from transformers import AutoTokenizer

    quiet()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **SAFE)
    except Exception as error:
        raise BaseError(
            f"base {str(folder)!r}: its tokenizer cannot be loaded: {one_line(error)}"
        ) from error
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise BaseError(
            f"base {str(folder)!r}: its tokenizer has neither a start nor an end token; set "
            "eos_token in tokenizer_config.json"
        )
    return tokenizer


def check_vocabulary(name: str, tokenizer: Any, rows: int) -> None:
    """Raise `BaseError` if the tokenizer has tokens for which the model has no embedding."""
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise BaseError(
            f"base {name!r}: its tokenizer goes up to token {largest}, and the model has {rows} "
            "embeddings; the two do not belong together"
        )


def generation_of(folder: Path) -> Any:
    """Read the generation settings that a mixture uses, and drop all others.

    A base may ask for several answers at once, for beams, or for a special cache. A mixture always
    gives one text, token by token.
    """
    from transformers import GenerationConfig

    config: Any = GenerationConfig
    file = folder / "generation_config.json"
    given = read_json(file) if file.is_file() else vars(config_of(folder))
    chosen = {key: given[key] for key in USED if given.get(key) is not None}
    try:
        return config(**chosen)
    except _ERRORS as error:
        raise BaseError(f"base: {file} cannot be used: {one_line(error)}") from error
