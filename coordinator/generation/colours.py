"""One colour for each expert, by its place in the mixture; the same on terminals and pages.

Okabe and Ito's colours, which colour-blind readers can tell apart, some a little darker or lighter.
Text in each has a contrast of at least 3 both on white and on black. Names and numbers stand beside
the colours, so colour is never the only sign.
"""

PUBLIC = "#6b6b6b"
"""The public expert: the base's own network."""

COLOURS = ("#0072B2", "#C8500A", "#007F5C", "#AF4A8A", "#3A8FC7", "#8A6D00")

FEW = ("blue", "red", "green", "magenta", "cyan", "yellow")
"""The colours for a terminal of 16 colours, chosen so that no two become equal."""

MARKS = ("", "underline", "bold", "italic")
"""Text styles that distinguish arms with the same colour on the terminal."""


def colour(arm: int) -> str:
    """The colour of arm 0, the public expert, or of the expert `arm` - 1."""
    return PUBLIC if arm == 0 else COLOURS[(arm - 1) % len(COLOURS)]


def terminal_style(arm: int, system: str | None) -> str:
    """The arm's colour as a style of rich for a colour system; None means no colours.

    The public expert is dim, in the terminal's own colour.
    """
    if system is None or arm == 0:
        return "dim" if system else ""
    again, place = divmod(arm - 1, len(COLOURS))
    shade = COLOURS[place] if system in ("256", "truecolor") else FEW[place]
    return f"{MARKS[again % len(MARKS)]} {shade}".strip()
