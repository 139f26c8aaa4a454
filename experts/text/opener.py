"""The opener: tokens before a document and maybe a window; one choice per federation.

Some bases were trained with a token before every document and score far worse without it. In others
the <bos> opens something else, such as a turn of a chat. So the choice is made once, by the base's
loss (`fedmore.experts.scoring.opener_choice`). Training, scoring and generation all use it.
"""

import functools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from fedmore.experts.errors import ConfigError

AUTO = "auto"
"""The rule for a federation without a choice: <bos>, else <eos>, else the tokenizer's own."""

NONE = "none"
"""The opener without tokens: documents follow one another directly."""

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Opener:
    """The tokens `ids` that open a document; `windows` says whether they open each window too."""

    name: str
    ids: tuple[int, ...]
    windows: bool = False


def candidates(tokenizer: Any) -> dict[str, tuple[int, ...]]:
    """List this tokenizer's openers by name; of two names for one opener, the first is kept.

    The tokens that the tokenizer itself puts before a text come first, the empty opener last.
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, ids in _named(tokenizer).items():
        if ids and ids not in found.values():
            found[name] = ids
    return found | {NONE: ()}


def _named(tokenizer: Any) -> dict[str, tuple[int, ...]]:
    own = prefix_of(tokenizer)
    named = {"".join(map(str, tokenizer.convert_ids_to_tokens(list(own)))): own}
    for token in (tokenizer.bos_token, tokenizer.eos_token, END_OF_TEXT):
        if token is not None and (number := _id_of(tokenizer, str(token))) is not None:
            named[str(token)] = (number,)
    return named


def _id_of(tokenizer: Any, token: str) -> int | None:
    """Id of a token; None if the tokenizer has no token of that name."""
    number = tokenizer.convert_tokens_to_ids(token)
    known = number is not None and tokenizer.convert_ids_to_tokens(number) == token
    return int(number) if known else None


def prefix_of(tokenizer: Any) -> tuple[int, ...]:
    """Tokens that the tokenizer itself puts before a text."""
    whole: list[int] = tokenizer("a")["input_ids"]
    plain: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return tuple(whole[:start])
    return ()


@functools.lru_cache(maxsize=16)
def resolve(tokenizer: Any, name: str = AUTO, windows: bool = False) -> Opener:
    """Look up the opener `name`; raises `ConfigError` if the tokenizer has no such opener."""
    known = candidates(tokenizer)
    if name == AUTO:
        name = _by_rule(tokenizer, known)
    if name not in known:
        raise ConfigError(
            f"base.opener {name!r}: the base's tokenizer has no such opener; it has "
            f"{', '.join(known)}"
        )
    return Opener(name, known[name], windows and name != NONE)


def _by_rule(tokenizer: Any, known: Collection[str]) -> str:
    wanted = [str(tokenizer.bos_token), str(tokenizer.eos_token), *known]
    return next(name for name in wanted if name in known)
