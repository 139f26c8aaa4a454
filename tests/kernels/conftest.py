import os
import sys
from pathlib import Path

import pytest

# Triton reads this where a kernel is made, its own library's included, so it must be set before
# anything imports triton (tests/conftest.py does so for a whole run). With a GPU kernels run there.
GPU = Path("/dev/nvidiactl").exists()
if not GPU:
    assert "triton" not in sys.modules or os.environ.get("TRITON_INTERPRET") == "1"
    os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402


@pytest.fixture
def device():
    """Where Triton forms run: the GPU, or the CPU in interpreter mode."""
    return torch.device("cuda" if GPU else "cpu")
