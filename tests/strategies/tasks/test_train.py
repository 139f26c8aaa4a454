"""Tasks and answers: what comes through, and what is refused."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedmore.experts.errors import WireError
from fedmore.experts.factors import empty, initial, tensors
from fedmore.strategies.compression.codec import codec_of, encode
from fedmore.strategies.tasks.train import (
    METRICS,
    TrainTask,
    pack,
    read_metrics,
    read_task,
    read_train_request,
    read_update,
    train_content,
    unpack,
    update_content,
)

TASK = TrainTask(
    expert="legal", kind="expert", target="legal", rank=2, first_layers=1, last_layers=1,
    stage="experts", round=1, rounds=3, steps=5, batch_size=2, sequence_length=16,
    learning_rate=1e-3, codec="sign1", threads=1, seed=4, updates=0,
)  # fmt: skip


@pytest.fixture
def sites(shapes):
    return TASK.spec("a").sites(shapes)


def ranks_of(sites, rank):
    return {site.path: rank for site in sites}


def same(left, right):
    return list(left) == list(right) and all(
        torch.equal(x, y) for p in left for x, y in zip(left[p], right[p], strict=True)
    )


def test_a_task_comes_through(sites, random_factors):
    aggregate = random_factors(sites, 5)
    content = train_content(TASK, sites, "fp32", aggregate)
    assert read_task(content) == replace(TASK, aggregate_ranks=(5,) * len(sites))
    assert same(read_train_request(content).aggregate(sites), aggregate)


def test_a_task_of_weights_of_few_bits_comes_through(sites):
    asked = replace(TASK, weight_bits=2, codec="bits2")
    assert read_task(train_content(asked, sites, "bf16", None)) == asked


def test_a_task_that_does_not_speak_of_bits_trains_numbers(sites):
    """As the rows that an earlier version has left in a registry."""
    content = train_content(TASK, sites, "bf16", None)
    del content.config_records["task"]["weight_bits"]
    assert read_task(content).weight_bits == 0


def test_a_task_without_tensors(sites):
    content = train_content(TASK, sites, "bf16", None)
    assert read_task(content) == TASK
    assert read_train_request(content).aggregate(sites) is None


def test_an_aggregate_of_different_ranks_one_of_them_0(sites, random_factors):
    aggregate = random_factors(sites, 3) | {
        sites[1].path: empty(sites)[sites[1].path],
        sites[2].path: random_factors([sites[2]], 7)[sites[2].path],
    }
    content = train_content(TASK, sites, "fp32", aggregate)
    assert read_task(content).aggregate_ranks[:4] == (3, 0, 7, 3)
    assert same(read_train_request(content).aggregate(sites), aggregate)


def test_the_client_share_has_its_own_name(shapes):
    first, second = TASK.spec("a"), TASK.spec("b")
    assert (first.name, second.name) == ("legal/a", "legal/b")
    sites = first.sites(shapes)
    path = sites[0].path
    assert not torch.equal(initial(first, sites, 0)[path][1], initial(second, sites, 0)[path][1])


def changed(**values):
    config = asdict(TASK) | {"aggregate_ranks": []} | values
    config = {k: v for k, v in config.items() if v is not None}
    return RecordDict({"task": ConfigRecord(config), "state": ArrayRecord()})


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"task": MetricRecord({"rank": 1})}),
        changed(rank=None),
        changed(rank="2"),
        changed(rank=2.5),
        changed(kind="other"),
        changed(expert=3),
        changed(extra=1),
        changed(aggregate_ranks=[1.5]),
        changed(learning_rate="1e-3"),
        changed(weight_bits=3, codec="bits2"),
        changed(weight_bits=1),
        changed(weight_bits=1, codec="bits2"),
        changed(codec="bits1"),
    ],
)
def test_what_is_not_a_task_is_refused(content):
    with pytest.raises(WireError, match="not a training task"):
        read_task(content)


def test_ranks_that_do_not_fit_are_refused(sites, random_factors):
    content = train_content(TASK, sites, "fp32", random_factors(sites, 3))
    record = content.config_records["task"]
    record["aggregate_ranks"] = [3]
    with pytest.raises(WireError, match="1 ranks for 9 matrices"):
        read_train_request(content).aggregate(sites)
    record["aggregate_ranks"] = [-1, 7, *[3] * 7]
    with pytest.raises(WireError, match="a rank of -1"):
        read_train_request(content).aggregate(sites)
    record["aggregate_ranks"] = [4] * 9
    with pytest.raises(WireError, match="bytes where the shapes ask for"):
        read_train_request(content).aggregate(sites)


def test_an_array_that_no_task_brings_is_refused(sites, random_factors):
    """Such as a client's own factors: what it begins from is not the coordinator's to choose."""
    content = train_content(TASK, sites, "fp32", random_factors(sites, 2))
    content["state"]["component"] = content["state"]["aggregate"]
    with pytest.raises(WireError, match="it brings 'component'"):
        read_train_request(content)


@pytest.fixture
def update(sites, random_factors):
    data = encode(codec_of("sign1"), tensors(random_factors(sites, 2), sites))
    return data, update_content(data, "sign1", dict.fromkeys(METRICS, 1.5))


def test_an_update_comes_through(sites, update):
    data, content = update
    found = read_update(content, sites, ranks_of(sites, 2), "sign1")
    assert encode(codec_of("sign1"), tensors(found, sites)) == data
    assert read_metrics(content, METRICS) == dict.fromkeys(METRICS, 1.5)
    (array,) = content.array_records["update"].values()
    assert (array.dtype, array.shape, array.stype) == ("uint8", (len(data),), "fedmore.sign1")


def test_an_update_is_refused_unless_it_is_just_what_was_asked(sites, update):
    data, content = update
    with pytest.raises(WireError, match="bytes where the shapes ask for"):
        read_update(content, sites, ranks_of(sites, 3), "sign1")
    with pytest.raises(WireError, match=r"is fedmore\.sign1, the task asked for fp32"):
        read_update(content, sites, ranks_of(sites, 2), "fp32")
    with pytest.raises(WireError, match="bytes where"):
        read_update(update_content(data[:-1], "sign1", {}), sites, ranks_of(sites, 2), "sign1")
    with pytest.raises(WireError, match="bytes where"):
        read_update(update_content(data + b"0", "sign1", {}), sites, ranks_of(sites, 2), "sign1")
    with pytest.raises(WireError, match="NaN or Inf"):
        read_update(
            update_content(b"\xff" * len(data), "sign1", {}), sites, ranks_of(sites, 2), "sign1"
        )
    content.array_records["update"]["text"] = Array("uint8", (1,), "fedmore.fp32", b"x")
    with pytest.raises(WireError, match=r"\['change', 'text'\], not one array named change"):
        read_update(content, sites, ranks_of(sites, 2), "sign1")


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"update": ConfigRecord({"change": "x"})}),
        RecordDict({"update": ArrayRecord()}),
        RecordDict({"other": ArrayRecord({"change": Array("uint8", (0,), "fedmore.sign1", b"")})}),
    ],
)
def test_what_is_no_update_is_refused(sites, content):
    with pytest.raises(WireError, match="not one array named change"):
        read_update(content, sites, ranks_of(sites, 2), "sign1")


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"loss": 1.0},
        dict.fromkeys(METRICS, 1) | {"secret": 1},
        dict.fromkeys(METRICS, 1) | {"loss": math.nan},
        dict.fromkeys(METRICS, 1) | {"tokens": math.inf},
        dict.fromkeys(METRICS, 1) | {"tokens": [1, 2]},
    ],
)
def test_other_metrics_are_refused(metrics):
    with pytest.raises(WireError, match="metric"):
        read_metrics(RecordDict({"metrics": MetricRecord(metrics)}), METRICS)
    with pytest.raises(WireError, match="metric"):
        read_metrics(RecordDict(), METRICS)


@pytest.mark.parametrize("codec", ["fp32", "bf16", "sign1"])
def test_pack_and_unpack(codec):
    x = torch.full((3, 2), 0.5)
    (found,) = unpack(pack(codec, [x]), [(3, 2)])
    assert torch.equal(found, x)
