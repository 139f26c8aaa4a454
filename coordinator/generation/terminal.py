"""Text of a mixture on a terminal: every token in the colour of the expert that had most weight.

The model's text is data: neither markup nor escape codes in it are obeyed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.columns import Columns
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text

from fedmore.coordinator.generation.colours import terminal_style
from fedmore.protos.system.terminal import visible

if TYPE_CHECKING:  # they import torch
    from torch import Tensor

    from fedmore.experts.text.pieces import Piece, Pieces


def colours(console: Console) -> str | None:
    """The colour system of a terminal that has one; NO_COLOR is respected."""
    return console.color_system if console.is_terminal and not console.no_color else None


class TokenRenderer:
    """Writes the pieces of one text as they come, and plain text if there is no terminal.

    Colours only where `wanted`, and on a terminal that has them.
    """

    def __init__(self, console: Console, wanted: bool) -> None:
        self.console = console
        self.colours = colours(console) if wanted else None
        self.text = ""
        self._pieces: Pieces | None = None

    @contextmanager
    def following(self, tokenizer: Any, ids: Sequence[int]) -> Iterator[None]:
        """Inside, a text that goes on from `ids` is made; its line is ended whatever happens."""
        from fedmore.experts.text.pieces import Pieces

        self.text, self._pieces = "", Pieces(tokenizer, ids[-1:])
        try:
            yield
        finally:
            self._show(self._pieces.rest())
            if self.text and not self.text.endswith("\n"):
                self.console.print()

    def __call__(self, token: int, weights: "Tensor") -> None:
        """A new token with its weights [L, A]; it is shown once it makes whole characters."""
        assert self._pieces is not None
        self._show(self._pieces.add(token, weights))

    def _show(self, piece: "Piece | None") -> None:
        if piece is None or not piece.text:
            return
        self.text += piece.text
        style = Style.parse(terminal_style(int(piece.mean.argmax()), self.colours))
        text = visible(piece.text) if self.console.is_terminal else piece.text
        # As segments: nothing is wrapped, and tabs stay tabs.
        self.console.print(Segments([Segment(text, style)]), end="", soft_wrap=True)


def legend(used: Mapping[str, float], system: str | None) -> Columns:
    """Every arm with its mean weight, in its colour."""
    parts = [
        Text.assemble((f"■ {name}", terminal_style(arm, system)), f" {weight:.0%}")
        for arm, (name, weight) in enumerate(used.items())
    ]
    return Columns(parts, padding=(0, 3))
