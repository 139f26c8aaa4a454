"""The real base and the real texts of a scenario: they come from packages, wherever the run is."""

from pathlib import Path

from fedmore.sims.data.base_model import ensure_base
from fedmore.sims.data.texts import TextFiles, ensure_text


def package_base(_directory: Path) -> Path:
    """The folder of SmolLM2-135M, made from its package."""
    return ensure_base()


def package_text(name: str, _directory: Path) -> TextFiles:
    """Training and held-out text of that name."""
    return ensure_text(name)
