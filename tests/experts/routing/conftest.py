"""Every router there is, as a case: ``kind-top_k-place-level``; a new one is a line here."""

from dataclasses import dataclass

import pytest
import torch

from fedmore.experts.mixture import assemble, routed_blocks
from fedmore.experts.routing.memory import Memory
from fedmore.experts.routing.saved import make_router
from fedmore.experts.routing.spec import RouterSpec
from fedmore.experts.routing.training import fit_features
from fedmore.experts.routing.untrained import arrow_router
from fedmore.experts.spec import ExpertSpec

WIDTH = 64
PREFIX = 5
LEVELS = ("token", "sequence", "request")
CASES = [
    "uniform-0-shared-token",
    "uniform-0-layers-token",
    *(f"domain-2-shared-{level}" for level in LEVELS),
    "domain-0-shared-sequence",
    "arrow-0-layers-token",
    "arrow-2-layers-token",
    *(f"softmax-2-{place}-{level}" for place in ("shared", "layers") for level in LEVELS),
    "softmax-0-shared-sequence",
    "softmax-0-layers-token",
    *(f"xlora-2-layers-{level}" for level in LEVELS),
    *(f"remix-2-{place}-{level}" for place in ("shared", "layers") for level in LEVELS),
    "remix-1-shared-sequence",
    "remix-1-layers-token",
    "remix-2-layers-sequence-rank_stabilised",
]


@dataclass(frozen=True)
class Case:
    """One router's shape, and how it is made."""

    name: str

    def spec(self, experts, blocks):
        kind, top_k, place, level, *scaling = self.name.split("-")
        layers = blocks if place == "layers" else 1
        return RouterSpec(
            kind, experts, WIDTH, layers, level, PREFIX, int(top_k), *scaling, hidden=16
        )

    def make(self, base, experts):
        """A router with random numbers, as if it were trained."""
        blocks = routed_blocks(experts)
        spec = self.spec(len(experts), len(blocks))
        arrow = spec.kind == "arrow"
        router = arrow_router(spec, experts, blocks) if arrow else make_router(spec)
        generator = torch.Generator().manual_seed(3)
        for parameter in router.parameters():
            torch.nn.init.normal_(parameter, generator=generator)
        if spec.kind == "domain":
            router.rows_ED.normal_(generator=generator).mul_(20)
        ids = torch.randint(0, 256, (4, 12), generator=generator)
        fit_features(router, base.model, ids, blocks)
        return router


@pytest.fixture(scope="session", params=CASES)
def case(request):
    return Case(request.param)


@pytest.fixture(scope="session")
def experts(base, shapes):
    """Two experts and an adapter that touches attention too, of different ranks."""
    return {
        "legal": random_change(ExpertSpec("legal", "expert", "legal", 4), shapes),
        "medical": random_change(ExpertSpec("medical", "expert", "medical", 9), shapes),
        "gl": random_change(ExpertSpec("gl", "adapter", "gl", 3, 2, 1), shapes),
    }


def random_change(spec, shapes):
    generator = torch.Generator().manual_seed(spec.rank)

    def draw(*size):
        return torch.randn(*size, generator=generator) * 0.05

    return {s.path: (draw(s.out, spec.rank), draw(spec.rank, s.inner)) for s in spec.sites(shapes)}


@pytest.fixture(scope="session")
def router(case, base, experts):
    return case.make(base, experts)


@pytest.fixture(scope="session")
def mixture(base, experts, router):
    return assemble(base.model, experts, router)


@pytest.fixture(scope="session")
def weights():
    """Call it with a router and hidden states: the weights of all its decisions, [L, B, T, A]."""

    @torch.no_grad()
    def decide(router, x_BTD, mask_BT=None, chunks=None):
        memory, found, seen = Memory(), [], 0
        for size in chunks or [x_BTD.shape[1]]:
            x = x_BTD[:, seen : seen + size]
            memory.begin(
                size, None if mask_BT is None else mask_BT[:, : seen + size], seen, x.device
            )
            if router.two_pass:
                router.plan(x, memory)
            found.append(torch.stack([router(x, i, memory) for i in range(router.spec.layers)]))
            seen += size
        return torch.cat(found, dim=2)

    return decide
