"""`coordinator init`: a folder that holds one federation, and nothing of another."""

from dataclasses import asdict, replace
from pathlib import Path

from fedmore.coordinator import config as configs
from fedmore.coordinator.config import FederationConfig
from fedmore.coordinator.federation import BLOBS
from fedmore.coordinator.registry import Registry
from fedmore.coordinator.store import write_durably
from fedmore.experts.errors import BaseError, ConfigError
from fedmore.strategies.plan import Plan

EVERY_NETWORK = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


def create(directory: Path, config: FederationConfig) -> FederationConfig:
    """Make the federation; returns `config` with the base's path made absolute and fingerprinted.

    `federation.toml` comes last: a folder without it is not a federation, so a failure on the way
    can simply be tried again. Raises `ConfigError` where there is a federation already.
    """
    if (directory / configs.FILE).exists():
        raise ConfigError(
            f"{directory} already holds a federation; `coordinator start {directory}` runs it, "
            "another one needs another folder"
        )
    config = with_fingerprint(config)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_certificates(directory, config)
    Registry.open(directory).close()
    (directory / BLOBS).mkdir(exist_ok=True)
    text = render_text(config)
    write_durably(directory / configs.FILE, text.encode())
    return config


def new_config(
    *,
    name: str,
    base: str,
    domains: tuple[str, ...] = (),
    languages: tuple[str, ...] = (),
    clients: int = 2,
    host: str = "127.0.0.1",
    port: int = 8470,
    advertise: str = "",
    public_text: str = "",
) -> FederationConfig:
    """A configuration with a stage for what there is to train, the rest at its defaults."""
    if not domains and not languages:
        raise ConfigError("nothing to train: give --domain NAME, --language CODE, or both")
    if host in EVERY_NETWORK and not advertise:
        raise ConfigError(
            f"--host {host} listens everywhere; name the host that clients reach with --advertise"
        )
    wanted = {"experts": bool(domains), "language": bool(languages), "router": True}
    table: dict[str, object] = {
        "federation": {
            "name": name,
            "clients": clients,
            "domains": domains,
            "languages": languages,
        },
        "base": {"model": base},
        "server": {"host": host, "port": port, "advertise": advertise or host},
        "router": {"public_text": str(Path(public_text).resolve()) if public_text else ""},
        "stages": [asdict(s) for s in Plan().stages if wanted[s.kind]],
    }
    return configs.parse_config(table, "coordinator init")


def render_text(config: FederationConfig) -> str:
    """The commented `federation.toml`."""
    from fedmore.coordinator.template import render

    return render(config)


def with_fingerprint(config: FederationConfig) -> FederationConfig:
    """The base found and its fingerprint taken; raises `BaseError` if it is not the one named."""
    from fedmore.experts.base import fingerprint_of

    model = config.base.model
    if Path(model).expanduser().exists():
        model = str(Path(model).expanduser().resolve())
    found = fingerprint_of(model)
    wanted = config.base.fingerprint
    if wanted and wanted != found:
        raise BaseError(f"{model} has fingerprint {found}, base.fingerprint says {wanted}")
    return replace(config, base=replace(config.base, model=model, fingerprint=found))


def write_certificates(directory: Path, config: FederationConfig) -> None:
    """The federation's certificate authority, and the server's certificate by it."""
    from fedmore.coordinator.security import make_tls

    make_tls(directory, config.federation.name, certificate_hosts(config))


def certificate_hosts(config: FederationConfig) -> list[str]:
    """The names and addresses under which a client may reach the server."""
    hosts = [config.server.advertise, config.server.host, "localhost", "127.0.0.1"]
    return [h for h in dict.fromkeys(hosts) if h not in EVERY_NETWORK]
