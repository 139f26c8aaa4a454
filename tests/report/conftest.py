"""A finished federation directory, made up in milliseconds: four clients, three stages."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmore.coordinator.store.registry import Registry
from fedmore.sims.report.study import Study, read_study

PARAMS = 134_515_008
PLAIN, CODE = "plain English", "python"

TOML = """
[federation]
name = "quickstart"
seed = 1
clients = 4
domains = ["legal", "medical"]
languages = ["gl"]
[base]
model = "SmolLM2-135M"
fingerprint = "3f1c9a"
[[stages]]
kind = "experts"
[[stages]]
kind = "language"
[[stages]]
kind = "router"
rounds = 1
"""

# name: kind, target, rank, numbers sent each round, loss of each round, tokens/s
CLIENTS: dict[str, tuple[Any, str, int, int, tuple[float, ...], float]] = {
    "court": ("expert", "legal", 16, 3_041_280, (2.71, 2.48, 2.41), 212.0),
    "notary": ("expert", "legal", 4, 760_320, (2.74, 2.55, 2.50), 231.0),
    "clinic": ("expert", "medical", 32, 6_082_560, (2.93, 2.76, 2.69), 187.0),
    "xornal": ("adapter", "gl", 8, 976_896, (4.10, 3.61, 3.37), 265.0),
}
# name: kind, rank kept, params, aggregation error of each round
EXPERTS: dict[str, tuple[Any, str, int, int, tuple[float | None, ...]]] = {
    "legal": ("expert", "legal", 20, 3_801_600, (3.1e-7, 4.0e-7, 4.6e-7)),
    "medical": ("expert", "medical", 32, 6_082_560, (2.2e-7, 2.4e-7, 2.9e-7)),
    "gl": ("adapter", "gl", 8, 976_896, (1.9e-7, 2.3e-7, 2.1e-7)),
}
# text: base, own, mixture, half of the interval of each
SCORES: dict[str, tuple[float, float | None, float, float]] = {
    "legal": (1.179, 1.031, 1.049, 0.052),
    "medical": (1.092, 1.008, 1.021, 0.047),
    "gl": (2.214, 1.902, 1.941, 0.081),
    PLAIN: (1.121, None, 1.119, 0.038),
    CODE: (0.874, None, 0.875, 0.095),
}


def interval(mean: float, half: float) -> dict[str, Any]:
    return {"mean": mean, "ci95": [round(mean - half, 4), round(mean + half, 4)]}


def evaluation() -> dict[str, Any]:
    """What the coordinator's evaluation writes."""
    bits, paired = {}, {}
    for text, (base, own, mixture, half) in SCORES.items():
        trained = None if own is None else interval(own, half)
        bits[text] = {
            "base": interval(base, half),
            "own_expert": trained,
            "mixture": interval(mixture, half),
        }
        paired[text] = {
            "own_expert": None if own is None else interval(own - base, 0.018),
            "mixture": interval(mixture - base, 0.015 if own else 0.003),
            "gain_kept": interval((base - mixture) / (base - own), 0.02) if own else None,
        }
    return {
        "base": {"name": "SmolLM2-135M", "params": PARAMS, "fingerprint": "3f1c9a"},
        "bits_per_byte": bits,
        "paired": paired,
        "forgetting": forgetting(),
        "mixture": {"params": 145_376_064, "active_params": 140_000_000, "router": "domain"},
        "routing": routing(),
    }


def forgetting() -> list[dict[str, Any]]:
    stages: list[tuple[str, dict[str, float]]] = [
        ("experts", {"legal": 1.047, "medical": 1.019, PLAIN: 1.120}),
        ("language", {"legal": 1.046, "medical": 1.024, "gl": 1.938, PLAIN: 1.131}),
        ("router", {"legal": 1.049, "medical": 1.021, "gl": 1.941, PLAIN: 1.119}),
    ]
    return [
        {
            "stage": stage,
            "router": "uniform" if stage == "experts" else "domain",
            "bits_per_byte": {text: interval(mean, 0.05) for text, mean in values.items()},
        }
        for stage, values in stages
    ]


def routing() -> dict[str, dict[str, float]]:
    rows = {
        "legal": (0.21, 0.74, 0.03, 0.02),
        "medical": (0.24, 0.05, 0.69, 0.02),
        "gl": (0.12, 0.01, 0.02, 0.85),
        PLAIN: (0.78, 0.11, 0.08, 0.03),
        CODE: (0.93, 0.04, 0.02, 0.01),
    }
    return {t: dict(zip(("public", *EXPERTS), g, strict=True)) for t, g in rows.items()}


def payload(numbers: int) -> int:
    """One bit per number and a float32 scale for each block of 256."""
    return numbers // 8 + numbers // 256 * 4


def fill_registry(registry: Registry, *, counted: bool) -> None:
    for name, (kind, target, rank, numbers, losses, _) in CLIENTS.items():
        registry.enrol(registry.invite(name), name, kind, target, rank)
        registry.add_tokens(name, 5_120 * len(losses))
        if counted:
            sent = len(losses) * (int(payload(numbers) * 1.004) + 2_300)
            registry.add_traffic(name, sent, len(losses) * numbers * 2 + 9_000)
    for stage, kind in enumerate(("experts", "language")):
        for number in (1, 2, 3):
            add_round(registry, stage, kind, number)
    registry.add_round(stage=2, kind="router", round=1, metrics={"clients": {}, "experts": {}})


def add_round(registry: Registry, stage: int, kind: str, number: int) -> None:
    wanted = {"experts": "expert", "language": "adapter"}[kind]
    clients, experts = {}, {}
    for name, (what, _, _, numbers, losses, speed) in CLIENTS.items():
        if what == wanted:
            clients[name] = {
                "loss": losses[number - 1],
                "tokens": 5_120,
                "tokens_per_s": speed,
                "documents": 18,
                "numbers": numbers,
                "payload_bytes": payload(numbers),
            }
    for name, (what, target, rank, params, errors) in EXPERTS.items():
        if what == wanted:
            digest = f"{number * 7919 + len(name):064x}"[:64]
            experts[name] = {
                "aggregation_error": errors[number - 1],
                "rank": rank,
                "digest": digest,
            }
            registry.add_expert(
                name=name,
                kind=what,
                target=target,
                rank=rank,
                params=params,
                stage=stage,
                round=number,
                digest=digest,
            )
    metrics = {"clients": clients, "experts": experts}
    registry.add_round(stage=stage, kind=kind, round=number, metrics=metrics)


def make_federation(directory: Path, *, counted: bool = True, **changes: Any) -> Path:
    """Write a federation that has finished; `changes` replace keys of evaluation.json."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "federation.toml").write_text(TOML, encoding="utf-8")
    text = json.dumps({**evaluation(), **changes})
    (directory / "evaluation.json").write_text(text, encoding="utf-8")
    for name, data in registry_files(counted).items():
        (directory / name).write_bytes(data)
    return directory


@functools.cache
def registry_files(counted: bool) -> dict[str, bytes]:
    """The files of the registry, which is the same whatever the evaluation says."""
    with tempfile.TemporaryDirectory() as scratch:
        with Registry.open(Path(scratch)) as registry:
            fill_registry(registry, counted=counted)
        return {file.name: file.read_bytes() for file in Path(scratch).iterdir()}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """`make(**changes)`: a finished federation directory."""
    return lambda **changes: make_federation(tmp_path / "federation", **changes)


@pytest.fixture(scope="session")
def make_at() -> Callable[..., Path]:
    """`make_at(directory, **changes)`, for fixtures that live longer than a test."""
    return make_federation


@pytest.fixture
def study_of() -> Callable[[Path], Study]:
    """`study_of(directory)`: what the report reads from it."""
    return lambda directory: read_study(
        directory, scenario="quickstart", engine="grpc", seed=1, wall_s=342.5
    )
