"""A fine-tuned model as a low-rank change: what it keeps, and what is no fine-tuned model."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedmore.experts.base.model import load_base
from fedmore.experts.conversion import change as conversions
from fedmore.experts.conversion.change import cut, leading
from fedmore.experts.conversion.fine_tuned import fine_tuned_change
from fedmore.experts.errors import BaseError, ConfigError
from fedmore.experts.low_rank_linear import with_change
from fedmore.experts.spec import ExpertSpec

FFN = "model.layers.1.mlp.down_proj"
ATTENTION = "model.layers.4.self_attn.q_proj"
NORM = "model.norm.weight"


@pytest.fixture
def tuned(tiny, tmp_path):
    """Call it with a change by the name of a tensor: the base with that change, in a new tiny."""

    def make(changes):
        where = shutil.copytree(tiny, tmp_path / "tuned")
        weights = load_file(where / "model.safetensors")
        for name, change in changes.items():
            weights[name] = weights[name] + change if change is not None else None
        kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
        save_file(kept, where / "model.safetensors", {"format": "pt"})
        return str(where)

    return make


def product(shape, rank, size=0.3):
    return size * torch.randn(shape[0], rank) @ torch.randn(rank, shape[1]) / rank**0.5


def test_a_change_of_low_rank_is_kept_whole(tiny, base, shapes, tuned, logits):
    made = tuned({f"{path}.weight": product(shapes[path], 3) for path in (FFN, ATTENTION)})
    found = fine_tuned_change(str(tiny), made, shapes, 3, 0)
    assert found.error < 1e-5
    assert found.outside == 0
    assert not found.is_ffn_alone
    ids = torch.randint(0, 256, (2, 24))
    like = logits(with_change(base.model, found.factors), ids)
    wanted = logits(load_base(made, "float32").model, ids)
    torch.testing.assert_close(like, wanted, atol=1e-4, rtol=1e-4)
    assert (like - logits(base.model, ids)).abs().max() > 0.1


def test_what_is_lost_is_said(tiny, shapes, tuned):
    """Directions beyond the rank are the error; tensors that no expert changes are outside."""
    changes = {f"{FFN}.weight": product(shapes[FFN], 8), NORM: torch.full((64,), 0.5)}
    found = fine_tuned_change(str(tiny), tuned(changes), shapes, 2, 0)
    whole = changes[f"{FFN}.weight"].double()
    s = torch.linalg.svdvals(whole)
    assert found.error == pytest.approx(float(s[2:].norm() / s.norm()), rel=1e-3)
    assert found.outside == pytest.approx(16 / (16 + float(whole.square().sum())), rel=1e-5)
    assert found.is_ffn_alone
    assert {path: b.shape[1] for path, (b, _) in found.factors.items()} == {
        FFN: 2, FFN.replace("down", "gate"): 1, FFN.replace("down", "up"): 1,
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(96, 640), (640, 96)])
def test_the_randomised_svd_is_as_good_as_the_whole_one(monkeypatch, shape):
    s = 0.9 ** torch.arange(96.0)
    u, v = (torch.linalg.qr(torch.randn(n, 96))[0] for n in shape)
    matrix = u * s @ v.T
    monkeypatch.setattr(conversions, "EXACT_UP_TO", 0)
    b, a, left = leading(matrix, 16, 3)
    best = float(s[16:].double().square().sum())
    assert left == pytest.approx(best, rel=1e-3)
    assert left == pytest.approx(float((matrix.double() - b.double() @ a.double()).square().sum()))
    again = leading(matrix, 16, 3)
    assert torch.equal(again[0], b)
    assert torch.equal(again[1], a)


def test_a_cut_says_its_error(changes, shapes):
    factors = changes(ExpertSpec("legal", "expert", "legal", 6))
    kept, error = cut(factors, 2)
    dense = {path: (b.double() @ a.double()) for path, (b, a) in factors.items()}
    wrong = [dense[path] - b.double() @ a.double() for path, (b, a) in kept.items()]
    squares = sum(float(each.square().sum()) for each in dense.values())
    assert error == pytest.approx((sum(float(w.square().sum()) for w in wrong) / squares) ** 0.5)
    assert {a.shape[0] for _, a in kept.values()} == {2}
    assert cut(factors, 6) == (factors, 0.0)


def test_what_is_no_fine_tuned_model_is_refused(tiny, shapes, tuned, tmp_path):
    same = tuned({})
    with pytest.raises(ConfigError, match="no matrix that an expert can change differs"):
        fine_tuned_change(str(tiny), same, shapes, 2, 0)
    shutil.rmtree(same)
    missing = tuned({f"{FFN}.weight": None})
    with pytest.raises(BaseError, match=rf"tuned: has no {FFN}.weight"):
        fine_tuned_change(str(tiny), missing, shapes, 2, 0)
    shutil.rmtree(missing)
    grown = tuned({})
    weights = load_file(f"{grown}/model.safetensors")
    weights["model.embed_tokens.weight"] = torch.zeros(300, 64)
    save_file(weights, f"{grown}/model.safetensors", {"format": "pt"})
    with pytest.raises(BaseError, match=r"embed_tokens\.weight is 300 x 64, in"):
        fine_tuned_change(str(tiny), grown, shapes, 2, 0)
    with pytest.raises(BaseError, match="neither a directory nor a model"):
        fine_tuned_change(str(tiny), str(tmp_path / "nothing"), shapes, 2, 0)
