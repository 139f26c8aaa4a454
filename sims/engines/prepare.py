"""Makes a scenario's run directory: base, texts, configuration and a folder for every client.

::

    <out>/                   the coordinator's directory (`federation.toml`, registry, results)
    <out>/clients/<name>/    one owner: data/docs.jsonl, owner.toml, invite.json, state/, client.log
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from fedmore.client.owner.secret import keep_secret, secret_of
from fedmore.coordinator.config import defaults
from fedmore.coordinator.config.schema import FederationConfig, parse_config
from fedmore.coordinator.config.terms import terms_of
from fedmore.experts.errors import ConfigError
from fedmore.sims.data.split import portions
from fedmore.sims.data.texts import read_documents, write_documents
from fedmore.sims.scenarios.overrides import override
from fedmore.sims.scenarios.scenario import ClientSpec, Scenario
from fedmore.strategies.compression.policy import tags_of
from fedmore.strategies.stages.base import TrainingStage


@dataclass(frozen=True)
class Prepared:
    """A scenario whose files are on disk, before any program runs."""

    scenario: Scenario
    directory: Path
    config: FederationConfig

    def folder(self, client: ClientSpec) -> Path:
        """The folder that represents that owner's machine."""
        return self.directory / "clients" / client.name

    def data(self, client: ClientSpec) -> Path:
        """The owner's private text."""
        return self.folder(client) / "data"

    def policy(self, client: ClientSpec) -> Path:
        """The owner's policy."""
        return self.folder(client) / "owner.toml"


def prepare(
    scenario: Scenario, directory: Path, *, seed: int | None = None, settings: Iterable[str] = ()
) -> Prepared:
    """Make the run directory; a wrong setting is refused before anything is fetched or written.

    `seed` and `settings` change the scenario's configuration. Raises `ConfigError` or `DataError`.
    """
    where = f"scenario {scenario.name}"
    table = override({defaults.KEY: defaults.EDITION, **scenario.config}, settings)
    if seed is not None:
        table["federation"]["seed"] = seed
    base = table.setdefault("base", {})
    parse_config(table | {"base": {"model": "made below"} | base}, where)
    base.setdefault("model", "")
    _refuse_used(directory)
    _complete(table, scenario, directory)
    prepared = Prepared(scenario, directory, parse_config(table, where))
    for client in scenario.clients:
        _write_private_text(prepared, client)
        _write_owner(prepared, client)
    return prepared


def _refuse_used(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"--out {directory}: the folder is not empty; name a new folder")
    directory.mkdir(parents=True, exist_ok=True)


def _complete(table: dict[str, Any], scenario: Scenario, directory: Path) -> None:
    """Fill in the paths that no setting gives."""
    base = table["base"]
    base["model"] = base["model"] or str(scenario.base(directory).resolve())
    texts = table.setdefault("evaluation", {}).setdefault("texts", {})
    for name, text in scenario.evaluation.items():
        texts.setdefault(name, str(scenario.text(text, directory).heldout.resolve()))
    public = str(scenario.text(scenario.public_text, directory).train.resolve())
    table.setdefault("router", {}).setdefault("public_text", public)


def _write_private_text(prepared: Prepared, client: ClientSpec) -> None:
    """Write the owner's part of a text, which shares no family and no passage with others."""
    files = prepared.scenario.text(client.text, prepared.directory)
    documents = portions(read_documents(files.train), client.parts)[client.part]
    write_documents(prepared.data(client) / "docs.jsonl", documents)


def _write_owner(prepared: Prepared, client: ClientSpec) -> None:
    """Write the owner's policy, and a secret that depends only on the seed and the name.

    The owners of a simulation allow the codecs and plugins that the plan names.
    """
    trained = [stage for stage in prepared.config.stages if isinstance(stage, TrainingStage)]
    tags = {tag for stage in trained for tag in tags_of(stage.update_codec)}
    plugins = [plugin.key for plugin in terms_of(prepared.config).plugins()]
    named: dict[str, object] = {"plugins": plugins} if plugins else {}
    table = {"codecs": sorted(tags), **named, **prepared.scenario.policy}
    prepared.policy(client).write_text(tomlkit.dumps(table), encoding="utf-8")
    secret = secret_of(f"{prepared.config.federation.seed}/{client.name}")
    keep_secret(prepared.folder(client) / "state", secret)
