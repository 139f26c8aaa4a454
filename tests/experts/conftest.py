import pytest
import torch

from fedmore.experts.base.model import shapes_of


@pytest.fixture(scope="session")
def base(tiny_base):
    return tiny_base


@pytest.fixture(scope="session")
def shapes(base):
    return shapes_of(base.model)


@pytest.fixture
def changes(shapes):
    """Call it with a spec: a random change of all its sites, large enough to be seen."""

    def make(spec, size=0.05):
        return {
            site.path: (
                torch.randn(site.out_features, spec.rank) * size,
                torch.randn(spec.rank, site.in_features) * size,
            )
            for site in spec.sites(shapes)
        }

    return make


@pytest.fixture
def logits(base):
    """Call it with a model and a text."""

    @torch.no_grad()
    def run(model, ids):
        return model(input_ids=ids, use_cache=False).logits

    return run
