import shutil

import pytest
import torch

from fedmore.experts.base import compute_dtype, fingerprint_of, linear_shapes, load_base, shapes_of
from fedmore.experts.errors import BaseError


def test_a_base_is_frozen_and_loaded_once(base, folder):
    assert load_base(str(folder), "float32") is base
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert base.parameters == sum(p.numel() for p in base.model.parameters())


def test_shapes_are_read_without_the_weights(base, folder):
    assert linear_shapes(str(folder)) == shapes_of(base.model)
    shapes = shapes_of(base.model)
    assert len(shapes) == 6 * 7
    assert shapes["model.layers.0.mlp.down_proj"] == (64, 176)
    assert shapes["model.layers.5.self_attn.k_proj"] == (32, 64)
    assert "lm_head" not in shapes


def test_the_fingerprint_is_of_the_weights_alone(base, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").write_text("other")
    assert fingerprint_of(str(copy)) == base.fingerprint
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert fingerprint_of(str(copy)) != base.fingerprint


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(BaseError, match=r"no \*\.safetensors"):
        fingerprint_of(str(tmp_path))
    with pytest.raises(BaseError, match="cannot be loaded"):
        load_base(str(tmp_path))
    with pytest.raises(BaseError, match="cannot be read"):
        linear_shapes(str(tmp_path))


def test_a_name_that_is_nothing_is_refused(tmp_path):
    with pytest.raises(BaseError, match="neither a directory nor a model"):
        fingerprint_of(str(tmp_path / "missing"))


def test_dtypes():
    assert compute_dtype("float32") == torch.float32
    assert compute_dtype("bfloat16") == torch.bfloat16
    assert compute_dtype("auto") in (torch.float32, torch.bfloat16)
