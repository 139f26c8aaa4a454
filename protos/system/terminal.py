"""The one place that makes what peers say harmless for a terminal, a log and a page.

A name, a message, a path or a reason may come from a peer. A terminal would obey the control
characters in it, and marks of writing direction would show it in another order than it has. Both
programs write through `echo` and `console` alone, and their logs through `LineFormatter`.
"""

import logging
import re
import sys
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

KEPT = "\n\t"
BROKEN = "\ufffd"
DELETE, LAST = 0x7F, 0x9F
SURROGATES = range(0xD800, 0xE000)
"""What Python reads of bytes that are not UTF-8."""
DIRECTIONS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
SEPARATORS = (0x2028, 0x2029)

_VISIBLE = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in KEPT}
_VISIBLE |= dict.fromkeys((*range(DELETE, LAST + 1), *SURROGATES, *DIRECTIONS, *SEPARATORS), BROKEN)


def visible(text: str) -> str:
    """Control characters as pictures of themselves; line breaks and tabs stay."""
    return text.translate(_VISIBLE)


def plain(text: str, limit: int) -> str:
    """A peer's words as they may be shown: one line, no control characters, not above `limit`."""
    joined = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text[: 2 * limit])
    return visible(joined.strip()[:limit])


def one_line(text: str) -> str:
    """The same without a limit and with its blanks: no line of it can pass for another's."""
    return visible(re.sub(r"[\r\n]+", " ", text))


def echo(text: str, *, err: bool = False) -> None:
    """Print a line, at once: somebody may be reading a pipe."""
    import typer

    typer.echo(visible(text), err=err)


class SafeConsole(Console):
    """A console that obeys its own codes, and none in the text that it is given."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of `renderable`; text in them is made visible, codes of ours are kept."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)


def console(**options: Any) -> Console:
    """A console for what a person reads; `options` are those of rich's."""
    return SafeConsole(**options)


class LineFormatter(logging.Formatter):
    """A record is one line of its own; a traceback follows with its lines, made visible."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's spelling
        """The record's line."""
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's spelling
        """The traceback, whose last lines hold what an error says."""
        return visible(super().formatException(ei))


def guard_streams() -> None:
    """Have warnings and tracebacks that nobody caught go to the terminal made visible, too."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(LineFormatter())
    sys.excepthook = show_traceback


def show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """As Python does, with the text made visible."""
    sys.stderr.write(visible("".join(traceback.format_exception(kind, error, trace))))
