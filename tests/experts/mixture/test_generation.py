"""Text from a mixture: the tokens, their weights, draws, ends, and what is refused."""

from itertools import count
from types import SimpleNamespace

import pytest
import torch
from thinning import rarer_slow

from fedmore.experts.errors import ConfigError
from fedmore.experts.mixture.generation import Settings, Stream, check_room, ends, generate
from fedmore.experts.mixture.model import assemble, routed_blocks
from fedmore.experts.mixture.routing.state import Wishes
from fedmore.experts.router_training.usage import by_decision, usage
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.spec import ExpertSpec

ROUTERS = ["softmax-shared-sequence", "remix-shared-token", "softmax-layers-sequence",
           "xlora-layers-token"]  # fmt: skip
CACHED = pytest.mark.parametrize("cached", [True, False], ids=["cache", "no cache"])


def build(base, shapes, name):
    """A mixture of two experts whose router's numbers are random: its weights move with the text.

    The changes are large, so that the random base does not say the same letter for ever.
    """
    kind, place, level = name.split("-")
    random = torch.Generator().manual_seed(1)
    specs = (ExpertSpec("legal", "expert", "legal", 4), ExpertSpec("gl", "adapter", "gl", 3, 2, 1))
    experts = {
        spec.name: {
            site.path: (
                draw(random, site.out_features, spec.rank),
                draw(random, spec.rank, site.in_features),
            )
            for site in spec.sites(shapes)
        }
        for spec in specs
    }
    layers = len(routed_blocks(experts)) if place == "layers" else 1
    router = make_router(RouterSpec(kind, len(experts), 64, layers, level, top_k=1, hidden=16))
    for name, parameter in router.named_parameters():
        torch.nn.init.normal_(parameter, std=0 if "bias" in name else 3, generator=random)
    return assemble(base.model, experts, router)


def draw(random, *size):
    return torch.randn(*size, generator=random) * 0.6


@pytest.fixture(scope="module", params=ROUTERS)
def mixture(request, base, shapes):
    return build(base, shapes, request.param)


@pytest.fixture(scope="module")
def simple(base, shapes):
    return build(base, shapes, ROUTERS[0])


@pytest.fixture
def prompt(base):
    return base.text.document("the parties")


@pytest.fixture
def make(base):
    """Call it with a mixture, tokens and settings."""
    return lambda mixture, ids, on_token=None, **settings: generate(
        mixture, base.tokenizer, ids, Settings(**settings), on_token
    )


@CACHED
def test_greedy_is_the_likeliest_token_each_time(mixture, prompt, make, logits, cached):
    expected = list(prompt)
    for _ in range(10):
        expected.append(int(logits(mixture.model, torch.tensor([expected]))[0, -1].argmax()))
    assert len(set(expected[len(prompt) :])) > 2  # or a wrong cache would hardly show
    made = make(mixture, prompt, max_tokens=10, use_cache=cached)
    assert made.ids == tuple(expected)
    assert (made.prompt, made.ended) == (len(prompt), False)


@CACHED
@pytest.mark.parametrize("given", rarer_slow([1, 2, 12], [1]))
def test_weights_are_of_the_position_before(mixture, prompt, make, cached, given):
    made = make(mixture, prompt[:given], max_tokens=6, use_cache=cached)
    ids = torch.tensor([made.ids[:-1]])
    expected = by_decision(mixture, ids).float()
    assert expected.shape == (1 if mixture.router.shared else 6, given + 5, 3)
    assert given < 12 or expected.std(1).max() > 0.1  # they differ from token to token
    torch.testing.assert_close(made.weights_LTA, expected, rtol=1e-4, atol=1e-5)
    means = usage(mixture, ids).float()
    torch.testing.assert_close(made.mean, means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.used, means[given - 1 :].mean(0), rtol=1e-4, atol=1e-5)


@CACHED
def test_every_token_is_told_with_its_weights(mixture, prompt, make, cached):
    told = []
    made = make(
        mixture, prompt, lambda *new: told.append(new), max_tokens=5, use_cache=cached
    )  # fmt: skip
    assert [token for token, _ in told] == list(made.ids[len(prompt) :])
    told_LTA = torch.stack([weights for _, weights in told], 1)
    assert torch.equal(told_LTA, made.weights_LTA[:, len(prompt) - 1 :])


@pytest.mark.parametrize(("cached", "lengths"), [(True, [12, 1, 1]), (False, [12, 13, 14])])
def test_with_a_cache_only_new_tokens_are_read(simple, prompt, make, cached, lengths):
    read = []
    hook = (
        simple.model.get_decoder()
        .layers[0]
        .register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape[1]))
    )
    make(simple, prompt, max_tokens=3, use_cache=cached)
    hook.remove()
    assert read == lengths


def test_a_pass_too_many_is_not_taken_for_the_tokens_own():
    """Where it is known late that the text ends, the next forward pass has begun."""
    stream, number = Stream(2, None), count()
    stream.put(torch.tensor([[7, 8]]))
    for passes in (4, 2, 2):
        stream.watched.extend(torch.full((1, 1, 3), float(next(number))) for _ in range(passes))
        stream.put(torch.tensor([5]))
    assert [weights[:, 0, 0].tolist() for weights in stream.weights] == [[0, 1], [2, 3], [4, 5]]


def test_the_same_seed_draws_the_same(simple, prompt, make):
    def drawing(seed):
        return make(simple, prompt, max_tokens=12, temperature=1.0, seed=seed).ids

    drawn = {seed: drawing(seed) for seed in (0, 1)}
    torch.manual_seed(99)
    assert drawing(0) == drawn[0]
    assert drawn[0] != drawn[1]
    assert make(simple, prompt, max_tokens=12).ids not in drawn.values()


def test_other_random_numbers_are_not_touched(simple, prompt, make):
    before = torch.get_rng_state()
    make(simple, prompt, max_tokens=3, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_small_top_p_or_temperature_leaves_the_likeliest(simple, prompt, make):
    greedy = make(simple, prompt, max_tokens=8).ids
    assert make(simple, prompt, max_tokens=8, temperature=1.0, top_p=1e-6).ids == greedy
    assert make(simple, prompt, max_tokens=8, temperature=1e-3).ids == greedy


@CACHED
@pytest.mark.parametrize("several", [True, False])
def test_it_stops_at_the_end_token(simple, prompt, make, monkeypatch, cached, several):
    long = make(simple, prompt, max_tokens=10)
    new = long.ids[len(prompt) :]
    last = next(place for place in range(1, 10) if new[place] not in new[:place])
    end = [258, new[last]] if several else new[last]
    monkeypatch.setattr(simple.model.generation_config, "eos_token_id", end)
    made = make(simple, prompt, max_tokens=10, use_cache=cached)
    assert made.ended
    assert made.ids == long.ids[: len(prompt) + last + 1]
    kept = long.weights_LTA[:, : len(made.ids) - 1]
    torch.testing.assert_close(made.weights_LTA, kept, rtol=1e-4, atol=1e-5)


def test_a_base_without_an_end_token():
    config = SimpleNamespace(eos_token_id=None)
    assert 0 not in ends(SimpleNamespace(generation_config=config))


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("max_tokens", [0, -1]),
        ("temperature", [-1, -1e-9, 1e-40, float("nan"), float("inf"), -float("inf")]),
        ("top_p", [0, -0.1, 1.01, float("nan")]),
        ("seed", [-1, 2**63]),
    ],
)
def test_what_nobody_can_mean_is_refused(setting, values):
    says = {"max_tokens": "max-tokens", "top_p": "top-p"}.get(setting, setting)
    for value in values:
        with pytest.raises(ConfigError, match=f"^{says} must be .*not {value}"):
            Settings(**{setting: value})


@pytest.mark.parametrize(
    "settings",
    [{"max_tokens": 1}, {"temperature": 1e-3}, {"temperature": 100.0}, {"top_p": 1e-9},
     {"seed": 2**63 - 1}],
)  # fmt: skip
def test_the_outermost_settings_work(simple, prompt, make, settings):
    made = make(simple, prompt, **({"max_tokens": 2, "temperature": 1.0} | settings))
    assert len(made.ids) == len(prompt) + settings.get("max_tokens", 2)


def test_more_than_the_positions_is_refused(simple, make):
    ids = [5] * 509
    assert len(make(simple, ids, max_tokens=3).ids) == 512
    with pytest.raises(ConfigError, match=r"509 tokens and max-tokens 4 .* the 512 positions"):
        make(simple, ids, max_tokens=4)


def test_a_base_may_know_no_limit():
    mixture = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace()))
    check_room(mixture, 10**6, 10**6)


def test_nothing_to_go_on_from_is_refused(simple, make):
    with pytest.raises(ConfigError, match="at least one token"):
        make(simple, [])


@CACHED
def test_an_error_on_the_way_leaves_nothing_behind(simple, prompt, make, cached):
    expected = make(simple, prompt, max_tokens=6)
    random = torch.get_rng_state()

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(simple, prompt, stop, max_tokens=6, temperature=1.0, use_cache=cached)
    assert simple.gates.wishes == Wishes()
    assert torch.equal(torch.get_rng_state(), random)
    again = make(simple, prompt, max_tokens=6)
    assert again.ids == expected.ids
    assert torch.equal(again.weights_LTA, expected.weights_LTA)
    assert simple.gates.wishes == Wishes()
