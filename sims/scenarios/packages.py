"""The real base and texts of a scenario, which come from packages."""

from pathlib import Path

from fedmore.sims.data.base_model import ensure_base
from fedmore.sims.data.texts import TextFiles, ensure_text


def package_base(_directory: Path) -> Path:
    """The folder of SmolLM2-135M, made from its package."""
    return ensure_base()


def package_text(name: str, _directory: Path) -> TextFiles:
    """The training, held-out and proxy text of that name."""
    return ensure_text(name)
