"""A table of families: what of each can be trained, and that training and mixtures then hold."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from thinning import rarer_slow
from torch import Tensor

from fedmore.client.training.expert import Schedule, train
from fedmore.experts.base.layer_usage import check_reached
from fedmore.experts.base.model import Base, load_base, shapes_of
from fedmore.experts.base.suitability import suitability
from fedmore.experts.errors import BaseError
from fedmore.experts.factors import Factors, initial
from fedmore.experts.low_rank_linear import with_change
from fedmore.experts.mixture.model import assemble
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.context import Memory
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.spec import ExpertSpec, TargetModule

Bases = Callable[[str], Path]
IDS = torch.arange(60).view(3, 20) * 7 % 257
WHOLE = (
    "llama", "gemma3_text", "gemma3", "olmo2", "phi3", "glm4", "gpt2", "gpt_neox", "phi",
    "starcoder2", "arcee", "nemotron", "apertus", "nanochat", "gptj", "gpt_neo", "gpt_bigcode",
    "persimmon",
)  # fmt: skip
"""Families of which experts and adapters can be trained, whole."""

OFTEN = ("llama", "gemma3", "gpt2", "mixtral", "qwen3_5_text")
"""One of every form; the others are slow tests."""

PARTLY = {
    "mixtral": ("MixtralSparseMoeBlock is a mixture of experts already (3 of 3", "attention alone"),
    "olmoe": ("OlmoeSparseMoeBlock is a mixture of experts already", "attention alone"),
    "qwen2_moe": ("Qwen2MoeSparseMoeBlock is a mixture of experts already", "attention alone"),
    "deepseek_v3": ("DeepseekV3MoE is a mixture of experts already (2 of 3", "attention alone"),
    "glm4_moe": ("Glm4MoeMoE is a mixture of experts already (2 of 3", "attention alone"),
    "gpt_oss": ("GptOssMLP is a mixture of experts already", "attention alone"),
    "granitemoe": ("GraniteMoeMoE is a mixture of experts already", "attention alone"),
    "bloom": ("BloomMLP computes more than dense_h_to_4h, dense_4h_to_h", "attention alone"),
    "gemma3n_text": ("Gemma3nTextMLP computes more than", "attention alone"),
    "opt": ("no FFN that is a module of its own", "attention alone"),
    "qwen3_5_text": ("", "FFN alone"),
    "recurrent_gemma": ("", "FFN alone"),
}
"""Why no expert fits, if none does, and what an adapter reaches."""

NOTHING = {
    "mamba": "mamba: its blocks (norm, mixer) have no FFN",
    "bert": "bert: it has no list of decoder blocks",
}
UNREADABLE = {"qwen2_5_vl": "qwen2_5_vl is a vision model that transformers has no causal language"}


class Fixed(Router):
    """The same weights of the experts for every token."""

    def __init__(self, *weights: float) -> None:
        super().__init__(RouterSpec("uniform", len(weights), 32))
        self.weights = [1 - sum(weights), *weights]

    def forward(self, x_BTD: Tensor, _slot: int, _memory: Memory) -> Tensor:
        return torch.tensor(self.weights).to(x_BTD).expand(*x_BTD.shape[:2], -1)


def loaded(folder: Path) -> Base:
    return load_base(str(folder), "float32")


def specs() -> tuple[ExpertSpec, ...]:
    return ExpertSpec("e", "expert", "e", 3), ExpertSpec("a", "adapter", "a", 2, 1, 1)


def random_change(sites: tuple[TargetModule, ...], rank: int) -> Factors:
    return {
        s.path: (torch.randn(s.out_features, rank) * 0.05, torch.randn(rank, s.in_features) * 0.05)
        for s in sites
    }


@torch.no_grad()
def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    found: Tensor = model(input_ids=ids, use_cache=False).logits
    return found


def check_training(base: Base, spec: ExpertSpec, sites: tuple[TargetModule, ...]) -> None:
    """A gradient reaches every factor: after one step no B is zero any more."""
    windows = torch.arange(34).view(2, 17) * 5 % 257
    trained = train(
        base.model, sites, initial(spec, sites, 0), None, spec.scale, windows,
        Schedule(1, 2, 1e-2, 1, 1), lambda *_: None,
    )  # fmt: skip
    assert [path for path, (b, _) in trained.factors.items() if not b.any()] == []


def check_mixture(base: Base, spec: ExpertSpec, sites: tuple[TargetModule, ...]) -> None:
    """Weights of zero give the base exactly; a weight of 1 gives the base with that change."""
    experts = {"one": random_change(sites, spec.rank), "two": random_change(sites, spec.rank + 1)}
    plain = logits(base.model)
    assert torch.equal(logits(assemble(base.model, experts, Fixed(0.0, 0.0)).model), plain)
    wanted = logits(with_change(base.model, experts["two"]))
    found = logits(assemble(base.model, experts, Fixed(0.0, 1.0)).model)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-5)


@pytest.mark.parametrize("family", rarer_slow(WHOLE, OFTEN))
def test_experts_and_adapters_of_a_family_reach_every_block_whole(
    bases: Bases, family: str
) -> None:
    folder = bases(family)
    base, found = loaded(folder), suitability(str(folder))
    assert shapes_of(base.model) == found.parts.shapes
    for spec in specs():
        assert (found.why_not(spec.kind), found.reach(spec.kind)) == ("", "")
        sites = spec.sites(found.parts.shapes)
        blocks = {re.findall(r"\.(\d+)\.", site.path)[0] for site in sites}
        assert blocks == ({"0", "1", "2"} if spec.kind == "expert" else {"0", "2"})
        assert not any("vision" in site.path for site in sites)
        check_reached(base, sites)
        check_training(base, spec, sites)
        check_mixture(base, spec, sites)


@pytest.mark.parametrize("family", rarer_slow(PARTLY, OFTEN))
def test_what_fits_a_family_only_partly_is_said_and_holds(bases: Bases, family: str) -> None:
    why, reach = PARTLY[family]
    folder = bases(family)
    base, found = loaded(folder), suitability(str(folder))
    assert why in found.why_not("expert")
    assert bool(why) == bool(found.why_not("expert"))
    assert f"an adapter of {family} changes the {reach}" in found.reach("adapter")
    expert, adapter = specs()
    if why:
        with pytest.raises(BaseError, match=f"no expert fits {family}.*an? .*adapter fits"):
            found.check("expert")
    for spec in (adapter,) if why else (expert, adapter):
        sites = spec.sites(found.parts.shapes)
        check_reached(base, sites)
        check_training(base, spec, sites)
        check_mixture(base, spec, sites)


@pytest.mark.parametrize("family", NOTHING)
def test_a_family_that_nothing_fits_is_named(bases: Bases, family: str) -> None:
    found = suitability(str(bases(family)))
    for kind in ("expert", "adapter"):
        with pytest.raises(BaseError, match=re.escape(NOTHING[family])) as caught:
            found.check(kind)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", UNREADABLE)
def test_a_family_without_a_causal_language_model_is_named(bases: Bases, family: str) -> None:
    for look in (suitability, load_base):
        with pytest.raises(BaseError, match=UNREADABLE[family]) as caught:
            look(str(bases(family)))
        assert "\n" not in str(caught.value)


def test_a_layer_that_the_model_does_not_run_is_refused(bases: Bases) -> None:
    base = loaded(bases("gemma3"))  # text alone does not pass through the vision tower
    path = next(n for n, m in base.model.named_modules() if "vision" in n and n.endswith("q_proj"))
    with pytest.raises(BaseError, match=f"gemma3 does not apply {re.escape(path)} once to every"):
        check_reached(base, [TargetModule(path, 16, 16)])
