"""The owner's text: looked at before an invite is used, and read for the tasks."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedmore.experts.reading.documents import Format, read_corpus, read_documents


def look_at(path: Path, form: Format, say: Callable[[str], None]) -> None:
    """Read the text once, so that a wrong path is known now; says what was read and left out.

    No base is there yet, so of a conversation only its form is checked.
    """
    corpus = read_corpus(path, form, _transcript)
    say(f"{path}: {len(corpus.documents)} documents; they stay on this machine")
    for note in corpus.notes:
        say(f"  {note}")


@functools.lru_cache
def documents_of(
    path: Path, form: Format, base: str, dtype: str, device: str, quantization: str
) -> tuple[str, ...]:
    """The owner's documents, read once a process; conversations by the base's chat template.

    The arguments after `form` are those of `load_base`, which is called for conversations alone.
    """
    from fedmore.experts.base.model import load_base
    from fedmore.experts.reading.conversations import chat_template

    def converse(turns: list[dict[str, Any]]) -> str:
        tokenizer = load_base(base, dtype, device, quantization).tokenizer
        return chat_template(tokenizer)(turns)

    return tuple(read_documents(path, form, converse))


def _transcript(turns: list[dict[str, Any]]) -> str:
    return "\n".join(str(turn["content"]) for turn in turns)
