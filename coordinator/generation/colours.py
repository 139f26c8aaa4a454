"""One colour for each expert, by its place in the mixture; the same on terminals and pages.

Okabe and Ito's colours, which colour-blind readers tell apart, some a little darker or lighter:
text in each has a contrast of 3 or more both on white and on black. Nothing is told by colour
alone: names and numbers stand beside it.
"""

PUBLIC = "#6b6b6b"
"""The public expert: the base's own network."""

COLOURS = ("#0072B2", "#C8500A", "#007F5C", "#AF4A8A", "#3A8FC7", "#8A6D00")

FEW = ("blue", "red", "green", "magenta", "cyan", "yellow")
"""The same on a terminal of 16 colours; the nearest of those would make two of them one."""

MARKS = ("", "underline", "bold", "italic")
"""How the terminal tells those apart that have a colour in common."""


def colour(arm: int) -> str:
    """Of arm 0, the public expert, or of the expert `arm` - 1."""
    return PUBLIC if arm == 0 else COLOURS[(arm - 1) % len(COLOURS)]


def terminal_style(arm: int, system: str | None) -> str:
    """The same as a style of rich on a terminal with its colour system; None: without colours.

    The public expert is dim, in the terminal's own colour.
    """
    if system is None or arm == 0:
        return "dim" if system else ""
    again, place = divmod(arm - 1, len(COLOURS))
    shade = COLOURS[place] if system in ("256", "truecolor") else FEW[place]
    return f"{MARKS[again % len(MARKS)]} {shade}".strip()
