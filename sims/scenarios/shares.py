"""`fedmore sim shares`: measures what the sides of a scenario's texts share."""

import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from rich.table import Table

from fedmore.sims.data.grams import PASSAGE, PHRASE, Shares, shares
from fedmore.sims.data.split import portions
from fedmore.sims.data.texts import TextFiles, read_documents
from fedmore.sims.scenarios.scenario import Scenario

HEADINGS = (
    "documents",
    f"with {PASSAGE} words of them",
    f"{PHRASE} words, mean",
    "most",
    "heads",
    "mean",
    "most",
)


def measure(scenario: Scenario) -> Iterator[tuple[str, Shares]]:
    """Measure all pairs of sides that should share nothing, and all pairs of owners of a text."""
    with tempfile.TemporaryDirectory(prefix="fedmore-") as scratch:
        for text in scenario.texts():
            files = scenario.text(text, Path(scratch))
            yield from _sides(text, files)
            count = max([1, *(c.parts for c in scenario.clients if c.text == text)])
            owners = [
                [i.text for i in part] for part in portions(read_documents(files.train), count)
            ]
            for one, other in combinations(range(count), 2):
                yield (
                    f"{text}: owner {other + 1} of owner {one + 1}",
                    shares(owners[other], owners[one]),
                )


def _sides(text: str, files: TextFiles) -> Iterator[tuple[str, Shares]]:
    train, heldout, proxy = (
        [item.text for item in read_documents(path)]
        for path in (files.train, files.heldout, files.proxy)
    )
    yield f"{text}: held-out of train", shares(heldout, train)
    yield f"{text}: held-out of proxy", shares(heldout, proxy)


def table_of(scenario: Scenario) -> Table:
    """A table of shares of documents, and shares of a document's runs of words."""
    table = Table("what repeats what", title="What the sides of the texts share", box=None)
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for name, found in measure(scenario):
        figures = (
            found.repeating, found.phrases, found.most,
            found.head_repeating, found.head_phrases, found.head_most,
        )  # fmt: skip
        table.add_row(name, str(found.documents), *(f"{each:.1%}" for each in figures))
    return table
