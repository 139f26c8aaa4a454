"""Marks the control tokens that a chat template wrote; in all other text they are plain text.

An owner's text that contains `<|im_end|>` is text. In a formatted conversation, each of the
template's own control tokens stands between two marks, which tells it from the same characters in a
turn. The marks are noncharacters of Unicode, which texts for interchange never contain.
"""

import re
from collections.abc import Iterator
from typing import Any

OPEN, CLOSE, SPLIT = "\ufdd0", "\ufdd1", "\ufdd2"
_MARKS = re.compile(f"[{OPEN}{CLOSE}{SPLIT}]")


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Every token that means something other than its characters, the longest first."""
    added = tokenizer.added_tokens_decoder.values()
    found = {*map(str, tokenizer.all_special_tokens), *(str(t) for t in added if t.special)}
    return tuple(sorted(found, key=lambda token: (-len(token), token)))


def _pattern(tokenizer: Any) -> str:
    return "|".join(map(re.escape, control_tokens(tokenizer))) or "(?!)"


def unmarked(text: str) -> str:
    """Remove the marks."""
    return _MARKS.sub("", text)


def as_text(tokenizer: Any, value: Any) -> Any:
    """Split the control tokens in a turn's strings, so that none is left; `mark` undoes it."""
    if isinstance(value, str):
        parts = re.compile(_pattern(tokenizer))
        return parts.sub(lambda m: m[0][:1] + SPLIT + m[0][1:], unmarked(value))
    if isinstance(value, dict):
        return {key: as_text(tokenizer, each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_text(tokenizer, each) for each in value]
    return value


def mark(tokenizer: Any, text: str) -> str:
    """Mark the template's own tokens in its output for turns that went through `as_text`."""
    return re.sub(f"({_pattern(tokenizer)})", f"{OPEN}\\1{CLOSE}", text).replace(SPLIT, "")


def parts(tokenizer: Any, text: str) -> Iterator[tuple[str, bool]]:
    """Split the text into plain text (false) and marked control tokens (true)."""
    found = re.split(f"{OPEN}({_pattern(tokenizer)}){CLOSE}", text)
    for index, part in enumerate(found):
        if part:
            yield part, index % 2 == 1
