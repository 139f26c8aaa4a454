"""Makes texts from peers harmless for terminals, logs and pages.

A name, message, path or reason may come from a peer. A terminal would obey control characters in
it, and direction marks would change the order in which it is shown. Both programs write only
through `echo` and `console`, and their logs only through `LineFormatter`.
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
"""Characters by which Python represents bytes that are not UTF-8."""
DIRECTIONS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
SEPARATORS = (0x2028, 0x2029)

_VISIBLE = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in KEPT}
_VISIBLE |= dict.fromkeys((*range(DELETE, LAST + 1), *SURROGATES, *DIRECTIONS, *SEPARATORS), BROKEN)


def visible(text: str) -> str:
    """Replace control characters by visible signs; line breaks and tabs are kept."""
    return text.translate(_VISIBLE)


def plain(text: str, limit: int) -> str:
    """Make a peer's text showable: one line, no control characters, at most `limit` characters."""
    joined = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text[: 2 * limit])
    return visible(joined.strip()[:limit])


def one_line(text: str) -> str:
    """Make a text one line without control characters, so that it cannot imitate other lines."""
    return visible(re.sub(r"[\r\n]+", " ", text))


def echo(text: str, *, err: bool = False) -> None:
    """Print a line and flush it, since it may go to a pipe."""
    import typer

    typer.echo(visible(text), err=err)


class SafeConsole(Console):
    """A console whose own styles work, while codes in the given text have no effect."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render segments with visible text; our own control codes are kept."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)


def console(**options: Any) -> Console:
    """Make a console for a person; `options` are those of rich."""
    return SafeConsole(**options)


class LineFormatter(logging.Formatter):
    """Formats a record as one line; a traceback follows in further lines, with visible text."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's spelling
        """Format the record as one line."""
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's spelling
        """Format the traceback, whose last lines contain the error's text."""
        return visible(super().formatException(ei))


def guard_streams() -> None:
    """Make warnings and uncaught tracebacks visible on the terminal, too."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(LineFormatter())
    sys.excepthook = show_traceback


def show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a traceback as Python does, with visible text."""
    sys.stderr.write(visible("".join(traceback.format_exception(kind, error, trace))))
