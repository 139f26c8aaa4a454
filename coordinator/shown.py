"""Text of a mixture on a terminal: every token in the colour of the expert that had most weight.

The model's text is data: neither markup nor escape codes in it are obeyed.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text

from fedmore.coordinator.palette import terminal_style

if TYPE_CHECKING:  # they import torch
    from torch import Tensor

    from fedmore.experts.pieces import Piece, Pieces

KEPT = "\n\t"
DELETE, LAST = 0x7F, 0x9F
_VISIBLE = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in KEPT}
_VISIBLE |= dict.fromkeys(range(DELETE, LAST + 1), "\ufffd")


def visible(text: str) -> str:
    """Control characters as pictures of themselves: a terminal would obey them."""
    return text.translate(_VISIBLE)


class Painter:
    """Writes the pieces of one text as they come.

    Colours only where `wanted` and on a terminal that has them: NO_COLOR is respected.
    """

    def __init__(self, console: Console, wanted: bool) -> None:
        self.console = console
        self.coloured = wanted and console.is_terminal and not console.no_color
        self.text = ""
        self._pieces: Pieces | None = None

    def begin(self, tokenizer: Any, ids: Sequence[int]) -> None:
        """A text that goes on with `ids`."""
        from fedmore.experts.pieces import Pieces

        self.text, self._pieces = "", Pieces(tokenizer, ids[-1:])

    def __call__(self, token: int, weights: "Tensor") -> None:
        """A new token with its weights [L, A]; it is shown once it makes whole characters."""
        assert self._pieces is not None
        self._show(self._pieces.add(token, weights))

    def end(self) -> None:
        """Show what is left, and end the line."""
        assert self._pieces is not None
        self._show(self._pieces.rest())
        if not self.text.endswith("\n"):
            self.console.print()

    def _show(self, piece: "Piece | None") -> None:
        if piece is None or not piece.text:
            return
        self.text += piece.text
        style = None
        if self.coloured:
            style = Style.parse(terminal_style(int(piece.mean.argmax())))
        # As segments: nothing is wrapped, and tabs stay tabs.
        shown = Segments([Segment(visible(piece.text), style)])
        self.console.print(shown, end="", soft_wrap=True)


def legend(used: Mapping[str, float], coloured: bool = True) -> Text:
    """One line: every arm with its mean weight, in its colour."""
    parts = []
    for arm, (name, weight) in enumerate(used.items()):
        style = terminal_style(arm) if coloured else ""
        parts.append(Text.assemble((f"■ {name}", style), f" {weight:.0%}"))
    return Text("   ").join(parts)
