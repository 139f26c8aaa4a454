import pytest
import torch

from fedmore.experts.base.model import load_base, shapes_of
from fedmore.sims.data.tiny_model import make_tiny_base


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return make_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def base(folder):
    """d 64, h 176, 6 blocks, k and v of 32; a token is a byte."""
    return load_base(str(folder), "float32")


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
