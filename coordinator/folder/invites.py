"""`coordinator invite`: a file that lets one client in, once."""

import os
from datetime import timedelta
from pathlib import Path

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.folder.federation import Federation, open_federation
from fedmore.coordinator.store.models import now
from fedmore.coordinator.store.registry import Registry
from fedmore.coordinator.store.state_keys import PORT
from fedmore.experts.errors import ConfigError
from fedmore.protos.enrolment.invite import Invite, is_loopback
from fedmore.protos.system.files import write_new
from fedmore.protos.system.hosts import bracketed

DAY_S = 86_400.0
LONGEST_S = 366 * DAY_S
CERTIFICATE_LONGER = timedelta(days=1)
"""Added to the token's time, so that a client whose answer was lost can ask again."""
TAKEN = "is there already, and is not overwritten; remove it, or give another name"


def write_invite(
    directory: Path,
    name: str,
    out: Path,
    *,
    insecure: bool = False,
    expires_s: float = DAY_S,
    again: bool = False,
) -> None:
    """Invite `name` to the federation in `directory`.

    `out` holds secrets, so only its owner can read it. `insecure` leaves the certificates out, for
    a coordinator that is started so.
    """
    check_out(out)
    with open_federation(directory) as federation:
        invite = make_invite(federation, name, insecure=insecure, expires_s=expires_s, again=again)
    write_out(out, invite.text())


def make_invite(
    federation: Federation, name: str, *, insecure: bool, expires_s: float, again: bool = False
) -> Invite:
    """A fresh invite; it replaces an earlier one of `name` that nobody has used.

    With `again` it is for a member, and good for the key that it joined with alone.
    """
    config, registry = federation.config, federation.registry
    if not 0 < expires_s <= LONGEST_S:
        raise ConfigError(f"an invite is good for up to {LONGEST_S / 3600:.0f} hours")
    if insecure and not is_loopback(config.server.host):
        raise ConfigError(
            f"--insecure is for this machine alone, and server.host is {config.server.host}"
        )
    address = address_of(config, registry)
    token = (registry.invite_again if again else registry.invite)(name, expires_s)
    expires = now() + timedelta(seconds=expires_s)
    ca = certificate = key = None
    if not insecure:
        ca, certificate, key = _certify(federation.directory, name, expires_s)
    return Invite(
        federation=config.federation.name,
        name=name,
        address=address,
        ca=ca,
        certificate=certificate,
        key=key,
        token=token,
        expires=expires.isoformat(timespec="seconds"),
        again=again,
    )


def address_of(config: FederationConfig, registry: Registry) -> str:
    """Where clients and operators call: host and port."""
    return f"{bracketed(config.server.advertise)}:{port_of(config, registry)}"


def port_of(config: FederationConfig, registry: Registry) -> int:
    """The configured port or, if that is 0, the port that was free at the last start."""
    port = config.server.port or int(registry.get_state(PORT, 0))
    if not port:
        raise ConfigError(
            "server.port is 0 (any free one) and the coordinator has not been started yet, so an "
            "invite cannot name it; start the coordinator first, or choose a port"
        )
    return port


def check_out(out: Path) -> None:
    """Raise `ConfigError` if `--out` cannot be, before anything is made."""
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    if os.path.lexists(out):
        raise ConfigError(f"--out {out}: {TAKEN}")


def write_out(out: Path, text: str) -> None:
    """Make a file with secrets, readable by its owner alone; what is there already stays."""
    try:
        write_new(out, text)
    except FileExistsError as error:
        raise ConfigError(f"--out {out}: {TAKEN}") from error
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from error


def _certify(directory: Path, name: str, expires_s: float) -> tuple[str, str, str]:
    """Authority, certificate and key for an invite, all PEM."""
    from fedmore.coordinator.pki.certificates import Role, make_pair
    from fedmore.coordinator.pki.tls_files import read_authority

    ca = read_authority(directory)
    until = now() + timedelta(seconds=expires_s) + CERTIFICATE_LONGER
    pair = make_pair(ca, Role.INVITE, name, until)
    return ca.certificate.decode(), pair.certificate.decode(), pair.key.decode()
