"""Opens the server's port, with a clear reason if that fails."""

import errno
import os
import socket

import grpc

from fedmore.coordinator.pki.tls_files import Tls
from fedmore.experts.errors import TransportError


def bind(server: grpc.aio.Server, address: str, tls: Tls | None) -> int:
    """Let `server` listen; returns its port. Raises `TransportError` if that fails."""
    try:
        return _add_port(server, address, tls)
    except RuntimeError as error:
        raise TransportError(f"{address}: cannot listen there: {error}") from error


def _add_port(server: grpc.aio.Server, address: str, tls: Tls | None) -> int:
    if tls is None:
        return server.add_insecure_port(address)
    credentials = grpc.ssl_server_credentials(
        [(tls.server.key, tls.server.certificate)], tls.ca.certificate, require_client_auth=True
    )
    return server.add_secure_port(address, credentials)


def listen_address(host: str, port: int) -> str:
    """The address in gRPC's form, with IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def probe(host: str, port: int) -> None:
    """Raise `TransportError` with the reason why a port cannot be opened; gRPC gives none."""
    where = listen_address(host, port)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(found[0], found[1]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[4])
    except socket.gaierror as error:
        raise TransportError(f"{where}: server.host is not an address of this machine") from error
    except OSError as error:
        hint = {
            errno.EADDRINUSE: "the port is in use; stop what uses it or set another server.port",
            errno.EACCES: "not allowed; ports below 1024 need privileges, set another server.port",
            errno.EADDRNOTAVAIL: "server.host is not an address of this machine",
        }.get(error.errno or 0, os.strerror(error.errno or 0))
        raise TransportError(f"{where}: {hint}") from error
