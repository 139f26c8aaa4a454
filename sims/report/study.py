"""Reads a finished federation's directory into one value.

It reads `federation.toml`, the registry and `evaluation.json`, and writes nothing.
"""

from dataclasses import field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedmore.coordinator.config.schema import FederationConfig, load_config
from fedmore.coordinator.store.registry import ExpertRow, Member, Registry, RoundRow
from fedmore.experts.errors import RegistryError
from fedmore.sims.report.schema import (
    Base,
    Client,
    Expert,
    Interval,
    Mixture,
    Report,
    Scores,
    StageScores,
    Traffic,
)
from fedmore.strategies.settings import faults
from fedmore.strategies.stages.base import TrainingStage
from fedmore.strategies.stages.kinds import trains_on_text

BYTES_FP32 = 4
WITH_SOCKETS = "grpc"
"""The engine that uses sockets."""

_OPEN = ConfigDict(extra="ignore")


@dataclass(frozen=True, config=_OPEN)
class Change:
    """Bits per byte minus the base's on the same documents; below 0 is better.

    `gain_kept` is the fraction of the own expert's gain that the mixture keeps, if there is a gain.
    """

    own_expert: Interval | None
    mixture: Interval
    gain_kept: Interval | None = None


@dataclass(frozen=True, config=_OPEN)
class Token:
    """A token of a held-out document and its weights, in the order of the text's `routing`."""

    text: str
    weights: tuple[float, ...]


@dataclass(frozen=True, config=_OPEN)
class StageEntry:
    """An entry of `forgetting` in evaluation.json; a stage has a name or a number."""

    stage: str | int
    bits_per_byte: dict[str, Interval]
    router: str | None = None


@dataclass(frozen=True, config=_OPEN)
class Evaluation:
    """The part of evaluation.json that is reported; fields with a default may be missing."""

    base: Base
    mixture: "MixtureEntry"
    bits_per_byte: dict[str, Scores]
    forgetting: tuple[StageEntry, ...] = ()
    routing: dict[str, dict[str, float]] = field(default_factory=dict)
    paired: dict[str, Change] = field(default_factory=dict)
    tokens: dict[str, tuple[Token, ...]] = field(default_factory=dict)


@dataclass(frozen=True, config=_OPEN)
class MixtureEntry:
    """The mixture as evaluation.json describes it."""

    params: int
    active_params: int
    router: str
    top_k: int | None = None


@dataclass(frozen=True, config=_OPEN)
class ClientRound:
    """One client's part in one round: `numbers` sent as `payload_bytes`, and its mean loss."""

    numbers: int
    payload_bytes: int
    loss: float | None = None
    tokens: int = 0
    tokens_per_s: float | None = None


@dataclass(frozen=True, config=_OPEN)
class ExpertRound:
    """The metrics of an expert after one round."""

    aggregation_error: float | None = None
    rank: int | None = None
    summed_rank: int | None = None
    broadcast_rank: int | None = None
    broadcast_error: float | None = None
    download_bytes: int | None = None


@dataclass(frozen=True, config=_OPEN)
class Round:
    """One finished round of the plan, in which `clients` trained."""

    stage: int
    kind: str
    round: int
    clients: dict[str, ClientRound] = field(default_factory=dict)
    experts: dict[str, ExpertRound] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """The report, and further values for the plots and the verdict."""

    report: Report
    rounds: tuple[Round, ...]
    routing: dict[str, dict[str, float]]
    paired: dict[str, Change]
    tokens: dict[str, tuple[Token, ...]]


def read_study(directory: Path, *, scenario: str, engine: str, seed: int, wall_s: float) -> Study:
    """Read a finished federation; raises `RegistryError` naming what is missing or malformed."""
    config = load_config(directory)
    evaluation = _evaluation(directory / "evaluation.json")
    with Registry.open(directory) as registry:
        members, versions = registry.members(), registry.experts()
        rounds = tuple(_round(row) for row in registry.rounds() if trains_on_text(row.kind))
    report = Report(
        scenario=scenario,
        seed=seed,
        engine=engine,
        wall_s=float(wall_s),
        base=evaluation.base,
        clients=tuple(_client(member, config) for member in members),
        traffic=_traffic(members, rounds, evaluation.base.params, engine),
        experts=_newest(versions),
        aggregation_error=_worst_error(rounds),
        mixture=Mixture(
            evaluation.mixture.params,
            evaluation.mixture.active_params,
            evaluation.mixture.router,
        ),
        bits_per_byte=evaluation.bits_per_byte,
        forgetting=tuple(_stage(entry, config) for entry in evaluation.forgetting),
    )
    trained = tuple(r for r in rounds if r.clients)
    return Study(report, trained, evaluation.routing, evaluation.paired, evaluation.tokens)


def _evaluation(path: Path) -> Evaluation:
    try:
        return TypeAdapter(Evaluation).validate_json(path.read_bytes())
    except FileNotFoundError:
        hint = f"run `coordinator evaluate {path.parent}` first"
        raise RegistryError(f"{path}: not found; {hint}") from None
    except ValidationError as error:
        raise RegistryError(f"{path}: {faults(error)}") from error


def _round(row: RoundRow) -> Round:
    known = {**row.metrics, "stage": row.stage, "kind": row.kind, "round": row.round}
    try:
        return TypeAdapter(Round).validate_python(known)
    except ValidationError as error:
        where = f"registry, stage {row.stage} ({row.kind}), round {row.round}"
        raise RegistryError(f"{where}: {faults(error)}") from error


def _client(member: Member, config: FederationConfig) -> Client:
    """A member's row; 0 bytes become null, since a client that sent an update sent some."""
    stage = {"expert": "experts", "adapter": "language"}.get(member.kind or "", "")
    codec = next(
        (s.update_codec for s in config.stages if isinstance(s, TrainingStage) and s.kind == stage),
        "none",
    )
    return Client(
        name=member.name,
        rank=member.rank or 0,
        codec=codec,
        train_tokens=member.train_tokens,
        bytes_up=member.bytes_up or None,
        bytes_down=member.bytes_down or None,
        **{"domain" if stage == "experts" else "language": member.target or ""},
    )


def _traffic(members: list[Member], rounds: tuple[Round, ...], params: int, engine: str) -> Traffic:
    """Total bytes; a full model is one float32 copy of the base per client and round."""
    sent = [client for each in rounds for client in each.clients.values()]
    return Traffic(
        counted="socket" if engine == WITH_SOCKETS else "payload",
        bytes_up=_total([m.bytes_up for m in members]),
        bytes_down=_total([m.bytes_down for m in members]),
        bytes_up_if_fp32=BYTES_FP32 * sum(client.numbers for client in sent),
        bytes_up_if_full_model=BYTES_FP32 * params * len(sent),
    )


def _total(counts: list[int]) -> int | None:
    """The sum; None if any count is missing."""
    return sum(counts) if counts and all(counts) else None


def _newest(versions: list[ExpertRow]) -> tuple[Expert, ...]:
    """The last version of each name, given versions from old to new."""
    newest = {version.name: version for version in versions}
    return tuple(Expert(v.name, v.kind, v.rank, v.params, v.digest) for v in newest.values())


def _worst_error(rounds: tuple[Round, ...]) -> float | None:
    every = [e.aggregation_error for each in rounds for e in each.experts.values()]
    return max((error for error in every if error is not None), default=None)


def _stage(entry: StageEntry, config: FederationConfig) -> StageScores:
    name = config.stages[entry.stage].kind if isinstance(entry.stage, int) else entry.stage
    return StageScores(name, entry.router, entry.bits_per_byte)
