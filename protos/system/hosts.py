"""Checks and normalises hosts and addresses that can be called."""

import re
from ipaddress import ip_address

EVERY_NETWORK = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
LONGEST_HOST = 253
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


def host(text: str) -> str:
    """Normalise a host name or IP address, IPv6 without brackets; raises `ValueError` otherwise."""
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
    """Check a host that others can call; a wildcard address is refused."""
    found = host(text)
    if found in EVERY_NETWORK:
        raise ValueError(f"{found} is no address to call; name the host that clients reach")
    return found


def address(text: str) -> str:
    """Normalise `host:port`, IPv6 in brackets; raises `ValueError` if it cannot be called."""
    name, colon, port = text.rpartition(":")
    bare = ":" in name and not name.startswith("[")
    if not colon or bare or not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise ValueError(f"{text[:80]!a} is not HOST:PORT (of IPv6: [ADDRESS]:PORT)")
    return f"{bracketed(reachable(name))}:{int(port)}"


def bracketed(name: str) -> str:
    """The form of a host before a port: an IPv6 address gets brackets."""
    return f"[{name}]" if ":" in name else name


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
