"""The schema of `report.json` as frozen dataclasses, the only place that knows its keys.

An interval is a mean over documents with its 95 % interval. Bytes that were not counted are null,
never an estimate. `counted` says whether they were counted at the socket, with all framing, or as
payload alone, as in the engines `local` and `ray`, which have no sockets.
"""

import dataclasses
import json
import math
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedmore.experts.errors import WireError
from fedmore.strategies.settings import STRICT, faults

ROUNDING = 1e-9
"""Tolerance for an interval of one document, whose ends are means summed in another order."""


@dataclass(frozen=True, config=STRICT)
class Interval:
    """A mean and its 95 % interval, in bits per byte; a single document has no interval."""

    mean: float
    ci95: tuple[float, float] | None

    def __post_init__(self) -> None:
        """Raise `ValueError` unless the numbers are finite and in order."""
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
    """One client: its domain or language, what it trained, and its traffic in bytes."""

    name: str
    rank: int
    codec: str
    train_tokens: int
    bytes_up: int | None
    bytes_down: int | None
    domain: str | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        """Raise `ValueError` unless there is either a domain or a language."""
        if (self.domain is None) == (self.language is None):
            raise ValueError(f"client {self.name}: give a domain or a language, not both")

    @property
    def target(self) -> str:
        """The client's domain or language."""
        return self.domain or self.language or ""


@dataclass(frozen=True, config=STRICT)
class Traffic:
    """Bytes of all clients and rounds, and the bytes that two other ways would have needed.

    `counted` says how the first two were counted: at the socket with all framing, or as payload.
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
    """The assembled model; `active_params` is the number of parameters that one token uses."""

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
    """The contents of `report.json`; `aggregation_error` is the worst of all rounds and experts."""

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
    """Serialise a report; `parse_report` is the inverse."""
    table = dataclasses.asdict(report)
    table["clients"] = [_client(client) for client in table["clients"]]
    text = json.dumps(table, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    parse_report(text)
    return text


def _client(table: dict[str, Any]) -> dict[str, Any]:
    """A client's row, with its `domain` or `language` after its name and without the other."""
    rest = {key: value for key, value in table.items() if key not in ("domain", "language")}
    target = {key: table[key] for key in ("domain", "language") if table[key] is not None}
    return {"name": table["name"], **target, **rest}


def parse_report(text: str) -> Report:
    """Read `report.json`; a missing, unknown or wrong key raises `WireError` with its path."""
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise WireError(f"report.json: {faults(error)}") from error
