"""A base at 4 bits (bitsandbytes, on the CPU) trains, mixes and scores like any other."""

import torch

from fedmore.client.training.expert import Schedule, train
from fedmore.experts import factors as low_rank
from fedmore.experts.base.model import linear_shapes, load_base, shapes_of
from fedmore.experts.mixture.model import assemble
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.routers.static import UniformRouter
from fedmore.experts.scoring.bits_per_byte import score
from fedmore.experts.spec import ExpertSpec
from fedmore.sims.data.tiny_model import make_tiny_base


def test_a_base_at_four_bits_trains_and_mixes(tmp_path):
    path = str(make_tiny_base(tmp_path / "base"))
    base = load_base(path, "float32", "cpu", "nf4")
    linear = base.model.get_submodule("model.layers.0.mlp.up_proj")
    assert type(linear).__name__ == "Linear4bit"
    assert shapes_of(base.model) == linear_shapes(path)
    spec = ExpertSpec("gl/a", "adapter", "gl", 4)
    sites = spec.sites(linear_shapes(path))
    start = low_rank.initial(spec, sites, 0)
    windows = torch.randint(0, 250, (8, 33), generator=torch.Generator().manual_seed(0))
    schedule = Schedule(2, 4, 1e-2, 1, 1)
    trained = train(base.model, sites, start, None, spec.scale, windows, schedule, ignore)
    change = {p: (spec.scale * b, a) for p, (b, a) in trained.factors.items()}
    assert all(bool(b.abs().sum() > 0) for b, _ in change.values())
    text = ["Ola, mundo: isto é galego."]
    plain = score(base.model, base.text, text, 32)
    router = UniformRouter(RouterSpec("uniform", 1, 64))
    mixed = score(assemble(base.model, {"gl": change}, router).model, base.text, text, 32)
    assert mixed[0].nats != plain[0].nats
    nothing = {p: (b * 0, a) for p, (b, a) in change.items()}
    off = score(assemble(base.model, {"gl": nothing}, router).model, base.text, text, 32)
    torch.testing.assert_close(off[0].nats, plain[0].nats)
    silent = assemble(base.model, {"gl": change}, Silent(RouterSpec("uniform", 1, 64)))
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        assert torch.equal(silent.model(ids).logits, base.model(ids).logits)


class Silent(Router):
    """All for the base, to the last bit."""

    def forward(self, x_BTD, _slot, _memory):
        return x_BTD.new_tensor([1.0, 0.0]).expand(*x_BTD.shape[:2], 2)


def ignore(*_):
    """No one watches."""
