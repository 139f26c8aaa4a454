"""The exception tree that a reader sees in the docstring is the one that there is."""

import re

from fedmore.experts import errors
from fedmore.experts.errors import FedmoreError

_NODE = re.compile(r"^(?P<indent>[ │├└─]*)(?P<name>\w+Error)\b(?P<what>.*)$")


def drawn() -> dict[str, str | None]:
    """Every class of the drawing and the one above it."""
    parents: dict[str, str | None] = {}
    open_branches: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = _NODE.match(line)
        if match is None:
            continue
        column = len(match["indent"])
        while open_branches and open_branches[-1][0] >= column:
            open_branches.pop()
        parents[match["name"]] = open_branches[-1][1] if open_branches else None
        open_branches.append((column, match["name"]))
    return parents


def classes() -> list[type[FedmoreError]]:
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, FedmoreError)
    ]


def test_the_drawing_is_the_tree() -> None:
    real = {
        cls.__name__: None if cls is FedmoreError else cls.__bases__[0].__name__
        for cls in classes()
    }
    assert drawn() == real


def test_every_class_says_what_it_is() -> None:
    assert [cls.__name__ for cls in classes() if not cls.__doc__] == []
