"""Routing tasks: what is written is what is read, and nothing else is."""

from dataclasses import asdict, replace

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from wire_arrays import array

from fedmore.experts import factors as low_rank
from fedmore.experts.errors import WireError
from fedmore.experts.former_names import ROUTER, former
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.spec import ExpertSpec
from fedmore.strategies.router_stage.tasks import (
    ABSENT,
    RouteTask,
    ranks_of,
    read_route_request,
    read_route_task,
    route_arrays,
    route_content,
)

WIDTH = 12
CASES = ["softmax-shared", "softmax-layers", "softmax-domain", "xlora-layers", "remix-shared",
         "remix-layers", "remix-domain"]  # fmt: skip
OWNERS = (
    ExpertSpec("legal", "expert", "legal", 2),
    ExpertSpec("medical", "expert", "medical", 5),
    ExpertSpec("gl", "adapter", "gl", 3, 1, 1),  # first and last block, attention too
)


@pytest.fixture
def experts(shapes, random_factors):
    """Of different ranks, the last an adapter; one matrix has a rank of 0."""
    made = {spec.name: random_factors(spec.sites(shapes), spec.rank) for spec in OWNERS}
    made["legal"] |= low_rank.empty(OWNERS[0].sites(shapes)[:1])
    return made


@pytest.fixture(params=CASES)
def router(request):
    """With random numbers everywhere."""
    kind, place = request.param.split("-")
    layers, start = 3 if place == "layers" else 1, "domain" if place == "domain" else "zero"
    made = make_router(RouterSpec(kind, 3, WIDTH, layers, "request", 7, 2, hidden=4, init=start))
    made.load_state_dict({n: torch.randn(t.shape) for n, t in made.state_dict().items()})
    return made


def task_of(router, experts, shapes, **changes):
    spec = router.spec
    values = {
        "kind": spec.kind, "experts": tuple(experts), "ranks": ranks_of(experts, shapes),
        "width": spec.width, "layers": spec.layers, "granularity": spec.granularity,
        "prefix_tokens": spec.prefix_tokens, "top_k": spec.top_k, "scaling": spec.scaling,
        "hidden": spec.hidden, "num_selections": 4, "entropy_weight": 0.1, "z_loss_weight": 1e-3,
        "stage": "routing", "round": 2, "rounds": 3, "steps": 5, "batch_size": 2,
        "sequence_length": 32, "learning_rate": 0.03, "codec": "sign1", "threads": 1, "seed": 7,
        "updates": 1, "init": spec.init,
    }  # fmt: skip
    return RouteTask(**(values | changes))


@pytest.fixture
def task(router, experts, shapes):
    return task_of(router, experts, shapes)


@pytest.fixture
def content(task, router, experts, shapes):
    return route_content(task, route_arrays(router, experts, shapes, "fp32"))


def test_the_task_comes_back(content, task, router):
    found = read_route_task(content)
    assert found == task
    assert found.spec() == router.spec


def test_the_router_comes_back_bit_for_bit(content, task, router):
    found = read_route_request(content).router()
    assert type(found) is type(router)
    state = found.state_dict()
    assert all(torch.equal(state[name], t) for name, t in router.state_dict().items())


@pytest.mark.parametrize(("codec", "off"), [("fp32", 0.0), ("bf16", 2**-8), ("auto", None)])
def test_experts_of_every_rank_come_back(task, router, experts, shapes, codec, off):
    content = route_content(task, route_arrays(router, experts, shapes, codec))
    found = read_route_request(content).experts(shapes)
    assert list(found) == list(experts)
    for name, factors in experts.items():
        assert low_rank.ranks(found[name]) == low_rank.ranks(factors)
        for path, pair in factors.items() if off is not None else ():
            for there, wanted in zip(found[name][path], pair, strict=True):
                assert ((there - wanted).abs() <= off * wanted.abs()).all()


def test_ranks_name_every_matrix_of_the_base(experts, shapes):
    ranks = ranks_of(experts, shapes)
    assert len(ranks) == 3 * len(shapes)
    legal, _, gl = (dict(zip(shapes, ranks[i * 21 : i * 21 + 21], strict=True)) for i in range(3))
    assert sorted(legal.values()) == [ABSENT] * 12 + [0] + [2] * 8
    assert {path for path, rank in gl.items() if rank == 3} == {
        path for path in shapes if ".layers.1." not in path
    }


def test_draws_differ_between_clients_and_rounds_alone(task):
    def seed(client, **changes):
        return replace(task, **changes).training(client).seed

    assert seed("a") == seed("a")
    assert len({seed("a"), seed("b"), seed("a", round=3), seed("a", seed=8)}) == 4
    training = task.training("a")
    assert (training.steps, training.batch_size, training.learning_rate) == (5, 2, 0.03)
    assert (training.num_selections, training.entropy_weight, training.z_loss_weight) == (
        4,
        0.1,
        1e-3,
    )
    assert (training.balance_weight, training.experts_learning_rate, training.only) == (
        0.0,
        0.0,
        (),
    )


def changed(content, task=None, **arrays):
    """The message with entries of its task or arrays replaced; None takes one out."""
    config = {**content.config_records["task"], **(task or {})}
    state = {**content.array_records["state"], **arrays}
    return RecordDict(
        {
            "task": ConfigRecord({k: v for k, v in config.items() if v is not None}),
            "state": ArrayRecord({k: v for k, v in state.items() if v is not None}),
        }
    )


@pytest.mark.parametrize(
    "broken",
    [
        {"kind": "oracle"},
        {"level": "book"},
        {"scaling": "none"},
        {"ranks": ["2"]},
        {"ranks": 2},
        {"experts": "legal"},
        {"steps": "5"},
        {"steps": 5.5},
        {"top_k": True},
        {"updates": None},
        {"note": "more"},
    ],
)
def test_what_is_no_routing_task_is_refused(content, broken):
    with pytest.raises(WireError, match="not a routing task of this version"):
        read_route_task(changed(content, broken))


@pytest.mark.parametrize("empty", [RecordDict(), RecordDict({"task": ArrayRecord()})])
def test_a_message_without_a_task_is_refused(empty):
    with pytest.raises(WireError, match="not a routing task"):
        read_route_task(empty)


@pytest.mark.parametrize(
    "broken",
    [{"layers": 0}, {"width": 0}, {"prefix": -1}, {"hidden": 0}, {"top_k": -1}],
)
def test_what_no_router_can_be_is_refused(content, broken):
    request = read_route_request(changed(content, broken))
    for read in (request.task.spec, request.router):
        with pytest.raises(WireError, match="not a router of this version"):
            read()


@pytest.mark.parametrize("top_k", [0, 5])
def test_remix_with_arms_that_are_not_there_is_refused(experts, shapes, top_k):
    router = make_router(RouterSpec("remix", 3, WIDTH))
    with pytest.raises(WireError, match="ReMix chooses from 1 to 4 of 4 arms"):
        task_of(router, experts, shapes, top_k=top_k).spec()


@pytest.mark.parametrize("count", [-1, 1])
def test_a_wrong_count_of_ranks_is_refused(content, shapes, count):
    ranks = content.config_records["task"]["ranks"]
    content = changed(content, {"ranks": ranks[:-1] if count < 0 else [*ranks, 1]})
    with pytest.raises(WireError, match=rf"{63 + count} ranks for 3 experts and 21 matrices"):
        read_route_request(content).experts(shapes)


def spoiled(content, name, how):
    data = content.array_records["state"][name].data
    return {
        "missing": None,
        "foreign stype": array(data, "numpy.ndarray"),
        "another codec": array(data, "fedmore.bf16"),
        "a byte less": array(data[:-1]),
        "a number more": array(data + bytes(4)),
        "nothing": array(b""),
        "NaN": array(data[:-4] + b"\x00\x00\xc0\x7f"),
        "infinity": array(b"\x00\x00\x80\xff" + data[4:]),
    }[how]


BROKEN = {
    "missing": "the routing task holds no",
    "foreign stype": "unknown codec|travels as fp32, not as numpy",
    "another codec": "bytes where the shapes ask for|travels as fp32, not as fedmore.bf16",
    "a byte less": "bytes where the shapes ask for",
    "a number more": "bytes where the shapes ask for",
    "nothing": "bytes where the shapes ask for",
    "NaN": "NaN or Inf",
    "infinity": "NaN or Inf",
}


@pytest.mark.parametrize("name", ["router", "experts"])
@pytest.mark.parametrize("how", BROKEN)
def test_arrays_that_are_not_what_the_task_says_are_refused(content, task, shapes, name, how):
    request = read_route_request(changed(content, **{name: spoiled(content, name, how)}))
    with pytest.raises(WireError, match=BROKEN[how]):
        request.router() if name == "router" else request.experts(shapes)


@pytest.mark.parametrize("array", [Array("float32", (1,), "fedmore.fp32", b"0000"),
                                   Array("uint8", (2, 2), "fedmore.fp32", b"0000")])  # fmt: skip
def test_arrays_of_another_kind_are_refused_before_they_are_decoded(content, array):
    with pytest.raises(WireError, match="its router is no array of bytes"):
        read_route_request(changed(content, router=array))


def test_an_array_that_says_another_length_than_it_has_is_refused(content):
    data = content.array_records["state"]["router"].data
    broken = changed(content, router=Array("uint8", (len(data) + 4,), "fedmore.fp32", data))
    with pytest.raises(WireError, match=f"an array of {len(data)} bytes says"):
        read_route_request(broken).router()


def test_what_no_routing_task_brings_is_refused(content):
    content["state"]["more"] = content["state"]["router"]
    with pytest.raises(WireError, match="it brings 'more'"):
        read_route_request(content)
    del content["state"]["more"]
    content["notes"] = ArrayRecord()
    with pytest.raises(WireError, match="it brings 'notes'"):
        read_route_request(content)


def test_a_message_without_arrays_is_refused(content, task, shapes):
    alone = RecordDict({"task": content.config_records["task"]})
    request = read_route_request(alone)
    for read in (request.router, lambda: request.experts(shapes)):
        with pytest.raises(WireError, match="the routing task holds no"):
            read()


def test_the_message_holds_the_task_and_two_arrays(content, task):
    assert set(content) == {"task", "state"}
    assert set(content.array_records["state"]) == {"router", "experts"}
    assert set(content.config_records["task"]) == set(former(asdict(task), ROUTER))
