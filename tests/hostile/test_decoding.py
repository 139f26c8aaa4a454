"""What few bytes may become: reckoned before it is decoded, and little more than the result."""

import subprocess
import sys
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedmore.client.egress.expert_rules import brought
from fedmore.client.ingress import decoding
from fedmore.client.ingress.decoding import check_decoding, decoded_bytes
from fedmore.experts.errors import EgressError, WireError
from fedmore.experts.spec import TargetModule
from fedmore.protos.wire.flower_compat import make_task
from fedmore.strategies.compression.codec import CODECS
from fedmore.strategies.tasks.train import TRAIN, TrainTask, read_task, read_train_request

SITES = (
    TargetModule("model.layers.0.mlp.up_proj", 96, 32),
    TargetModule("model.layers.0.mlp.down_proj", 32, 96),
)
FULL = 4 * 2 * 32 * (96 + 32)


def training(ranks, rank=4):
    task = TrainTask(
        expert="legal", kind="expert", target="legal", rank=rank, first_layers=10, last_layers=2,
        stage="experts", round=1, rounds=1, steps=4, batch_size=2, sequence_length=32,
        learning_rate=1e-3, codec="sign1", threads=1, seed=0, updates=0,
    )  # fmt: skip
    config = ConfigRecord(vars(task) | {"aggregate_ranks": list(ranks)})
    return message(TRAIN, RecordDict({"task": config}))


def brought_by(ranks):
    return brought(read_task(training(ranks).content), "a", SITES)


def message(kind, content):
    return make_task(
        content, task_id="t", node_id=1, message_type=kind, group_id="g", created_at=0.0, ttl=1.0,
        run_id=1,
    )  # fmt: skip


def test_what_an_aggregate_becomes_is_reckoned_from_its_ranks():
    own = 4 * 2 * 4 * (96 + 32)
    assert decoded_bytes(brought_by([])) == own
    assert decoded_bytes(brought_by([32, 32])) == own + FULL


@pytest.mark.parametrize("ranks", [[33, 1], [1, 1 << 40], [-1, 1]])
def test_more_than_the_full_rank_of_a_matrix_is_nothing_that_an_aggregate_has(ranks):
    with pytest.raises(EgressError, match="a task brings a rank of"):
        decoded_bytes(brought_by(ranks))
    content = training(ranks).content
    content["state"] = ArrayRecord()
    with pytest.raises(WireError, match="the aggregate has a rank of"):
        read_train_request(content).aggregate(SITES)


def test_a_task_that_would_not_fit_into_memory_is_refused_before_anything_is_decoded(monkeypatch):
    monkeypatch.setattr(decoding, "memory", lambda: (1 << 30, 2 * FULL))
    check_decoding(brought_by([24, 24]))
    with pytest.raises(EgressError, match="half of what is free"):
        check_decoding(brought_by([32, 32]))


CODE = """
from pathlib import Path
import torch
from fedmore.strategies.compression.codec import CODECS, decode, encode

torch.set_num_threads(1)

def memory(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))

for tag, codec in CODECS.items():
    count = 1 << 24
    decode(codec, encode(codec, [torch.linspace(-1, 1, 1 << 12)]), [(1 << 12,)])
    data = bytes(codec.size(count))
    Path("/proc/self/clear_refs").write_text("5")  # the highest begins anew
    before = memory("VmRSS")
    decode(codec, data, [(count,)])
    print(tag, (memory("VmHWM") - before - 2 * len(data)) / (4 * count))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_decoding_costs_little_more_than_its_result():
    """16 Mi numbers of each codec: the bytes once more, and no second tensor of the result's size.

    The allocator keeps up to some tens of MiB of freed slices, so the limit is not nearer to 1.
    """
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    costs = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}
    assert set(costs) == set(CODECS)
    assert {tag: cost for tag, cost in costs.items() if cost > 2} == {}
