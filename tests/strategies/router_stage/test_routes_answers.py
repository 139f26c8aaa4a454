"""Answers to routing tasks: the change of a router's parameters, and nothing else is read."""

from dataclasses import replace

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from wire_arrays import array

from fedmore.experts.errors import WireError
from fedmore.experts.routers.serialization import make_router
from fedmore.experts.routers.spec import RouterSpec
from fedmore.strategies.router_stage.tasks import change_codecs, read_change, trained_shapes
from fedmore.strategies.tasks.train import METRICS, pack, update_content

CASES = ["softmax-shared", "softmax-layers", "softmax-domain", "xlora-layers", "remix-shared",
         "remix-layers", "remix-domain"]  # fmt: skip


@pytest.fixture(params=CASES)
def router(request):
    kind, place = request.param.split("-")
    layers, start = 3 if place == "layers" else 1, "domain" if place == "domain" else "zero"
    return make_router(RouterSpec(kind, 3, 12, layers, hidden=4, init=start))


def test_nothing_private_and_no_buffer_is_trained(router):
    """Only the router's parameters are; what it centres by is public text's."""
    assert set(trained_shapes(router)) == {name for name, _ in router.named_parameters()}
    assert not any(name.startswith(("features.", "domain.")) for name in trained_shapes(router))


def answer_of(router, codec="fp32"):
    sizes = [torch.randn(shape) for shape in trained_shapes(router).values()]
    array = pack(codec, sizes)
    return update_content(array.data, codec, dict.fromkeys(METRICS, 1)), sizes


def test_the_change_in_an_answer_comes_back(router):
    answer, tensors = answer_of(router)
    found = read_change(answer, router, "fp32")
    assert list(found) == list(trained_shapes(router))
    assert all(torch.equal(t, w) for t, w in zip(found.values(), tensors, strict=True))


def test_the_automatic_policy_sends_a_router_exactly():
    """However large it is: its numbers are few beside the experts', and all of them matter."""
    shapes = [(8, 64, 100), (8, 64)]
    assert {codec.tag for codec in change_codecs("auto", shapes)} == {"fp32"}
    assert {codec.tag for codec in change_codecs("sign1", shapes)} == {"sign1"}
    assert {codec.tag for codec in change_codecs("sign1,router=int8", shapes)} == {"int8"}
    with pytest.raises(WireError, match="unknown codec"):
        change_codecs("zip", shapes)


def lie(answer, **arrays):
    return RecordDict({**answer, "update": ArrayRecord(arrays)})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda answer, data: RecordDict(), r"holds \[\], not one array named change"),
        (lambda answer, data: lie(answer), r"holds \[\]"),
        (lambda answer, data: lie(answer, router=array(data)), r"holds \['router'\]"),
        (lambda answer, data: lie(answer, change=array(data), more=array(b"1")), "more"),
        (lambda answer, data: RecordDict({"update": ConfigRecord({"change": "x"})}), "not one"),
        (lambda answer, data: lie(answer, change=array(data, "fedmore.bf16")), "asked for fp32"),
        (lambda answer, data: lie(answer, change=array(data, "numpy.ndarray")), "asked for fp32"),
        (lambda answer, data: lie(answer, change=array(data[:-4])), "bytes where the shapes ask"),
        (lambda answer, data: lie(answer, change=array(data + data)), "bytes where the shapes ask"),
        (lambda answer, data: lie(answer, change=array(data[:-4] + b"\0\0\xc0\x7f")), "NaN or Inf"),
    ],
)
def test_anything_but_the_change_that_was_asked_for_is_refused(router, spoil, says):
    answer, _ = answer_of(router)
    data = answer.array_records["update"]["change"].data
    with pytest.raises(WireError, match=says):
        read_change(spoil(answer, data), router, "fp32")


@pytest.mark.parametrize("experts", [2, 4])
def test_the_change_of_another_router_is_refused(router, experts):
    answer, _ = answer_of(make_router(replace(router.spec, experts=experts)))
    with pytest.raises(WireError, match="bytes where the shapes ask for"):
        read_change(answer, router, "fp32")
