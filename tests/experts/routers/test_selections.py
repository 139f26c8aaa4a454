"""The losses that ReMix compares: of many selections at once, each once, as if one by one.

Shape suffixes: W windows, M selections of each, T tokens, K chosen.
"""

import pytest
import torch

from fedmore.experts.mixture.model import assemble
from fedmore.experts.router_training import reinforce
from fedmore.experts.router_training.gradient import Training, token_losses, window_losses
from fedmore.experts.router_training.reinforce import LossTable, Reinforce
from fedmore.experts.routers.sampling import sample_ordered
from fedmore.experts.spec import layer_of

W, M, T = 3, 4, 7
FIRST = 2
ROWS = [2, 0]
IDS = torch.randint(0, 256, (W, T + 1), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def made(request, base, experts, case_of):
    """A mixture whose experts begin at the third block."""
    upper = {
        name: {path: pair for path, pair in factors.items() if layer_of(path) >= FIRST}
        for name, factors in experts.items()
    }
    return assemble(base.model, upper, case_of(request.param).make(base, upper))


@pytest.fixture
def passed(made):
    """How many sequences came to the first two blocks, and how many to the next two."""
    found = dict.fromkeys(range(2 * FIRST), 0)

    def count(block):
        def hook(_module, inputs, _output):
            found[block] += len(inputs[0])

        return hook

    for block in found:
        made.model.get_decoder().layers[block].register_forward_hook(count(block))
    return found


@pytest.fixture
def spied(monkeypatch):
    """What the next steps draw, and the losses that come of it."""
    drawn, losses = [], []

    def draw(*given):
        drawn.append(sample_ordered(*given))
        return drawn[-1]

    def lose(*given):
        losses.append(token_losses(*given))
        return losses[-1]

    monkeypatch.setattr(reinforce, "sample_ordered", draw)
    monkeypatch.setattr(reinforce, "token_losses", lose)
    return drawn, losses


@torch.no_grad()
def one_by_one(mixture, ids_1T, arms):
    """The loss of one window; `arms` are those of every decision, [K] or [T, K]."""
    with mixture.gates.asking(draw=lambda slot, _x, _log_q: arms[slot].expand(1, T, -1)):
        return float(window_losses(mixture.model, ids_1T))


@pytest.mark.parametrize(
    "made",
    ["remix-2-layers-token", "remix-2-layers-sequence", "remix-2-layers-request",
     "remix-2-shared-token", "remix-1-layers-sequence-rank_stabilised"],
    indirect=True,
)  # fmt: skip
def test_selections_together_are_selections_one_by_one(made, spied, passed):
    drawn, losses = spied
    loss = Reinforce(made, IDS, Training(num_selections=M)).step(0, ROWS)
    below, above = len(ROWS), len(ROWS) * M  # the copies begin where the experts do
    assert passed == {0: below, 1: below, 2: above, 3: above}
    assert len(drawn) == (1 if made.router.shared else len(made.gates.blocks))
    found_WM = losses[0].mean(1).view(len(ROWS), M)
    for place, row in enumerate(ROWS):
        for m in range(M):
            arms = [chosen[place * M + m] for chosen in drawn]
            expected = one_by_one(made, IDS[row : row + 1], arms)
            assert float(found_WM[place, m]) == pytest.approx(expected, rel=1e-5)
    assert loss == pytest.approx(float(found_WM.mean()))
    assert found_WM.std() > 1e-4


TABLED = pytest.mark.parametrize("made", ["remix-2-shared-sequence"], indirect=True)


@TABLED
def test_the_table_has_every_loss_once(made, passed, monkeypatch):
    monkeypatch.setattr(reinforce, "CHUNK", 2)
    table = LossTable(made, IDS)
    chosen_WMK = torch.tensor([[[0, 1], [1, 0], [2, 3], [0, 1]], [[0, 1], [3, 2], [1, 2], [2, 1]]])
    with torch.inference_mode():
        found_WMT = table.losses(ROWS, chosen_WMK)
        assert passed[0] == 5  # sets, over both windows
        assert torch.equal(table.losses(ROWS[::-1], chosen_WMK.flip(0)), found_WMT.flip(0))
        assert passed[0] == 5
    for row, sets, losses in zip(ROWS, chosen_WMK, found_WMT.mean(-1).tolist(), strict=True):
        for chosen, loss in zip(sets, losses, strict=True):
            assert loss == pytest.approx(one_by_one(made, IDS[row : row + 1], [chosen]), rel=1e-5)


@TABLED
def test_training_from_the_table_ends_with_every_set_known(made, passed):
    """Six sets of two arms of four: no step after that runs the model."""
    method = Reinforce(made, IDS[:1], Training(num_selections=16))
    for step in range(30):
        method.step(step, [0])
    assert passed[0] == len(method.table.known) == 6


@TABLED
def test_a_batch_is_the_mean_of_its_windows(made, spied, monkeypatch):
    drawn, _ = spied
    method = Reinforce(made, IDS, Training(num_selections=M))
    state = method.generator.get_state()
    together = gradient(method, ROWS)
    each, chosen_NK = [], drawn[0]
    for place, row in enumerate(ROWS):
        method.generator.set_state(state)  # the same token to decide at
        own_MK = chosen_NK[place * M : (place + 1) * M]
        monkeypatch.setattr(reinforce, "sample_ordered", lambda *_, of=own_MK: of)
        each.append(gradient(method, [row]))
    torch.testing.assert_close(together, torch.stack(each).mean(0))


def gradient(method, rows):
    method.router.zero_grad()
    method.step(0, rows)
    return torch.cat([p.grad.flatten() for p in method.router.parameters()])


@pytest.mark.parametrize("made", ["remix-2-layers-token", "remix-2-shared-sequence"], indirect=True)
def test_a_failed_step_leaves_the_mixture_as_it_was(made, logits, monkeypatch):
    """Of one selection, and of a loss that is no number."""
    before = logits(made.model, IDS)
    with pytest.raises(ValueError, match="2 selections or more"):
        Reinforce(made, IDS, Training(num_selections=1)).step(0, ROWS)
    monkeypatch.setattr(reinforce, "token_losses", broken)
    with pytest.raises(FloatingPointError, match="loss nan; lower the learning rate"):
        Reinforce(made, IDS, Training(num_selections=2)).step(0, ROWS)
    monkeypatch.setattr(reinforce, "token_losses", failing)
    with pytest.raises(RuntimeError, match="no memory"):
        Reinforce(made, IDS, Training(num_selections=2)).step(0, ROWS)
    assert all(p.grad is None for p in made.router.parameters())
    assert torch.equal(logits(made.model, IDS), before)


def broken(*given):
    return token_losses(*given) * float("nan")


def failing(*given):
    raise RuntimeError("no memory")


@pytest.mark.parametrize("masked", [True, False])
@TABLED
def test_a_selection_is_not_charged_with_the_tokens_before_it(made, monkeypatch, masked):
    """Whatever those cost, the gradient is the same; charged with all tokens it is not."""
    found = []
    for early in (0.0, 5.0):
        method = Reinforce(made, IDS, Training(num_selections=M, masked=masked))
        state = method.generator.get_state()
        cut = int(torch.randint(1, T + 1, (), generator=method.generator))
        method.generator.set_state(state)
        assert cut > 1

        def dearer(*given, more=early, before=cut - 1):
            losses = token_losses(*given)
            noise = torch.rand(losses[:, :before].shape, generator=torch.Generator().manual_seed(0))
            return torch.cat([losses[:, :before] + more * noise, losses[:, before:]], 1)

        monkeypatch.setattr(reinforce, "token_losses", dearer)
        found.append(gradient(method, ROWS))
    assert torch.allclose(*found, rtol=1e-5, atol=1e-8) is masked
