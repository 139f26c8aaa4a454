"""`docs/reference/configuration.md` says what the code says."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from fedmore.coordinator.config.reference import COMMAND, page, type_of
from fedmore.coordinator.config.schema import SECTIONS
from fedmore.strategies.settings import descriptions, title
from fedmore.strategies.stages.kinds import KINDS

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "reference" / "configuration.md"
OWNERS = [*SECTIONS.values(), *(row.stage for row in KINDS.values())]


def test_the_page_is_as_the_code_would_write_it() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), f"the page is stale: run `{COMMAND}`"


@pytest.mark.parametrize("owner", OWNERS)
def test_every_setting_and_section_says_what_it_is(owner: type) -> None:
    said = descriptions(owner)
    assert said.keys() == {field.name for field in fields(owner)}
    told = [*said.values(), title(owner)]
    assert [text for text in told if not 3 <= len(text) <= 140 or "\n" in text] == []


@pytest.mark.parametrize("owner", OWNERS)
def test_every_setting_has_its_row(owner: type) -> None:
    rows = page().splitlines()
    for name, said in descriptions(owner).items():
        if name != "kind" or owner in SECTIONS.values():
            assert any(row.startswith(f"| `{name}` | ") and said in row for row in rows)


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (int, "integer"), (bool, "true or false"), (Annotated[str, Field(description="x")], "text"),
        (Literal["a", 2], '`"a"`, `2`'), (tuple[str, ...], "list of text"),
        (dict[str, int | str], "table of name = integer, text"),
        (tuple[tuple[int, float], ...], "list of [integer, number]"),
    ],
)  # fmt: skip
def test_types_are_told_in_words(hint: object, said: str) -> None:
    assert type_of(hint) == said
