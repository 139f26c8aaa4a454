"""Notes on reading an owner's files: what was left out, replaced or taken by a near name."""

from collections import defaultdict

EXAMPLES = 3


class Notes:
    """Counts events by kind with their first examples, for one line each to the owner."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, what: str, example: str = "") -> None:
        """Count one more event of the kind `what`."""
        self._counts[what] += 1
        examples = self._examples[what]
        if example and example not in examples and len(examples) < EXAMPLES:
            examples.append(example)

    def lines(self) -> tuple[str, ...]:
        """One line per kind, in order of first appearance."""
        return tuple(self._line(what, count) for what, count in self._counts.items())

    def _line(self, what: str, count: int) -> str:
        named = ", ".join(self._examples[what])
        return f"{what}: {count}" + (f" ({named})" if named else "")
