import pytest
import torch

from fedmore.experts.base.model import (
    compute_dtype,
    fingerprint_of,
    linear_shapes,
    load_base,
    shapes_of,
)
from fedmore.experts.errors import BaseError


def test_a_base_is_frozen_and_loaded_once(tiny):
    base = load_base(str(tiny), "float32")
    assert load_base(str(tiny), "float32") is base
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert base.parameters == sum(p.numel() for p in base.model.parameters())


def test_shapes_are_read_without_the_weights(base, tiny):
    assert linear_shapes(str(tiny)) == shapes_of(base.model)
    shapes = shapes_of(base.model)
    assert len(shapes) == 6 * 7
    assert shapes["model.layers.0.mlp.down_proj"] == (64, 176)
    assert shapes["model.layers.5.self_attn.k_proj"] == (32, 64)
    assert "lm_head" not in shapes


def test_a_folder_without_weights_is_refused(tmp_path):
    for look in (fingerprint_of, load_base, linear_shapes):
        with pytest.raises(BaseError, match=r"config\.json cannot be read"):
            look(str(tmp_path))


def test_a_name_that_is_nothing_is_refused(tmp_path):
    with pytest.raises(BaseError, match="neither a directory nor a model"):
        fingerprint_of(str(tmp_path / "missing"))


def test_dtypes():
    assert compute_dtype("float32") == torch.float32
    assert compute_dtype("bfloat16") == torch.bfloat16
    assert compute_dtype("auto") in (torch.float32, torch.bfloat16)
