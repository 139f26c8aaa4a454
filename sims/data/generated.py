"""Small artificial texts for tests, without downloads: domains, a language and plain sentences.

Sentences come from templates with randomly drawn words. So each text has its own words and phrases,
which a small model can learn in a few steps.
"""

import random
from pathlib import Path

from fedmore.experts.errors import DataError
from fedmore.sims.data.items import Item
from fedmore.sims.data.split import split
from fedmore.sims.data.texts import TextFiles, write_sides

_WORDS: dict[str, tuple[str, str, str]] = {  # verbs, things, times
    "kitchen": (
        "stir boil season bake whisk knead taste chop",
        "soup dough sauce onions noodles pastry broth salad",
        "slowly twice again gently",
    ),
    "garden": (
        "plant water prune dig weed rake trim sow",
        "roses hedge lawn beans pond meadow orchard shrubs",
        "daily weekly early outdoors",
    ),
    "plain": (
        "read open carry find keep show bring leave",
        "letter door box book table window key paper",
        "today later first soon",
    ),
}
_FOREIGN = str.maketrans("aeioutnsr", "oaueisdrn")
GENERATED = ("kitchen", "garden", "sums", "foreign", "plain")


def generate_text(name: str, directory: Path, documents: int = 48) -> TextFiles:
    """Write a text's files; a quarter of the documents is held out, an eighth is the proxy."""
    if name not in GENERATED:
        raise DataError(f"no generated text is called {name!r}; there are {', '.join(GENERATED)}")
    items = [_document(name, index) for index in range(documents)]
    held_out, proxy = ({item.group for item in part} for part in (items[::4], items[1::8]))
    return write_sides(directory, split(items, held_out, proxy))


def _document(name: str, index: int) -> Item:
    rng = random.Random(f"{name}-{index}")
    text = " ".join(_sentence(name, rng) for _ in range(8))
    return Item(text, f"{name}-{index}", f"{name}-{index}")


def _sentence(name: str, rng: random.Random) -> str:
    if name == "sums":
        left, right = rng.randrange(100), rng.randrange(100)
        return f"{left} + {right} = {left + right};"
    if name == "foreign":
        return _sentence("plain", rng).translate(_FOREIGN)
    verbs, things, times = (words.split() for words in _WORDS[name])
    verb, then = rng.sample(verbs, 2)
    thing, other = rng.sample(things, 2)
    wait = rng.randrange(2, 60)
    return f"{verb} the {thing} {rng.choice(times)}, wait {wait} minutes, then {then} the {other}."
