"""A step of ReMix in a mixture: its mean over all draws is the exact gradient.

Shape suffixes: S selections, N tuples of M of them, L decisions (layers), T tokens, K chosen.
"""

import itertools
from dataclasses import dataclass

import pytest
import torch
from thinning import rarer_slow

from fedmore.experts.mixture.model import assemble
from fedmore.experts.router_training import reinforce
from fedmore.experts.router_training.gradient import Training, token_losses
from fedmore.experts.router_training.reinforce import Reinforce
from fedmore.experts.routers.sampling import entropy, leave_one_out, log_probability

CLOSE, WIDE = 3e-4, 1e-2  # losses are float32

CASES = [  # router, experts, tokens, and what the training is like
    ("remix-2-shared-sequence", 2, 6, {"num_selections": 2, "seed": 0}),
    ("remix-2-shared-sequence", 2, 6, {"num_selections": 3, "seed": 1, "entropy_weight": 0.3}),
    ("remix-2-shared-sequence", 2, 6, {"num_selections": 2, "seed": 0, "masked": False}),
    ("remix-1-shared-token", 2, 2, {"num_selections": 2, "masked": False}),
    ("remix-2-shared-sequence-started", 2, 6, {"num_selections": 2, "seed": 4}),
    ("remix-1-shared-request", 2, 9, {"num_selections": 2, "seed": 2}),
    ("remix-1-shared-token", 2, 2, {"num_selections": 2, "entropy_weight": 0.3}),
    ("remix-1-layers-sequence", 2, 6, {"num_selections": 2, "seed": 3}),
    ("remix-1-layers-token", 1, 2, {"num_selections": 2}),
]
OFTEN = [*CASES[:1], *CASES[2:4], *CASES[5:8]]


@dataclass
class Setting:
    """A mixture, one window, and every selection that there is for it, in every decision."""

    method: Reinforce
    told: torch.Tensor  # [S, L, T, K]

    @property
    def tokens(self):
        return self.method.windows_WT.shape[1] - 1

    def cut(self):
        """The token that the next step decides at, above the token level."""
        generator = torch.Generator()
        generator.set_state(self.method.generator.get_state())
        return int(torch.randint(1, self.tokens + 1, (), generator=generator))

    @torch.no_grad()
    def run(self):
        """Nats of all selections [S, T], and what each decision was made from."""
        mixture, features = self.method.mixture, []

        def told(slot, x_STD, _log_q):
            features.append(x_STD)
            return self.told[:, slot]

        ids = self.method.windows_WT.expand(len(self.told), -1)
        with mixture.gates.asking(draw=told):
            losses_ST = token_losses(mixture.model, ids)
        return losses_ST, features

    def exact(self):
        """The gradient of the expected loss, less the entropy where it is wanted; Q [S].

        Of a selection at a token the loss of that and of later tokens counts; of one at every
        token all of them count, for an earlier loss does not depend on what is chosen later.
        """
        method, at, counted = self.method, slice(None), slice(None)
        if not method.by_token:
            at = slice(self.cut() - 1, self.cut())
            counted = slice(self.cut() - 1 if method.training.masked else 0, None)
        losses_ST, features = self.run()
        losses_S = losses_ST[:, counted].sum(1) / self.tokens
        log_odds_S, spread = torch.zeros(len(losses_S)), 0.0
        for slot, x_STD in enumerate(features):
            log_q = method.router.log_q(x_STD[:, at], slot)
            log_odds_S = log_odds_S + log_probability(log_q, self.told[:, slot, at]).sum(1)
            spread = spread + entropy(log_q).mean()
        odds_S = log_odds_S.exp()
        assert odds_S.sum().item() == pytest.approx(1, abs=1e-5)
        objective = (odds_S * losses_S).sum() - method.training.entropy_weight * spread
        found = torch.autograd.grad(objective, list(method.router.parameters()))
        return torch.cat([g.flatten() for g in found]).double(), odds_S.detach()

    def mean_step(self, odds_S, monkeypatch):
        """The mean gradient of `step` over all tuples of selections."""
        method, total = self.method, 0.0
        state = method.generator.get_state()
        samples = method.training.num_selections
        for tuple_M in itertools.product(range(len(odds_S)), repeat=samples):
            method.generator.set_state(state)
            told_MLTK = self.told[list(tuple_M)]
            following = iter(told_MLTK.unbind(1))
            monkeypatch.setattr(reinforce, "sample_ordered", self.teller(following))
            method.router.zero_grad()
            method.step(0, [0])
            assert next(following, None) is None
            flat = torch.cat([p.grad.flatten() for p in method.router.parameters()])
            total = total + odds_S[list(tuple_M)].double().prod() * flat.double()
        return total

    def teller(self, following):
        """In place of the draw."""

        def told(log_q, k, _generator):
            chosen_MTK = next(following)
            chosen = chosen_MTK if self.method.by_token else chosen_MTK[:, 0]
            assert log_q.shape[:-1] == chosen.shape[:-1]
            assert k == chosen.shape[-1]
            return chosen

        return told


@pytest.fixture
def setting(request, base, outer, case_of):
    name, count, tokens, training = request.param
    experts = dict(itertools.islice(outer.items(), count))
    router = case_of(name).make(base, experts)
    ids = torch.randint(0, 256, (1, tokens + 1), generator=torch.Generator().manual_seed(5))
    method = Reinforce(assemble(base.model, experts, router), ids, Training(**training))
    one = list(itertools.permutations(range(count + 1), router.spec.top_k))
    decisions = router.spec.layers * (tokens if method.by_token else 1)
    told = torch.tensor(list(itertools.product(one, repeat=decisions)))
    told = told.view(len(told), router.spec.layers, -1, router.spec.top_k)
    return Setting(method, told.expand(-1, -1, tokens, -1))


def apart(setting, monkeypatch):
    """How far the mean step is from the exact gradient, as a part of that."""
    exact, odds_S = setting.exact()
    return float((setting.mean_step(odds_S, monkeypatch) - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    "setting",
    rarer_slow(CASES, OFTEN),
    ids=lambda case: "-".join(map(str, case[:3])),
    indirect=True,
)
def test_a_step_is_unbiased(setting, monkeypatch):
    shared = setting.method.router.shared and not setting.method.by_token
    assert (setting.method.table is not None) == shared
    assert apart(setting, monkeypatch) < CLOSE


def over_m(losses_BM, log_q_BM):
    samples = losses_BM.shape[1]
    return (leave_one_out(losses_BM) * log_q_BM).sum(-1) * (samples - 1) / samples


def as_with_replacement(log_q, chosen_K):
    return log_q.gather(-1, chosen_K).sum(-1)


@pytest.mark.parametrize("setting", CASES[:1], ids=["table"], indirect=True)
@pytest.mark.parametrize(
    ("name", "mutation"), [("surrogate", over_m), ("log_probability", as_with_replacement)]
)
def test_a_step_with_another_estimate_is_not(setting, monkeypatch, name, mutation):
    monkeypatch.setattr(reinforce, name, mutation)
    assert apart(setting, monkeypatch) > WIDE
