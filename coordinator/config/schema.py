"""`federation.toml`: one file, strictly read. Unknown keys and wrong types give the dotted path."""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedmore.coordinator.config.defaults import with_defaults
from fedmore.coordinator.config.faults import explain
from fedmore.coordinator.config.router_section import RouterSection
from fedmore.coordinator.config.sections import (
    BaseSection,
    EvaluationSection,
    FederationSection,
    GateSection,
    ServerSection,
    WithdrawalSection,
)
from fedmore.experts.errors import ConfigError
from fedmore.experts.former_names import ROUTER, SERVER, today
from fedmore.protos.system.files import local_name
from fedmore.strategies.plan import Plan
from fedmore.strategies.settings import STRICT, parse
from fedmore.strategies.stages.kinds import AnyStage

FILE = "federation.toml"

SECTIONS: Mapping[str, type] = {
    "federation": FederationSection,
    "base": BaseSection,
    "server": ServerSection,
    "router": RouterSection,
    "evaluation": EvaluationSection,
    "gate": GateSection,
    "withdrawal": WithdrawalSection,
}
"""The sections of the file beside its stages, which are of `fedmore.strategies.stages.kinds`."""


@dataclass(frozen=True, config=STRICT)
class FederationConfig:
    """The whole of `federation.toml`."""

    federation: FederationSection
    base: BaseSection = BaseSection()
    server: ServerSection = ServerSection()
    stages: tuple[AnyStage, ...] = Plan().stages
    router: RouterSection = RouterSection()
    evaluation: EvaluationSection = EvaluationSection()
    gate: GateSection = GateSection()
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
    gate = replace(config.gate, texts=all_of(config.gate.texts))
    base = replace(config.base, model=local_name(config.base.model))
    return replace(config, base=base, router=router, evaluation=evaluation, gate=gate)


def parse_config(table: Mapping[str, object], where: str) -> FederationConfig:
    """Validate a parsed table; raises `ConfigError` with the dotted path of a bad key."""
    try:
        return parse(_ADAPTER, with_defaults(with_todays_names(table)))
    except RecursionError:
        raise ConfigError(f"{where}: nested too deep to be a federation's") from None
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, table, SECTIONS)}") from error
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
