"""Mixtures as other programs call them, in float64, and the same sums done by hand."""

import copy
import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from thinning import rarer_slow

from fedmore.experts.base.model import Base
from fedmore.experts.low_rank_linear import replace
from fedmore.experts.mixture.model import assemble, routed_blocks
from fedmore.experts.routers.context import Memory
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.spec import ExpertSpec

ROUTERS = [
    "domain-2-shared-sequence",
    "softmax-2-layers-sequence",
    "xlora-2-layers-request",
    "remix-2-layers-token",
    "softmax-2-shared-request-domain",
]
IDS = torch.arange(4 * 16).view(4, 16) * 29 % 251
EXACT = {"rtol": 1e-5, "atol": 1e-5}
"""Routers reckon in float32, all else in float64."""


@dataclass
class Case:
    """A mixture and what it is made of."""

    base: Any
    experts: dict
    router: Any
    mixture: Any
    ids = IDS

    @functools.cached_property
    def _sums(self):
        return ByHand(self)

    @property
    def model(self):
        return self.mixture.model

    @torch.no_grad()
    def by_hand(self, ids_T):
        """Logits [T, V] of one text alone, block by block, without hook, kernel or cache."""
        return self._known(tuple(torch.as_tensor(ids_T).tolist()))

    @functools.cached_property
    def _known(self):
        return functools.cache(lambda ids: self._sums.logits(torch.tensor([ids]).long()))

    @torch.no_grad()
    def states(self, ids_T):
        """The last hidden states [T, D] of one text alone."""
        return self._sums.states(torch.as_tensor(ids_T)[None])[0]

    @staticmethod
    def close(found, expected):
        torch.testing.assert_close(found, expected, **EXACT)

    def rows(self, ids_BT):
        """Logits [B, T, V], each text alone."""
        return torch.stack([self.by_hand(ids_T) for ids_T in ids_BT])

    def greedy(self, ids_T, count):
        """The `count` tokens that follow, each from the whole text before it."""
        ids = torch.as_tensor(ids_T)
        for _ in range(count):
            ids = torch.cat([ids, self.by_hand(ids)[-1:].argmax(-1)])
        return ids[-count:].tolist()


class ByHand:
    """The base with every change added in plain sight: ``y + sum_i g_i (f_i(x) - f(x))``."""

    def __init__(self, case):
        self.router, self.weights_TA = case.router, None
        self.base = case.base
        self.model = copy.deepcopy(case.base)
        self.blocks = routed_blocks(case.experts)
        for at, layer in enumerate(self.model.model.layers):
            layer.mlp = _FFN(self, layer.mlp, f"model.layers.{at}.mlp", case.experts)
        for path in {p for e in case.experts.values() for p in e if ".self_attn." in p}:
            linear = self.model.get_submodule(path)
            replace(self.model, path, _Linear(self, linear, path, case.experts))

    def logits(self, ids_1T):
        return self.model.lm_head(self.states(ids_1T))[0]

    def states(self, ids_1T):
        inner, router = self.model.model, self.router
        x = inner.embed_tokens(ids_1T)
        memory = Memory.of(x)
        if router.two_pass:
            router.plan(self.base.model(ids_1T, use_cache=False).last_hidden_state, memory)
        if router.shared:
            self.weights_TA = router(x, 0, memory)[0]
        places = inner.rotary_emb(x, torch.arange(x.shape[1])[None])
        for at, layer in enumerate(inner.layers):
            if not router.shared and at in self.blocks:
                self.weights_TA = router(x, self.blocks.index(at), memory)[0]
            x = layer(x, attention_mask=None, position_embeddings=places)
        return inner.norm(x)


class _Linear(torch.nn.Module):
    def __init__(self, owner, linear, path, experts):
        super().__init__()
        self.owner, self.linear = [owner], linear
        self.changes = [(i + 1, e[path]) for i, e in enumerate(experts.values()) if path in e]

    def forward(self, x):
        y = self.linear(x)
        for arm, (b, a) in self.changes:
            weight_T1 = self.owner[0].weights_TA[:, arm, None]
            y = y + weight_T1 * (x @ a.double().T @ b.double().T)
        return y


class _FFN(torch.nn.Module):
    def __init__(self, owner, mlp, path, experts):
        super().__init__()
        self.owner, self.mlp = [owner], mlp
        names = ("gate_proj", "up_proj", "down_proj")
        self.changes = [
            (i + 1, [e[f"{path}.{n}"] for n in names])
            for i, e in enumerate(experts.values())
            if f"{path}.gate_proj" in e
        ]

    def forward(self, x):
        mlp = self.mlp
        y = base = mlp(x)
        for arm, pairs in self.changes:
            gate, up, down = ((b.double() @ a.double()) for b, a in pairs)
            inner = mlp.act_fn(mlp.gate_proj(x) + x @ gate.T) * (mlp.up_proj(x) + x @ up.T)
            changed = mlp.down_proj(inner) + inner @ down.T
            y = y + self.owner[0].weights_TA[:, arm, None] * (changed - base)
        return y


def random_changes(shapes, seed, size=0.08):
    """Two experts and an adapter that touches attention too, large enough to be seen."""
    generator = torch.Generator().manual_seed(seed)
    specs = [ExpertSpec("legal", "expert", "legal", 3), ExpertSpec("food", "expert", "food", 5),
             ExpertSpec("gl", "adapter", "gl", 4, 2, 1)]  # fmt: skip

    def draw(*shape):
        return torch.randn(*shape, generator=generator) * size

    return {
        spec.name: {
            s.path: (draw(s.out_features, spec.rank), draw(spec.rank, s.in_features))
            for s in spec.sites(shapes)
        }
        for spec in specs
    }


def make_case(model, shapes, name, seed=3):
    """A case whose router has random numbers, as if it were trained."""
    experts = random_changes(shapes, seed)
    kind, top_k, place, level, *start = name.split("-")
    layers = len(routed_blocks(experts)) if place == "layers" else 1
    spec = RouterSpec(
        kind, 3, 64, layers, level, 5, int(top_k), hidden=16, init=(start or ["zero"])[0]
    )
    router = make_router(spec)
    generator = torch.Generator().manual_seed(seed)
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    domain = router if kind == "domain" else getattr(router, "domain", None)
    if domain is not None:
        domain.rows_ED.normal_(generator=generator).mul_(5)
    return Case(model, experts, router, assemble(model, experts, router))


@pytest.fixture(scope="session")
def base64(base):
    return Base(base.name, copy.deepcopy(base.model).double(), base.tokenizer, base.fingerprint)


@pytest.fixture(scope="session", params=rarer_slow(ROUTERS, ROUTERS[1:2]))
def case(request, base64, shapes):
    return make_case(base64.model, shapes, request.param)


@pytest.fixture(scope="session")
def simple(base64, shapes):
    """One case for what does not depend on the router."""
    return make_case(base64.model, shapes, ROUTERS[0])


@pytest.fixture(scope="session")
def by_layer(base64, shapes):
    """One whose memory has something for every layer."""
    return make_case(base64.model, shapes, ROUTERS[1])
