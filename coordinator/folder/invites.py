"""`coordinator invite`: makes a file with which one client can enrol, once."""

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
"""Added to the token's lifetime, so that a client whose reply was lost can ask again."""
TAKEN = "exists already and is not overwritten; remove it, or give another name"


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

    Args:
        directory: the federation's folder.
        name: the client.
        out: file to write, readable by its owner alone, since it contains secrets.
        insecure: leave out the certificates, for `coordinator start --insecure`.
        expires_s: seconds until the invite expires.
        again: invite a member again, for its present key.

    """
    check_out(out)
    with open_federation(directory) as federation:
        invite = make_invite(federation, name, insecure=insecure, expires_s=expires_s, again=again)
    write_out(out, invite.text())


def make_invite(
    federation: Federation, name: str, *, insecure: bool, expires_s: float, again: bool = False
) -> Invite:
    """Make an invite, which replaces an earlier unused one of `name`.

    With `again` it is for a member, and valid only for the key with which it joined.
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
    """Host and port at which clients and operators call."""
    return f"{bracketed(config.server.advertise)}:{port_of(config, registry)}"


def port_of(config: FederationConfig, registry: Registry) -> int:
    """The configured port or, if that is 0, the port chosen at the last start."""
    port = config.server.port or int(registry.get_state(PORT, 0))
    if not port:
        raise ConfigError(
            "server.port is 0 (any free one) and the coordinator has not been started yet, so an "
            "invite cannot name it; start the coordinator first, or choose a port"
        )
    return port


def check_out(out: Path) -> None:
    """Raise `ConfigError` if `--out` cannot be written, before anything is made."""
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    if os.path.lexists(out):
        raise ConfigError(f"--out {out}: {TAKEN}")


def write_out(out: Path, text: str) -> None:
    """Write a new file with secrets, readable by its owner alone; an existing file is an error."""
    try:
        write_new(out, text)
    except FileExistsError as error:
        raise ConfigError(f"--out {out}: {TAKEN}") from error
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from error


def _certify(directory: Path, name: str, expires_s: float) -> tuple[str, str, str]:
    """Make the authority, certificate and key for an invite, all PEM."""
    from fedmore.coordinator.pki.certificates import Role, make_pair
    from fedmore.coordinator.pki.tls_files import read_authority

    ca = read_authority(directory)
    until = now() + timedelta(seconds=expires_s) + CERTIFICATE_LONGER
    pair = make_pair(ca, Role.INVITE, name, until)
    return ca.certificate.decode(), pair.certificate.decode(), pair.key.decode()
