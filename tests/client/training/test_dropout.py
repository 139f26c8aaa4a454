"""The same task gives the same bits over a base with dropout, whatever else draws numbers."""

import threading

import pytest
import torch

from fedmore.client.training.expert import Schedule, train
from fedmore.experts.base.model import linear_shapes, load_base
from fedmore.experts.factors import initial
from fedmore.experts.spec import ExpertSpec
from fedmore.sims.data.tiny_model import make_tiny_base


@pytest.fixture(scope="module")
def dropping(tmp_path_factory):
    """The tiny base with attention_dropout 0.1."""
    import json

    folder = make_tiny_base(tmp_path_factory.mktemp("dropping"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.1}))
    return folder


def trained(folder, seed):
    base = load_base(str(folder), "float32")
    spec = ExpertSpec("kitchen/a", "expert", "kitchen", 4)
    sites = spec.sites(linear_shapes(str(folder)))
    text = torch.randint(0, 200, (6, 17), generator=torch.Generator().manual_seed(0))
    made = train(
        base.model, sites, initial(spec, sites, 0), None, 2.0, text, Schedule(3, 2, 1e-2, 1, 1),
        lambda *_: None, seed=seed,
    )  # fmt: skip
    return torch.cat([t.flatten() for pair in made.factors.values() for t in pair])


def test_a_seed_decides_what_is_dropped(dropping):
    torch.manual_seed(1)
    first = trained(dropping, 5)
    torch.rand(7)
    state = torch.get_rng_state()
    assert torch.equal(trained(dropping, 5), first)
    assert torch.equal(torch.get_rng_state(), state), "the process's own numbers go on as before"
    assert not torch.equal(trained(dropping, 6), first)


def test_two_clients_in_one_process_do_not_disturb_each_other(dropping):
    alone = [trained(dropping, seed) for seed in (5, 6)]
    found = {}
    threads = [
        threading.Thread(target=lambda s=seed: found.update({s: trained(dropping, s)}))
        for seed in (5, 6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[s], one) for s, one in zip((5, 6), alone, strict=True))
