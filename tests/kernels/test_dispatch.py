"""The form of an op for a device, or an error; `in_chunks`."""

import numba
import pytest
import torch

from fedmore.kernels import dispatch as chooser
from fedmore.kernels.dispatch import FORMS, choose
from fedmore.kernels.errors import KernelError
from fedmore.kernels.jit import in_chunks, njit


@pytest.mark.parametrize("op", FORMS)
def test_every_op_has_a_cpu_form_and_one_for_nvidia(op):
    assert choose(op, "cpu").__name__ == f"fedmore.kernels.{op}.cpu"
    gpu = choose(op, torch.device("cuda", 0))
    assert gpu.__name__ == f"fedmore.kernels.{op}.{'cpu' if op == 'lowrank_sum' else 'triton'}"


@pytest.mark.parametrize("op", ["sign1", "lowbit"])
def test_forms_have_the_same_functions(op):
    def functions(module):
        return {n for n, f in vars(module).items() if callable(f) and n[0].islower()}

    wanted = {"sign1": {"encode", "encode_with_residual", "decode", "weighted_sum"}}
    names = wanted.get(op, {"quantise", "encode", "decode"})
    assert names <= functions(choose(op, "cpu")) & functions(choose(op, "cuda"))


def test_a_device_without_a_form_is_an_error():
    with pytest.raises(KernelError, match="sign1 has no form for 'mps'"):
        choose("sign1", "mps")


def test_an_op_that_is_not_there_is_an_error():
    with pytest.raises(KernelError, match="no op 'sign2'; there are lora_mix, lowbit"):
        choose("sign2", "cpu")


def test_without_triton_there_is_no_other_form(monkeypatch):
    monkeypatch.setattr(chooser, "find_spec", lambda name: None)
    with pytest.raises(KernelError, match=r"fedmore\[gpu\]"):
        choose("sign1", "cuda")
    assert choose("lowrank_sum", "cuda")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_chunks_cover_everything_once(threads):
    torch.set_num_threads(threads)
    for count, chunk in ((0, 4), (1, 4), (4, 4), (9, 4), (40, 4)):
        seen = []
        in_chunks(lambda start, stop: seen.extend(range(start, stop)), count, chunk)  # noqa: B023
        assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("bad", [0, 4, 8])
def test_what_goes_wrong_in_a_chunk_is_raised(bad):
    torch.set_num_threads(2)

    def work(start, stop):
        if start == bad:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_chunks(work, 12, 4)


def test_loops_compile_where_nothing_can_be_cached(monkeypatch):
    make = numba.njit

    def without_folder(*loops, **options):
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return make(*loops, **options)

    monkeypatch.setattr(numba, "njit", without_folder)
    assert njit(lambda x: x + 1)(2) == 3
