"""`coordinator invite`: a file that lets one client in, once."""

from datetime import timedelta
from pathlib import Path

from fedmore.coordinator.config import FederationConfig
from fedmore.coordinator.federation import Federation, open_federation
from fedmore.coordinator.registry import Registry
from fedmore.coordinator.tables import now
from fedmore.experts.errors import ConfigError
from fedmore.protos.invite import Invite

DAY_S = 86_400.0
PORT = "port"
"""State key of the port that the last `coordinator start` listened on."""


def write_invite(
    directory: Path, name: str, out: Path, *, insecure: bool = False, expires_s: float = DAY_S
) -> None:
    """Invite `name` to the federation in `directory`.

    `out` holds a secret, so only its owner can read it. `insecure` leaves the certificate out, for
    a coordinator that is started so.
    """
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    with open_federation(directory) as federation:
        invite = make_invite(federation, name, insecure=insecure, expires_s=expires_s)
    try:
        invite.write(out)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from error


def make_invite(federation: Federation, name: str, *, insecure: bool, expires_s: float) -> Invite:
    """A fresh invite; it replaces an earlier one of `name` that nobody has used."""
    config, registry = federation.config, federation.registry
    return Invite(
        federation=config.federation.name,
        name=name,
        address=f"{bracketed(config.server.advertise)}:{port_of(config, registry)}",
        ca=None if insecure else _authority(federation.directory),
        token=registry.invite(name, expires_s),
        expires=(now() + timedelta(seconds=expires_s)).isoformat(timespec="seconds"),
    )


def port_of(config: FederationConfig, registry: Registry) -> int:
    """The configured port or, where that is 0, the one that was free at the last start."""
    port = config.server.port or int(registry.get_state(PORT, 0))
    if not port:
        raise ConfigError(
            "server.port is 0 (any free one) and the coordinator has not been started yet, so an "
            "invite cannot name it; start the coordinator first, or choose a port"
        )
    return port


def bracketed(host: str) -> str:
    """An IPv6 address as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def _authority(directory: Path) -> str:
    from fedmore.coordinator.security import read_pair

    return read_pair(directory, "ca").certificate.decode("ascii")
