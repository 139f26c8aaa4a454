"""Shows a mixture's text on a terminal, each token in the colour of its leading expert.

The model's text is data: markup and escape codes in it have no effect.
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
    """The terminal's colour system, or None; NO_COLOR is respected."""
    return console.color_system if console.is_terminal and not console.no_color else None


class TokenRenderer:
    """Writes the pieces of a text as they arrive, and plain text without a terminal.

    It uses colours if they are `wanted` and the terminal has them.
    """

    def __init__(self, console: Console, wanted: bool) -> None:
        self.console = console
        self.colours = colours(console) if wanted else None
        self.text = ""
        self._pieces: Pieces | None = None

    @contextmanager
    def following(self, tokenizer: Any, ids: Sequence[int]) -> Iterator[None]:
        """Show a text that continues `ids` inside the block.

        Its line is ended also after an error.
        """
        from fedmore.experts.text.pieces import Pieces

        self.text, self._pieces = "", Pieces(tokenizer, ids[-1:])
        try:
            yield
        finally:
            self._show(self._pieces.rest())
            if self.text and not self.text.endswith("\n"):
                self.console.print()

    def __call__(self, token: int, weights: "Tensor") -> None:
        """Add a token with its weights [L, A]; it is shown when its characters are complete."""
        assert self._pieces is not None
        self._show(self._pieces.add(token, weights))

    def _show(self, piece: "Piece | None") -> None:
        if piece is None or not piece.text:
            return
        self.text += piece.text
        style = Style.parse(terminal_style(int(piece.mean.argmax()), self.colours))
        text = visible(piece.text) if self.console.is_terminal else piece.text
        # Segments are neither wrapped nor are their tabs expanded.
        self.console.print(Segments([Segment(text, style)]), end="", soft_wrap=True)


def legend(used: Mapping[str, float], system: str | None) -> Columns:
    """A legend of every arm with its mean weight, in its colour."""
    parts = [
        Text.assemble((f"■ {name}", terminal_style(arm, system)), f" {weight:.0%}")
        for arm, (name, weight) in enumerate(used.items())
    ]
    return Columns(parts, padding=(0, 3))
