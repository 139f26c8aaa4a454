"""What `report.json` holds, as frozen dataclasses: the one place that knows its keys.

An interval is the mean over documents with the 95 % interval of that mean. Bytes are null if
nothing counted them: never a guess. `counted` says whether they are those of the socket, with all
framing, or the payload alone, as where no socket is (the engines `local` and `ray`).
"""

import dataclasses
import json
import math
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedmore.experts.errors import WireError
from fedmore.strategies.settings import STRICT

ROUNDING = 1e-9
"""Of one document the interval is the mean, taken over sums in another order."""


@dataclass(frozen=True, config=STRICT)
class Interval:
    """A mean and its 95 % interval, in bits per byte; one document alone has no interval."""

    mean: float
    ci95: tuple[float, float] | None

    def __post_init__(self) -> None:
        """Finite, and in order."""
        low, high = self.ci95 or (self.mean, self.mean)
        finite = math.isfinite(low) and math.isfinite(high)
        if not (finite and low - ROUNDING <= self.mean <= high + ROUNDING):
            raise ValueError(f"not an interval around {self.mean}: [{low}, {high}]")


@dataclass(frozen=True, config=STRICT)
class Base:
    """The frozen public model."""

    name: str
    params: int
    fingerprint: str


@dataclass(frozen=True, config=STRICT)
class Client:
    """One client: a `domain` or a `language`, what it trained and what crossed its socket."""

    name: str
    rank: int
    codec: str
    train_tokens: int
    bytes_up: int | None
    bytes_down: int | None
    domain: str | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        """A client trains one thing."""
        if (self.domain is None) == (self.language is None):
            raise ValueError(f"client {self.name}: give a domain or a language, not both")

    @property
    def target(self) -> str:
        """The domain or the language."""
        return self.domain or self.language or ""


@dataclass(frozen=True, config=STRICT)
class Traffic:
    """Bytes of all clients and rounds: counted, and what two other ways would have cost.

    `counted` is of the first two: with all framing at the socket, or the payload of messages alone.
    """

    counted: Literal["socket", "payload"]

    bytes_up: int | None
    bytes_down: int | None
    bytes_up_if_fp32: int
    bytes_up_if_full_model: int


@dataclass(frozen=True, config=STRICT)
class Expert:
    """The newest version of an expert or adapter in the registry."""

    name: str
    kind: str
    rank: int
    params: int
    digest: str


@dataclass(frozen=True, config=STRICT)
class Mixture:
    """The assembled model; `active_params` work on one token."""

    params: int
    active_params: int
    router: str


@dataclass(frozen=True, config=STRICT)
class Scores:
    """Bits per byte of one held-out text; `own_expert` is null if nobody trained for it."""

    base: Interval
    own_expert: Interval | None
    mixture: Interval


@dataclass(frozen=True, config=STRICT)
class StageScores:
    """Bits per byte of every text seen so far, after one stage."""

    stage: str
    router: str | None
    bits_per_byte: dict[str, Interval]


@dataclass(frozen=True, config=STRICT)
class Report:
    """The whole of `report.json`; `aggregation_error` is the worst of all rounds and experts."""

    scenario: str
    seed: int
    engine: str
    wall_s: float
    base: Base
    clients: tuple[Client, ...]
    traffic: Traffic
    experts: tuple[Expert, ...]
    aggregation_error: float | None
    mixture: Mixture
    bits_per_byte: dict[str, Scores]
    forgetting: tuple[StageScores, ...]


_ADAPTER = TypeAdapter(Report)


def to_json(report: Report) -> str:
    """The text of `report.json`, which `parse_report` reads back to the same report."""
    table = dataclasses.asdict(report)
    table["clients"] = [_client(client) for client in table["clients"]]
    text = json.dumps(table, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    parse_report(text)
    return text


def _client(table: dict[str, Any]) -> dict[str, Any]:
    """A client's row with the one of `domain` and `language` that it has, after its name."""
    rest = {key: value for key, value in table.items() if key not in ("domain", "language")}
    target = {key: table[key] for key in ("domain", "language") if table[key] is not None}
    return {"name": table["name"], **target, **rest}


def parse_report(text: str) -> Report:
    """Read `report.json`; a missing, unknown or wrong key raises `WireError` with its path."""
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise WireError(f"report.json: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """Every problem in one line: path and message."""
    problems: list[Any] = error.errors(include_url=False)
    return "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in problems)
