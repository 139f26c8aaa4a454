"""Kinds of values in `federation.toml` that are checked where they stand, so the path is exact."""

import re
from ipaddress import ip_address
from typing import Annotated

from pydantic import AfterValidator

from fedmore.experts.errors import ConfigError
from fedmore.experts.names import check_name

EVERY_NETWORK = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
LONGEST_HOST = 253


def named(name: str) -> str:
    """`name`; raises `ValueError` unless it can be one."""
    try:
        check_name(name)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return name


def host(text: str) -> str:
    """A host name or an IP address, IPv6 without its brackets; raises `ValueError` for the rest."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if bare != text and ":" not in bare:
        raise ValueError(f"{text[:80]!a}: brackets are for IPv6 addresses")
    if "://" in text or "/" in text:
        raise ValueError(f"{text[:80]!a} is not a host but a URL or path; give the host alone")
    if ":" in bare:
        return _ipv6(text, bare)
    labels = bare.split(".")
    if len(bare) > LONGEST_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text[:80]!a} is neither a host name nor an IP address")
    if _NUMBER.fullmatch(labels[-1]):
        return _ipv4(text, bare)
    return bare


def reachable(text: str) -> str:
    """A `host` that others can call, not one that stands for every network."""
    found = host(text)
    if found in EVERY_NETWORK:
        raise ValueError(f"{found} is no address to call; name the host that clients reach")
    return found


def _ipv4(text: str, bare: str) -> str:
    try:
        return str(ip_address(bare))
    except ValueError as error:
        raise ValueError(f"{text[:80]!a} is not an IP address") from error


def _ipv6(text: str, bare: str) -> str:
    name, _, port = bare.rpartition(":")
    try:
        found = ip_address(bare)
    except ValueError as error:
        hint = "; the port is server.port (--port)" if port.isdigit() and name else ""
        raise ValueError(f"{text[:80]!a} is not a host name or IP address{hint}") from error
    if "%" in bare:
        raise ValueError(f"{text[:80]!a}: an address with a zone holds on one machine only")
    return str(found)


Name = Annotated[str, AfterValidator(named)]
Host = Annotated[str, AfterValidator(host)]
Reachable = Annotated[str, AfterValidator(reachable)]
