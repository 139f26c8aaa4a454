"""A small version of `quickstart` for seconds: random base, generated text, no downloads."""

from pathlib import Path

from fedmore.sims.data.generated import generate_text
from fedmore.sims.data.texts import TextFiles
from fedmore.sims.data.tiny_model import make_tiny_base
from fedmore.sims.scenarios.scenario import ClientSpec, Scenario

_SHARED = {
    "steps": 4,
    "batch_size": 4,
    "sequence_length": 64,
    "learning_rate": 1e-2,
    "threads": 1,
}
_CONFIG: dict[str, object] = {
    "federation": {
        "name": "smoke",
        "seed": 0,
        "clients": 4,
        "domains": ["kitchen", "garden"],
        "languages": ["xx"],
    },
    "base": {"dtype": "float32"},
    "server": {"port": 0},
    "stages": [
        {"kind": "experts", "rounds": 2, "codec": "sign1", **_SHARED},
        {
            "kind": "language",
            "rounds": 2,
            "codec": "sign1",
            "first_layers": 2,
            "last_layers": 1,
            **_SHARED,
        },
        {"kind": "router"},
    ],
    "router": {"kind": "domain", "top_k": 2},
    "evaluation": {"documents": 3, "tokens": 96},
}

_OWNERS = {
    "embedding_noise": 0.0,
    "tokens_per_direction": 0,
    "min_steps": 1,
    "min_tokens": 64,
    "min_embedding_tokens": 64,
    "max_spectral_ratio": 50.0,
}
"""Looser limits than the defaults, for three reasons: the rounds are below the default floors, the
default noise is too large for a width of 64, and changes are large beside the random matrices."""


def smoke() -> Scenario:
    """Two owners of one artificial domain, one of another, and one of a language."""
    return Scenario(
        name="smoke",
        description="The shape of quickstart with a random 0.3M base and generated text; seconds",
        config=_CONFIG,
        clients=(
            ClientSpec("kitchen-a", "expert", "kitchen", 4, "kitchen", part=0, parts=2),
            ClientSpec("kitchen-b", "expert", "kitchen", 16, "kitchen", part=1, parts=2),
            ClientSpec("garden", "expert", "garden", 32, "garden"),
            ClientSpec("foreign", "adapter", "xx", 8, "foreign"),
        ),
        evaluation={
            "kitchen": "kitchen",
            "garden": "garden",
            "xx": "foreign",
            "sums": "sums",
            "plain": "plain",
        },
        base=_base,
        text=_text,
        policy=_OWNERS,
    )


def _base(directory: Path) -> Path:
    return make_tiny_base(directory / "base", seed=0)


def _text(name: str, directory: Path) -> TextFiles:
    return generate_text(name, directory / "text" / name)
