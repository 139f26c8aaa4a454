"""What reading did besides reading: files left out, characters replaced, columns taken."""

from collections import defaultdict

EXAMPLES = 3


class Notes:
    """Counts of what happened, each with its first examples; said to the owner in one line each."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, what: str, example: str = "") -> None:
        """Note that `what` happened once more."""
        self._counts[what] += 1
        examples = self._examples[what]
        if example and example not in examples and len(examples) < EXAMPLES:
            examples.append(example)

    def lines(self) -> tuple[str, ...]:
        """One line for each kind, in order of the first."""
        return tuple(self._line(what, count) for what, count in self._counts.items())

    def _line(self, what: str, count: int) -> str:
        named = ", ".join(self._examples[what])
        return f"{what}: {count}" + (f" ({named})" if named else "")
