"""`federation.toml`: one file, strictly read. Unknown keys and wrong types give the dotted path."""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedmore.coordinator.config.fields import Host, Name, Reachable
from fedmore.experts.errors import ConfigError
from fedmore.experts.former_names import ROUTER, SERVER, today
from fedmore.experts.names import check_targets
from fedmore.experts.routers.spec import STARTED, Granularity, Init, Kind, Scaling
from fedmore.experts.text.opener import AUTO
from fedmore.protos.enrolment.federation_info import fault_of
from fedmore.protos.system.files import local_name
from fedmore.strategies.plan import Plan
from fedmore.strategies.settings import STRICT, not_negative, parse, positive
from fedmore.strategies.stages.kinds import AnyStage

FILE = "federation.toml"


@dataclass(frozen=True, config=STRICT)
class FederationSection:
    """Name, seed, how many `clients` the plan waits for, and what may be trained.

    `app` (`module:object`) makes it a federation for somebody else's Flower ServerApp, which is
    given `run_config`; it has no base, stages, router and evaluation of ours.
    """

    name: Name
    seed: int = 0
    clients: int = 2
    domains: tuple[Name, ...] = ()
    languages: tuple[Name, ...] = ()
    app: str = ""
    run_config: dict[Name, bool | float | int | str] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        """A federation has at least one client, and all that is trained a name of its own."""
        positive(clients=self.clients)
        if fault := fault_of(self.run_config):
            raise ValueError(f"run_config {fault}")
        try:
            check_targets((*self.domains, *self.languages))
        except ConfigError as error:
            raise ValueError(f"domains, languages: {error}") from error


@dataclass(frozen=True, config=STRICT)
class BaseSection:
    """The frozen public model that all share, and what opens its documents (`experts.opener`)."""

    model: str = ""
    fingerprint: str = ""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    quantization: Literal["none", "nf4"] = "none"
    opener: str = AUTO
    open_windows: bool = False


@dataclass(frozen=True, config=STRICT)
class ServerSection:
    """Where the coordinator listens; `advertise` is the host that invites name.

    `database` is an SQLAlchemy URL without a password; the folder's own SQLite file where it is
    empty.
    """

    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8470
    advertise: Reachable = "127.0.0.1"
    heartbeat_s: float = 2.0
    heartbeat_timeout_s: float = 30.0
    rejoin_timeout_s: float = 60.0
    upload_bytes: int = 32 << 30
    content_bytes: int = 64 << 20
    database: str = ""

    def __post_init__(self) -> None:
        """A client must have the time for more than one heartbeat."""
        positive(
            heartbeat_s=self.heartbeat_s,
            rejoin_timeout_s=self.rejoin_timeout_s,
            upload_bytes=self.upload_bytes,
            content_bytes=self.content_bytes,
        )
        if self.heartbeat_timeout_s < 2 * self.heartbeat_s:
            raise ValueError("heartbeat_timeout_s must be at least twice heartbeat_s")


@dataclass(frozen=True, config=STRICT)
class RouterSection:
    """How the mixture routes; beside the base, `top_k` experts work on a token (0: all).

    See `fedmore.experts.routers.spec` for kind, level, prefix and scaling, and
    `fedmore.experts.router_training.gradient` for the numbers of a training. A router that is
    learned is `trained_at` the coordinator, on the `proxy_texts`, or at the clients, by a stage of
    the plan.
    """

    kind: Kind = "domain"
    top_k: int = 2
    public_text: str = ""
    granularity: Granularity = "sequence"
    prefix_tokens: int = 32
    per_layer: bool = False
    scaling: Scaling = "lora"
    init: Init = "zero"
    trained_at: Literal["coordinator", "clients"] = "coordinator"
    proxy_texts: dict[Name, str] = Field(default_factory=dict)
    steps: int = 24
    batch_size: int = 8
    sequence_length: int = 64
    learning_rate: float = 0.03
    num_selections: int = 4
    entropy_weight: float = 0.0
    balance_weight: float = 0.01
    z_loss_weight: float = 1e-3
    experts_learning_rate: float = 0.0

    @property
    def embeds(self) -> bool:
        """Whether it is made from the clients' domain embeddings."""
        return self.kind == "domain" or self.init == "domain"

    def __post_init__(self) -> None:
        """Reject values that no router could use."""
        positive(
            prefix_tokens=self.prefix_tokens,
            steps=self.steps,
            batch_size=self.batch_size,
            sequence_length=self.sequence_length,
            learning_rate=self.learning_rate,
        )
        not_negative(
            top_k=self.top_k,
            entropy_weight=self.entropy_weight,
            balance_weight=self.balance_weight,
            z_loss_weight=self.z_loss_weight,
            experts_learning_rate=self.experts_learning_rate,
        )
        if self.kind == "remix" and self.num_selections < 2:
            raise ValueError(
                f"num_selections must be 2 or more for ReMix, not {self.num_selections}"
            )
        if self.kind == "remix" and self.top_k < 1:
            raise ValueError("top_k must be 1 or more for ReMix")
        if self.init == "domain" and (self.kind not in STARTED or self.per_layer):
            raise ValueError(
                f"init: domain embeddings are for {' and '.join(STARTED)} without per_layer"
            )


@dataclass(frozen=True, config=STRICT)
class EvaluationSection:
    """Held-out texts by name (`plain` and untrained domains too) and how much of each to score."""

    texts: dict[Name, str] = Field(default_factory=dict)
    documents: int = 48
    tokens: int = 64


@dataclass(frozen=True, config=STRICT)
class WithdrawalSection:
    """What is done with an expert that is worse after an owner's withdrawal.

    The choices are those of `fedmore.coordinator.mixture.withdrawal_scoring`; `margin` is a part.
    """

    margin: float = 0.01
    when_worse: Literal["scale", "recover", "hold", "keep"] = "scale"
    recovery_rounds: int = 2

    def __post_init__(self) -> None:
        """A margin is no gain, and no round is no recovery."""
        not_negative(margin=self.margin)
        positive(recovery_rounds=self.recovery_rounds)


@dataclass(frozen=True, config=STRICT)
class FederationConfig:
    """The whole of `federation.toml`."""

    federation: FederationSection
    base: BaseSection = BaseSection()
    server: ServerSection = ServerSection()
    stages: tuple[AnyStage, ...] = Plan().stages
    router: RouterSection = RouterSection()
    evaluation: EvaluationSection = EvaluationSection()
    withdrawal: WithdrawalSection = WithdrawalSection()

    def __post_init__(self) -> None:
        """The stages must make a plan, and there must be a base to train, or another's app."""
        Plan(self.stages)
        if not self.base.model and not self.federation.app:
            raise ValueError("base.model: name a folder or a model on the hub")


_ADAPTER = TypeAdapter(FederationConfig)


def load_config(directory: Path) -> FederationConfig:
    """Read `directory`/federation.toml; raises `ConfigError` with the dotted path of a bad key."""
    path = directory / FILE
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: not found; run `coordinator init {directory}` first") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except RecursionError:
        raise ConfigError(f"{path}: nested too deep to be a federation's") from None
    return anchored(parse_config(table, str(path)), directory)


def anchored(config: FederationConfig, directory: Path) -> FederationConfig:
    """The configuration with its texts' relative paths taken from `directory`."""

    def absolute(path: str) -> str:
        return str(directory.resolve() / Path(path).expanduser()) if path else ""

    def all_of(texts: dict[str, str]) -> dict[str, str]:
        return {name: absolute(path) for name, path in texts.items()}

    public, proxies = absolute(config.router.public_text), all_of(config.router.proxy_texts)
    router = replace(config.router, public_text=public, proxy_texts=proxies)
    evaluation = replace(config.evaluation, texts=all_of(config.evaluation.texts))
    base = replace(config.base, model=local_name(config.base.model))
    return replace(config, base=base, router=router, evaluation=evaluation)


def parse_config(table: dict[str, object], where: str) -> FederationConfig:
    """Validate a parsed table; raises `ConfigError` with the dotted path of a bad key."""
    try:
        return parse(_ADAPTER, with_todays_names(table))
    except RecursionError:
        raise ConfigError(f"{where}: nested too deep to be a federation's") from None
    except ValidationError as error:
        lines = [f"{dotted(e['loc'])}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from error
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def with_todays_names(table: Mapping[str, object]) -> dict[str, object]:
    """A parsed table without names of earlier versions; raises `ValueError` as `today` does.

    Stages see to their own (`read_stage`).
    """
    found = dict(table)
    for section, renamed in (("server", SERVER), ("router", ROUTER)):
        values = table.get(section)
        if isinstance(values, Mapping):
            try:
                found[section] = today(values, renamed)
            except ValueError as error:
                raise ValueError(f"{section}: {error}") from error
    return found


def dotted(location: tuple[int | str, ...]) -> str:
    """`("stages", 0, "rounds")` as `stages[0].rounds`; a key itself as the value that it names."""
    text = ""
    for part in location:
        if part == "[key]":
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
