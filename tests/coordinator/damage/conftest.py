"""A finished federation over the tiny base, for the tests of damage and of read-only folders."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from fedmore.coordinator.folder import create as inits
from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.folder.shared_base import base_of
from fedmore.coordinator.mixture.assemble import assemble
from fedmore.coordinator.mixture.evaluate import evaluate
from fedmore.coordinator.store import state_keys
from fedmore.coordinator.store.state_keys import DISMISSED
from fedmore.experts.base.model import shapes_of
from fedmore.experts.factors import num_parameters, to_state
from fedmore.experts.spec import ExpertSpec
from fedmore.sims.data.tiny_model import make_tiny_base


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One expert, its mixture, and its scores; to be copied before it is written to."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("finished")
    make_tiny_base(folder / "base")
    (folder / "legal.txt").write_text("The parties agree to keep the letter.", encoding="utf-8")
    config = inits.new_config(
        name="demo", base=str(folder / "base"), domains=("legal",), clients=1, port=1
    )
    config = replace(
        config,
        base=replace(config.base, dtype="float32"),
        router=replace(config.router, kind="uniform"),
        evaluation=replace(
            config.evaluation, texts={"legal": str(folder / "legal.txt")}, documents=1, tokens=8
        ),
    )
    hub = folder / "hub"
    config = inits.create(hub, config)
    with open_federation(hub) as opened:
        fill(opened, config)
    return hub


def fill(opened, config) -> None:
    registry, store = opened.registry, opened.store
    registry.enrol(registry.invite("ada"), "ada", "expert", "legal", 2)
    sites = ExpertSpec("legal", "expert", "legal", 2).sites(shapes_of(base_of(config).model))
    change = {
        s.path: (torch.randn(s.out_features, 2) * 0.1, torch.randn(2, s.in_features)) for s in sites
    }
    registry.add_expert(
        name="legal", kind="expert", target="legal", rank=2, params=num_parameters(change), stage=0,
        round=1, digest=store.put(save(to_state(change))), metrics={"owners": ["ada"]},
    )  # fmt: skip
    metrics = {"clients": {"ada": {"tokens": 5}}, "experts": {}}
    registry.add_round(stage=0, kind="experts", round=1, metrics=metrics)
    assemble(opened, ["legal"])
    evaluate(opened)
    registry.set_state(state_keys.PHASE, state_keys.FINISHED)
    registry.set_state(DISMISSED, True)


@pytest.fixture
def hub(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished federation."""
    return Path(shutil.copytree(finished, tmp_path / "hub"))
