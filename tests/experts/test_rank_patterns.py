"""The grammar of `--rank`, and what a pattern means for the matrices of a base."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmore.experts.errors import RankError
from fedmore.experts.factors import initial, num_parameters
from fedmore.experts.ranks import FULL, Part, RankPattern, chosen, described, parse_ranks
from fedmore.experts.spec import ExpertSpec

SHAPES = {
    f"model.layers.{layer}.{block}.{name}_proj": (64, 64)
    for layer in range(4)
    for block, names in (("self_attn", "qkvo"), ("mlp", ("gate", "up", "down")))
    for name in names
}
ranks = st.integers(1, 999_999) | st.just(FULL)
layers = st.none() | st.tuples(st.integers(0, 99), st.integers(0, 99)).map(sorted).map(tuple)
names = st.sampled_from(
    ["", "ffn", "attention", "gate", "up", "down", "q", "k", "v", "o", "c_fc", "gate_proj"]
)
patterns = st.lists(st.builds(Part, ranks, names, layers), min_size=1, max_size=8).map(
    lambda parts: RankPattern(tuple(parts))
)


def spec(ranks, kind="expert"):
    return ExpertSpec("legal", kind, "legal", *_split(ranks))


def _split(ranks):
    rank, pattern = chosen(ranks)
    return rank, 10, 2, "constant", pattern


def path(layer, name, block="mlp"):
    return f"model.layers.{layer}.{block}.{name}_proj"


@given(patterns)
def test_a_pattern_is_read_as_it_is_written(pattern):
    assert parse_ranks(str(pattern)) == pattern
    assert parse_ranks(str(pattern).replace(",", " ,  ")) == pattern


@given(patterns, st.integers(0, 99), st.sampled_from(["gate_proj", "q_proj", "c_fc"]))
def test_later_parts_win(pattern, layer, name):
    ffn = name != "q_proj"
    covering = [part.rank for part in pattern.parts if part.covers(layer, name, ffn)]
    if covering:
        assert pattern.rank_of(layer, name, ffn) == covering[-1]
    else:
        with pytest.raises(RankError, match=f"says nothing of {name} in layer {layer}"):
            pattern.rank_of(layer, name, ffn)
    more = RankPattern((*pattern.parts, Part(7)))
    assert more.rank_of(layer, name, ffn) == 7


@given(st.text(max_size=12) | st.text(alphabet="0123456789-:=,fuldown ", max_size=12))
def test_any_text_is_a_pattern_or_a_rank_error(text):
    try:
        pattern = parse_ranks(text)
    except RankError:
        return
    assert parse_ranks(str(pattern)) == pattern


@pytest.mark.parametrize(
    ("said", "rank", "pattern"),
    [
        (16, 16, ""),
        ("16", 16, ""),
        (" 16 ", 16, ""),
        ("4,16", 16, ""),
        ("32,16", 16, ""),
        ("full", 0, "full"),
        ("16,down=full", 16, "16,down=full"),
        ("gate=8, up=8, down=32", 32, "gate=8,up=8,down=32"),
        ("0-9:4,10-29:16", 16, "0-9:4,10-29:16"),
        ("3-3:4,8", 8, ""),
        ("8,3-3:4", 8, "8,3:4"),
    ],
)
def test_what_an_owner_chooses(said, rank, pattern):
    assert chosen(said) == (rank, pattern)
    assert described(rank, pattern) == (pattern or str(rank))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is not a rank; a part is a rank as in 16, full, gate=8"),
        ("8,", "'' is not a rank"),
        ("gate=0", "'gate=0' gives a rank of 0; it must be 1 or more"),
        ("8,gate", "'gate' is not a rank"),
        ("8,gate=", "'gate=' is not a rank"),
        ("8,gate=-4", "'gate=-4' is not a rank"),
        ("8,5-2:4", "'5-2:4' ends before it begins"),
        ("8,1.5", "'1.5' is not a rank"),
        ("8,0-:4", "'0-:4' is not a rank"),
        ("٣", "is not a rank"),
        ("9" * 5000, "at most 256 characters, not 5000"),
    ],
)
def test_an_error_names_the_part_and_what_is_allowed(text, says):
    with pytest.raises(RankError, match=says):
        parse_ranks(text)


@pytest.mark.parametrize(
    ("ranks", "kind", "expected"),
    [
        ("16", "expert", {path(0, "gate"): 16, path(3, "down"): 16}),
        ("gate=2,up=2,down=8", "expert", {path(1, "gate"): 2, path(2, "down"): 8}),
        ("0-1:4,2-3:2", "expert", {path(1, "up"): 4, path(2, "up"): 2}),
        ("8,2:down=3", "expert", {path(2, "down"): 3, path(2, "up"): 8, path(1, "down"): 8}),
        (
            "attention=4,ffn=8,3:q=1",
            "adapter",
            {path(0, "q", "self_attn"): 4, path(0, "up"): 8, path(3, "q", "self_attn"): 1},
        ),
        ("8,gate_proj=4", "expert", {path(0, "gate"): 4, path(0, "up"): 8}),
    ],
)
def test_the_rank_of_a_matrix(ranks, kind, expected):
    made = spec(ranks, kind)
    factors = initial(made, made.sites(SHAPES), 0)
    assert {each: made.rank_of(each) for each in expected} == expected
    assert {each: factors[each][1].shape[0] for each in expected} == expected
    assert num_parameters(factors) == sum(128 * made.rank_of(each) for each in factors)


@pytest.mark.parametrize("ranks", ["full", "8,down=full", "full,0-1:4"])
def test_a_matrix_of_full_size_begins_as_zeros_of_its_size(ranks):
    made = spec(ranks, "expert")
    factors = initial(made, made.sites(SHAPES), 0)
    for each, change in factors.items():
        if made.rank_of(each) == FULL:
            assert [tuple(d.shape) for d in change] == [SHAPES[each]]
            assert not change[0].any()
        else:
            assert change[1].shape[0] == made.rank_of(each)


@pytest.mark.parametrize(
    ("ranks", "kind", "says"),
    [
        ("8,gat=4", "expert", "'gat=4' names gat, and what is changed of this base is down, gate"),
        ("8,q=4", "expert", "'q=4' names q, and what is changed of this base is down, gate, up"),
        ("8,attention=4", "expert", "names attention, and what is changed"),
        ("8,2-4:4", "expert", "'2-4:4' names layer 4, and the base has 4 layers, 0 to 3"),
        ("8,9:gate=4", "adapter", "names layer 9, and the base has 4 layers"),
        ("gate=8,up=8", "expert", "it says nothing of down_proj in layer 0; begin it with"),
        ("0-2:8", "expert", "it says nothing of gate_proj in layer 3"),
        ("8,down=65", "expert", "rank 65 of legal: .*layers.0.mlp.down_proj is 64 x 64 and allows"),
    ],
)
def test_what_this_base_has_not_is_an_error(ranks, kind, says):
    with pytest.raises(RankError, match=says):
        spec(ranks, kind).sites(SHAPES)


def test_the_rank_is_the_largest_of_the_pattern():
    with pytest.raises(RankError, match="largest rank of gate=8,ffn=4 is 8, not 4"):
        ExpertSpec("a", "expert", "a", 4, ranks="gate=8,ffn=4")


@pytest.mark.parametrize(
    ("scaling", "ranks", "gate", "down"),
    [
        ("constant", "8,down=2", 2.0, 2.0),
        ("rslora", "8,down=2", 2.0, 4.0),
        ("rslora", "8,down=full", 2.0, 1.0),
        ("constant", "8,down=full", 2.0, 1.0),
    ],
)
def test_every_matrix_has_the_scale_of_its_rank(scaling, ranks, gate, down):
    made = ExpertSpec("a", "expert", "a", 8, scaling=scaling, ranks=ranks)
    assert made.scale_of(path(0, "gate")) == pytest.approx(gate)
    assert made.scale_of(path(0, "down")) == pytest.approx(down)
