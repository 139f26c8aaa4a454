"""A whole federation whose owners train full-size experts beside low-rank ones."""

import json
from dataclasses import replace

import pytest
from safetensors.torch import load

from fedmore.coordinator.folder.federation import open_federation
from fedmore.coordinator.mixture.repacking import repack
from fedmore.experts.factors import WHOLE, from_state, rank_at
from fedmore.sims.engines import grpc, local
from fedmore.sims.engines.prepare import prepare
from fedmore.sims.scenarios.smoke import smoke

FULL = {"kitchen-a": "full", "garden": "full"}
"""One owner of two of the kitchen's expert, and the only one of the garden's."""

CODECS = ("stages.0.download_codec=sign1", "stages.0.rounds=3")


def with_full_size():
    made = smoke()
    clients = [replace(c, rank=FULL.get(c.name, c.rank)) for c in made.clients]
    return replace(made, clients=tuple(clients))


def newest(federation, name):
    row = federation.registry.latest(name)
    return row, from_state(load(federation.store.get(row.digest)))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_full_size_owners_from_joining_to_the_mixture(tmp_path):
    """Over sockets and in one process: the same bits, a mixture that is scored, and a repacking."""
    digests = []
    for engine, name in ((grpc, "grpc"), (local, "local")):
        engine.run(prepare(with_full_size(), tmp_path / name, seed=3, settings=CODECS))
        with open_federation(tmp_path / name) as federation:
            digests.append({e: newest(federation, e)[0].digest for e in ("kitchen", "garden")})
            for expert in ("kitchen", "garden"):
                row, factors = newest(federation, expert)
                assert row.rank == 0
                assert row.metrics["aggregation_error"] < 1e-6
                assert {rank_at(change) for change in factors.values()} == {WHOLE}
    assert digests[0] == digests[1]
    scores = json.loads((tmp_path / "local" / "evaluation.json").read_text(encoding="utf-8"))
    for text in ("kitchen", "garden"):
        row = scores["bits_per_byte"][text]
        assert row["mixture"]["mean"] < row["base"]["mean"]
    done = repack(tmp_path / "local", "garden", 4)
    assert (done.row.rank, done.params) == (4, 202752)
    assert 0 < done.error < 1
