"""The plan of a federation whose coordinator is killed, over owners of small texts."""

from pathlib import Path

from fedmore.coordinator.config.schema import FederationConfig, parse_config
from fedmore.sims.engines.processes import free_port

TEXTS = ("kitchen", "foreign", "plain", "sums")
CLIENTS = {
    "ada": ("expert", "kitchen", 6),
    "bob": ("expert", "kitchen", 7),
    "eve": ("expert", "kitchen", 6),
    "gil": ("adapter", "foreign", 6),
}
"""Kind, target and rank; at full precision their updates are too large to travel inline."""


def config_of(base: Path, texts: Path) -> FederationConfig:
    heldout = {name: str(texts / name / "heldout.jsonl") for name in TEXTS}
    stage = {
        "rounds": 1, "steps": 1, "batch_size": 4, "sequence_length": 64, "learning_rate": 2e-2,
        "codec": "fp32", "first_layers": 2, "last_layers": 1, "threads": 1, "timeout_s": 60.0,
    }  # fmt: skip
    stages = [stage | {"kind": "experts", "rounds": 2}]
    stages += [stage | {"kind": kind} for kind in ("language", "router", "routing")]
    public = str(texts / "plain" / "train.jsonl")
    table = {
        "federation": {"name": "test", "seed": 3, "clients": len(CLIENTS)},
        "base": {"model": str(base), "dtype": "float32"},
        "server": {"port": free_port("127.0.0.1"), "heartbeat_s": 0.2, "heartbeat_timeout_s": 10.0},
        "stages": stages,
        "router": {"kind": "softmax", "trained_at": "clients", "public_text": public},
        "evaluation": {"texts": heldout, "documents": 1, "tokens": 16},
    }
    return parse_config(table, "test")
