from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fedmore.sims.data.items import Item, clean, cut, words
from fedmore.sims.data.split import LARGEST, held_out_groups, overlap, shingles, split

_WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "dd", "e", "ff"]), min_size=1, max_size=24)
_ITEMS = st.lists(
    st.builds(
        lambda parts, group: Item(" ".join(parts), "source", group),
        _WORDS,
        st.sampled_from("xyz"),
    ),
    max_size=20,
)


@given(_ITEMS, st.sets(st.sampled_from("xyz")))
def test_the_sides_share_neither_groups_nor_texts(items, held_out):
    train, heldout = split(items, held_out)
    assert not {i.group for i in train} & {i.group for i in heldout}
    assert not {tuple(words(i.text)) for i in train} & {tuple(words(i.text)) for i in heldout}
    seen = set().union(*(shingles(i.text) for i in train))
    assert all(overlap(i.text, seen) <= 0.5 for i in heldout)


@given(_ITEMS, st.sets(st.sampled_from("xyz")))
def test_splitting_again_changes_nothing(items, held_out):
    train, heldout = split(items, held_out)
    assert split([*train, *heldout], held_out) == (train, heldout)


def test_a_near_copy_is_dropped_from_held_out():
    text = " ".join(f"word{i}" for i in range(40))
    items = [
        Item(text, "a", "train"),
        Item(text + " and more", "b", "held"),
        Item("new", "b", "held"),
    ]
    train, heldout = split(items, {"held"})
    assert len(train) == 1
    assert [item.text for item in heldout] == ["new"]


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 100), min_size=1))
def test_held_out_groups_depend_on_names_alone_and_are_small(sizes):
    chosen = held_out_groups(Counter(sizes))
    assert chosen == held_out_groups(Counter(dict(reversed(sizes.items()))))
    assert all(sizes[group] <= LARGEST * sum(sizes.values()) for group in chosen)


def test_about_the_fraction_is_held_out():
    sizes = Counter({f"group{i}": 10 for i in range(200)})
    assert len(held_out_groups(sizes, 0.15)) == 30


@given(st.text())
def test_cleaning_twice_changes_nothing(text):
    assert clean(clean(text)) == clean(text)


@given(st.text(min_size=1), st.integers(1, 50))
def test_cut_is_a_prefix_within_the_limit(text, limit):
    short = cut(text, limit)
    assert text.startswith(short)
    assert len(short) <= limit
