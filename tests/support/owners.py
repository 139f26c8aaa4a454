"""Owners as tests need them: bounds wide open, and a secret that is the same in every run."""

from pathlib import Path

from fedmore.client.owner.policy import OwnerPolicy, dump_policy
from fedmore.client.owner.secret import keep_secret, secret_of
from fedmore.strategies.compression.policy import TAGS


def lenient(**changes) -> str:
    """The policy, as a `node_config` has it, of an owner who minds nothing but `changes`."""
    wide = {
        "consent": "bounds", "codecs": TAGS, "max_learning_rate": 1.0, "min_steps": 1,
        "min_tokens": 16, "tokens_per_direction": 0, "min_passages": 1, "min_embedding_tokens": 1,
        "embedding_noise": 0.0, "embedding_clip": 1e6, "max_spectral_ratio": 1e9, "max_worse": 1e9,
        "max_router_reach": 0.0,
    }  # fmt: skip
    return dump_policy(OwnerPolicy(**(wide | changes)))


def owner(state: Path, name: str = "", **changes) -> dict[str, str]:
    """`state` and `policy` of a `node_config`; the secret in `state` follows from `name`."""
    keep_secret(state, secret_of(name))
    return {"state": str(state), "policy": lenient(**changes)}


def forget_answered(context) -> None:
    """Let a client take on rounds that it has answered; for tests that compare two answers."""
    (Path(context.node_config["state"]) / "answered.json").unlink(missing_ok=True)
