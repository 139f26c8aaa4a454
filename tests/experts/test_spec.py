import pytest

from fedmore.experts.errors import ConfigError, RankError
from fedmore.experts.spec import ExpertSpec, depth, in_ffn, layer_of

FFN = {"gate_proj", "up_proj", "down_proj"}
PROJECTIONS = FFN | {"q_proj", "k_proj", "v_proj", "o_proj"}


def layers(sites):
    return sorted({layer_of(site.path) for site in sites})


def test_an_expert_changes_the_ffn_of_every_layer(shapes):
    sites = ExpertSpec("legal", "expert", "legal", 4, 1, 1).sites(shapes)
    assert layers(sites) == list(range(6))
    assert {site.path.rpartition(".")[2] for site in sites} == FFN
    assert len(sites) == 18
    assert all((site.out_features, site.in_features) == shapes[site.path] for site in sites)
    assert [s.path for s in sites] == [p for p in shapes if ".mlp." in p]


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (2, 1, [0, 1, 5]),
        (0, 2, [4, 5]),
        (1, 0, [0]),
        (4, 4, [0, 1, 2, 3, 4, 5]),  # overlapping
        (10, 2, [0, 1, 2, 3, 4, 5]),  # more than there are
        (6, 6, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_an_adapter_changes_all_of_the_first_and_last_layers(shapes, first, last, expected):
    sites = ExpertSpec("gl", "adapter", "gl", 4, first, last).sites(shapes)
    assert layers(sites) == expected
    assert len(sites) == len(expected) * 7 == len({s.path for s in sites})
    assert {site.path.rpartition(".")[2] for site in sites} == PROJECTIONS


def test_an_adapter_of_no_layer_is_refused(shapes):
    with pytest.raises(ConfigError, match="are both 0, so the adapter changes no layer"):
        ExpertSpec("gl", "adapter", "gl", 4, 0, 0).sites(shapes)


def test_a_base_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="no FFN that can be changed"):
        ExpertSpec("legal", "expert", "legal", 4).sites({"model.layers.0.self_attn.q_proj": (4, 4)})


@pytest.mark.parametrize(
    ("path", "ffn", "layer"),
    [
        ("model.layers.11.mlp.up_proj", True, 11),
        ("transformer.h.2.mlp.c_proj", True, 2),
        ("transformer.h.2.attn.c_proj", False, 2),
        ("transformer.h.0.attn.attention.q_proj", False, 0),
        ("model.language_model.layers.3.self_attn.o_proj", False, 3),
        ("model.layers.7.self_attn.gate_proj", False, 7),
    ],
)
def test_a_path_says_which_part_of_which_block_it_is(path, ffn, layer):
    assert (in_ffn(path), layer_of(path)) == (ffn, layer)


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_1_is_refused(rank):
    with pytest.raises(RankError, match="must be 1 or more"):
        ExpertSpec("legal", "expert", "legal", rank)


def test_the_highest_rank_that_a_matrix_allows(shapes):
    ExpertSpec("legal", "expert", "legal", 64).sites(shapes)
    with pytest.raises(RankError, match=r"rank 65 of legal: .*mlp.*64 x|176 x.*at most 64"):
        ExpertSpec("legal", "expert", "legal", 65).sites(shapes)
    with pytest.raises(RankError, match=r"k_proj is 32 x 64 and allows at most 32"):
        ExpertSpec("gl", "adapter", "gl", 33).sites(shapes)


def test_the_scale(shapes):
    assert ExpertSpec("a", "expert", "a", 8).scale == ExpertSpec("a", "expert", "a", 2).scale == 2
    assert ExpertSpec("a", "expert", "a", 32, scaling="rslora").scale == 1


def test_paths(shapes):
    assert depth(shapes) == 6
    assert depth({}) == 0
    assert layer_of("model.layers.11.self_attn.q_proj") == 11
    with pytest.raises(ConfigError, match="lm_head is not"):
        layer_of("lm_head")
