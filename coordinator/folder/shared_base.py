"""Loads the federation's base, for everything that the coordinator does with a model."""

import torch

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.config.sections import BaseSection
from fedmore.experts.base.fingerprint import explain
from fedmore.experts.base.model import Base, load_base
from fedmore.experts.errors import BaseError


def base_of(config: FederationConfig) -> Base:
    """Load the federation's base, once per process, on the GPU if there is one.

    Raises `BaseError` if it is not the base with which the federation was created.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    section = config.base
    base = load_base(section.model, section.dtype, device, section.quantization)
    check_fingerprint(section, base.fingerprint)
    return base.opened(section.opener, section.open_windows)


def check_fingerprint(section: BaseSection, found: str) -> None:
    """Raise `BaseError` unless `found` is the fingerprint that the federation was made over."""
    if section.fingerprint not in ("", found):
        raise BaseError(
            f"{section.model} has fingerprint {found}, the federation was made over "
            f"{section.fingerprint}{explain(found, section.fingerprint)}"
        )
