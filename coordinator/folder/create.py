"""`coordinator init`: makes the folder of one federation."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fedmore.coordinator.config import defaults
from fedmore.coordinator.config import schema as configs
from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.folder.base import check_plan
from fedmore.coordinator.folder.federation import database_url
from fedmore.coordinator.folder.layout import BLOBS
from fedmore.coordinator.folder.operator_access import list_own
from fedmore.coordinator.folder.pairing import pair
from fedmore.coordinator.store.blobs import Store
from fedmore.coordinator.store.registry import Registry
from fedmore.experts.errors import BaseError, ConfigError
from fedmore.experts.names import tamed
from fedmore.experts.text.opener import AUTO
from fedmore.protos.runtime.flower_apps import Value, split
from fedmore.protos.system.files import local_name, make_folder, private_folder, write_durably
from fedmore.protos.system.hosts import EVERY_NETWORK
from fedmore.strategies.plan import Plan

DEFAULT_NAME = "federation"


def nobody(_line: str) -> None:
    """Discard the line; the default for callers that show nothing."""


def create(
    directory: Path,
    config: FederationConfig,
    tell: Callable[[str], None] = nobody,
    *,
    full: bool = False,
) -> FederationConfig:
    """Make the federation; returns `config` with the base's absolute path and fingerprint.

    `federation.toml` has the keys that differ from their default, or with `full` all of them. It is
    written last. A folder without it is no federation, so the command can be repeated after a
    failure. The opener is chosen here unless `config` has one; `tell` gets the figures of the
    choice. Raises `ConfigError` if the folder has a federation already.
    """
    if (directory / configs.FILE).exists():
        raise ConfigError(
            f"{directory} already holds a federation; `coordinator start {directory}` runs it, "
            "another one needs another folder"
        )
    config = with_opener(with_fingerprint(config, tell), tell)
    make_folder(directory)
    write_certificates(directory, config)
    open_fresh(directory, config)
    private_folder(directory / BLOBS)
    text = render_text(config, full)
    write_durably(directory / configs.FILE, text.encode())
    return config


def open_fresh(directory: Path, config: FederationConfig) -> None:
    """Make the registry; raises `ConfigError` if its database belongs to another federation."""
    with Registry.open(directory, database_url(config)) as registry:
        pair(registry, Store(directory / BLOBS))
        list_own(directory, registry)


def new_config(
    *,
    name: str,
    base: str = "",
    domains: tuple[str, ...] = (),
    languages: tuple[str, ...] = (),
    clients: int = 2,
    host: str = "127.0.0.1",
    port: int = 8470,
    advertise: str = "",
    public_text: str = "",
    opener: str = AUTO,
    open_windows: bool = False,
    app: str = "",
    run_config: Mapping[str, Value] | None = None,
    database: str = "",
) -> FederationConfig:
    """Make a configuration with a stage for each kind of training, and defaults for the rest.

    Args:
        name: the federation's name.
        base: folder or hub name of the base.
        domains: names that experts may be trained for.
        languages: codes that adapters may be trained for.
        clients: number of clients that the plan waits for.
        host: address to listen on.
        port: port to listen on; 0 means a free one.
        advertise: host that clients reach, by default `host`.
        public_text: path of public text.
        opener: token before every document, or auto.
        open_windows: whether the opener also opens windows.
        app: a Flower ServerApp, which replaces our own plan.
        run_config: values for that app.
        database: URL of a PostgreSQL database, by default SQLite in the folder.

    """
    server = server_table(host, port, advertise)
    table: dict[str, Any] = {"server": server | {"database": database}}
    table[defaults.KEY] = defaults.EDITION
    if app:
        refuse_beside_app(base, *domains, *languages, public_text)
        split(app)
        table["federation"] = {"app": app, "run_config": dict(run_config or {})}
    else:
        table |= plan_table(base, domains, languages, public_text)
        table["base"] |= {"opener": opener, "open_windows": open_windows}
    table["federation"] |= {"name": name, "clients": clients}
    return configs.parse_config(table, "coordinator init")


def default_name(directory: Path) -> str:
    """The default name of a federation: its folder's name, with invalid characters replaced."""
    return tamed(directory.resolve().name) or DEFAULT_NAME


def refuse_beside_app(*options: str) -> None:
    """Raise `ConfigError` if any option of our own plan is given."""
    if any(options):
        raise ConfigError(
            "--app runs a Flower app instead of our plan, so there is no place for "
            "--base, --domain, --language and --public-text"
        )


def plan_table(
    base: str, domains: tuple[str, ...], languages: tuple[str, ...], public_text: str
) -> dict[str, Any]:
    """The sections of the configuration for our own plan."""
    if not domains and not languages:
        raise ConfigError("nothing to train: give --domain NAME, --language CODE, or both")
    if not base:
        raise ConfigError("give --base, a folder or a name on the hub (or --app, a Flower app)")
    wanted = {"experts": bool(domains), "language": bool(languages), "router": True}
    return {
        "federation": {"domains": domains, "languages": languages},
        "base": {"model": base},
        "router": {
            "public_text": str(Path(local_name(public_text)).resolve()) if public_text else ""
        },
        "stages": [asdict(s) for s in Plan().stages if wanted[s.kind]],
    }


def server_table(host: str, port: int, advertise: str) -> dict[str, object]:
    """The section `server`; raises `ConfigError` if clients would have no host to call."""
    if host in EVERY_NETWORK and not advertise:
        raise ConfigError(
            f"--host {host} listens everywhere; name the host that clients reach with --advertise"
        )
    return {"host": host, "port": port, "advertise": advertise or host}


def render_text(config: FederationConfig, full: bool) -> str:
    """The text of `federation.toml`, with a comment beside every key."""
    from fedmore.coordinator.config.template import render

    return render(config, full=full)


def with_fingerprint(
    config: FederationConfig, tell: Callable[[str], None] = nobody
) -> FederationConfig:
    """Find the base and take its fingerprint; raises `BaseError` if it differs from the given one.

    It also raises `BaseError` if the base does not fit the plan. `tell` gets a line about parts
    that cannot be changed. A federation that runs a Flower app has no base.
    """
    if config.federation.app:
        return config
    from fedmore.experts.base.hub import reach
    from fedmore.experts.base.model import fingerprint_of

    model = local_name(config.base.model)
    if Path(model).exists():
        model = str(Path(model).resolve())
    reach(model)
    found = fingerprint_of(model)
    wanted = config.base.fingerprint
    if wanted and wanted != found:
        from fedmore.experts.base.fingerprint import explain

        raise BaseError(
            f"{model} has fingerprint {found}, base.fingerprint says {wanted}"
            f"{explain(found, wanted)}"
        )
    check_plan(model, config.federation.domains, config.federation.languages, tell)
    return replace(config, base=replace(config.base, model=model, fingerprint=found))


def with_opener(config: FederationConfig, tell: Callable[[str], None]) -> FederationConfig:
    """The configuration with its opener (`fedmore.coordinator.folder.opener_choice`)."""
    from fedmore.coordinator.folder import opener_choice

    return opener_choice.with_opener(config, tell)


def write_certificates(directory: Path, config: FederationConfig) -> None:
    """Write the certificate authority, the server's certificate and the signing key."""
    from fedmore.coordinator.pki.signing import signing_key
    from fedmore.coordinator.pki.tls_files import make_tls

    make_tls(directory, config.federation.name, certificate_hosts(config))
    signing_key(directory)


def certificate_hosts(config: FederationConfig) -> list[str]:
    """Names and addresses under which clients may reach the server."""
    hosts = [config.server.advertise, config.server.host, "localhost", "127.0.0.1"]
    return [h for h in dict.fromkeys(hosts) if h not in EVERY_NETWORK]
