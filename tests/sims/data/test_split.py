"""Sides share no source, no version of a text and no passage, whatever repeats what."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmore.sims.data.grams import (
    HEAD,
    PASSAGE,
    PHRASE,
    all_grams,
    families,
    grams,
    overlap,
    shares,
)
from fedmore.sims.data.items import Item, clean, cut, words
from fedmore.sims.data.split import (
    HEAD_PHRASES,
    LARGEST,
    choose_groups,
    group_sizes,
    in_families,
    portions,
    split,
)

_WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "dd", "e", "ff"]), min_size=1, max_size=24)
_ITEMS = st.lists(
    st.builds(
        lambda parts, group: Item(" ".join(parts), "source", group),
        _WORDS,
        st.sampled_from("xyz"),
    ),
    max_size=20,
)


def prose(name: str, count: int = 60) -> str:
    """Words of its own."""
    return " ".join(f"{name}{number}" for number in range(count))


def item(text: str, group: str) -> Item:
    return Item(text, group, group)


def texts(items: list[Item]) -> list[str]:
    return [each.text for each in items]


@given(_ITEMS, st.sets(st.sampled_from("xyz")), st.sets(st.sampled_from("xyz")))
def test_the_sides_share_neither_groups_nor_passages(items, held_out, proxy):
    sides = split(items, held_out, proxy)
    named = [{i.group for i in side} for side in (sides.train, sides.heldout, sides.proxy)]
    assert not named[0] & named[1]
    assert not named[2] & (named[0] | named[1])
    every = [all_grams(texts(s), PASSAGE) for s in (sides.train, sides.heldout, sides.proxy)]
    assert not every[0] & every[1]
    assert not every[2] & (every[0] | every[1])
    seen = all_grams(texts(sides.train), PHRASE)
    assert all(overlap(i.text[:HEAD], seen, PHRASE) <= HEAD_PHRASES for i in sides.heldout)


@given(_ITEMS, st.sets(st.sampled_from("xyz")))
def test_splitting_again_changes_nothing(items, held_out):
    sides = split(items, held_out)
    assert split([*sides.train, *sides.heldout], held_out) == sides


TRAIN = prose("train")
KEPT = prose("kept")
BOILERPLATE = prose("boiler", PASSAGE)


@pytest.mark.parametrize(
    ("planted", "stays"),
    [
        (KEPT, True),
        (TRAIN, False),
        (TRAIN.upper().replace(" ", ",\n"), False),  # the same words
        (TRAIN + " and more", False),
        (f"{prose('long', 4000)} {TRAIN} {prose('longer', 4000)}", False),  # one quoted passage
        (f"{BOILERPLATE} {prose('own', 300)}", False),
        (" ".join(BOILERPLATE.split()[1:]) + f" {prose('own', 300)}", True),  # 12 words far away
        (" ".join(TRAIN.split()[:PASSAGE - 1]) + " " + prose("own", 8), False),  # most of a head
        (" ".join(TRAIN.split()[20:29]), False),  # a short text out of a longer one
    ],
)  # fmt: skip
def test_what_train_holds_is_not_held_out(planted, stays):
    items = [item(TRAIN, "train"), item(f"{prose('other')} {BOILERPLATE}", "train")]
    sides = split([*items, item(planted, "held"), item(prose("new"), "held")], {"held"})
    assert sides.train == items
    assert (planted in texts(sides.heldout)) is stays
    assert prose("new") in texts(sides.heldout)


def test_of_held_out_texts_that_are_alike_one_stays():
    versions = [item(f"{KEPT} {prose(end, 5)}", end) for end in "abc"]
    assert len(split(versions, {"a", "b", "c"}).heldout) == 1


def test_families_are_transitive():
    """a and b hold versions of one text, b and c of another: none of them is split from another."""
    one, other = prose("one"), prose("other")
    items = [
        item(one, "a"),
        item(one + " first", "b"),
        item(other, "b"),
        item(other + " second", "c"),
        item(prose("far"), "d"),
    ]
    assert families(items) == {"a": "a", "b": "a", "c": "a", "d": "d"}
    assert families([]) == {}


def test_many_versions_of_one_text_are_one_family():
    versions = [item(f"{KEPT} {prose(f'n{number}x', 8)}", f"g{number:02}") for number in range(60)]
    assert set(families(versions).values()) == {"g00"}


def test_boilerplate_does_not_make_a_family():
    items = [item(f"{prose(name, 90)} {BOILERPLATE}", name) for name in "abc"]
    assert families(items) == {"a": "a", "b": "b", "c": "c"}


@pytest.mark.parametrize("count", [2, 3])
def test_owners_of_one_text_share_no_family_and_no_passage(count):
    alone = [item(prose(f"t{number}x"), f"f{number // 2}") for number in range(60)]
    quoting = [item(f"{prose(f'q{n}x')} {prose('t0x')} {prose('t40x')}", f"q{n}") for n in range(9)]
    owners = portions([*alone, *quoting], count)
    every = [all_grams(texts(part), PASSAGE) for part in owners]
    sizes = [sum(len(i.text) for i in part) for part in owners]
    for one in range(count):
        for other in range(one):
            assert not every[one] & every[other]
            assert not {i.group for i in owners[one]} & {i.group for i in owners[other]}
    assert min(sizes) > 0.4 * max(sizes)
    assert sum(len(part) for part in owners) >= len(alone)


def test_an_owner_alone_has_it_all():
    items = [item(TRAIN, "a"), item(TRAIN + " twice", "b")]
    assert portions(items, 1) == [items]


def test_shares_are_measured():
    found = shares([KEPT, f"{TRAIN} {prose('own', 60)}", prose("x", 200) + TRAIN], [TRAIN])
    assert (found.documents, found.repeating) == (3, pytest.approx(2 / 3))
    assert found.most == pytest.approx(53 / 113)
    assert found.head_repeating == pytest.approx(1 / 3)  # the last one quotes behind its head
    assert found.phrases == pytest.approx((53 / 113 + 52 / 252) / 3)
    assert shares([], [TRAIN]).documents == 0


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 100), min_size=1))
def test_chosen_groups_depend_on_names_alone_and_are_small(sizes):
    chosen = choose_groups(Counter(sizes))
    assert chosen == choose_groups(Counter(dict(reversed(sizes.items()))))
    assert not chosen[0] & chosen[1]
    assert all(sizes[g] <= LARGEST * sum(sizes.values()) for part in chosen for g in part)


def test_about_the_fractions_are_chosen():
    sizes = Counter({f"group{i}": 10 for i in range(200)})
    assert [len(part) for part in choose_groups(sizes, (0.15, 0.1))] == [30, 20]


def test_items_take_the_name_of_their_family():
    items = in_families([item("a b", "x"), item("c", "y")], {"x": "w"})
    assert group_sizes(items) == {"w": 3, "y": 1}


def test_runs_of_words():
    assert len(grams("one two three", 2)) == 2
    assert grams("One, two!", 8) == grams("one two", 8)
    assert grams("...", 8) == set()
    assert words("a B") == ["a", "b"]


@given(st.text())
def test_cleaning_twice_changes_nothing(text):
    assert clean(clean(text)) == clean(text)


@given(st.text(min_size=1), st.integers(1, 50))
def test_cut_is_a_prefix_within_the_limit(text, limit):
    short = cut(text, limit)
    assert text.startswith(short)
    assert len(short) <= limit
