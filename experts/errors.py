"""The exception tree of the whole system.

::

    FedmoreError
    ├── KernelError          a kernel has no form for the device, or lacks a library
    ├── ConfigError          a configuration or option is wrong
    │   └── RankError        a rank above what the matrix allows
    ├── DataError            private text cannot be read, or there is none
    ├── DeviceError          the device asked for is not there
    ├── BaseError            the base cannot be loaded, or is not the federation's
    ├── MembershipError      who may take part
    │   ├── TokenError       an invite or credential is unknown, used or expired
    │   └── NameTakenError   another client has this name
    ├── WireError            bytes that are not what they claim to be
    ├── TransportError       the peer cannot be reached, or the port is taken
    │   └── PeerError        who answers is not this federation's, or of another version
    ├── RegistryError        a federation, expert or mixture that does not exist
    │   └── StoreError       the disk is full, may not be written to, or has lost something
    ├── RoundError           a round that cannot go on
    └── EgressError          something asked for, or about to be sent, that must stay here

A message says what, where, and what to do. `fedmore.protos.wire.status` maps every class to a gRPC
status and an exit code.
"""

from fedmore.kernels.errors import FedmoreError as FedmoreError
from fedmore.kernels.errors import KernelError as KernelError


class ConfigError(FedmoreError):
    """A configuration or option is wrong; names the dotted path."""


class RankError(ConfigError):
    """A rank above what the matrix allows."""


class DataError(FedmoreError):
    """Private text cannot be read, or there is none."""


class DeviceError(FedmoreError):
    """The device asked for is not there; names what was found."""


class BaseError(FedmoreError):
    """The base cannot be loaded, or is not the one that the federation uses."""


class MembershipError(FedmoreError):
    """Who may take part."""


class TokenError(MembershipError):
    """An invite or credential is unknown, used or expired."""


class NameTakenError(MembershipError):
    """Another client has this name."""


class WireError(FedmoreError):
    """Bytes that are not what they claim to be."""


class TransportError(FedmoreError):
    """The peer cannot be reached, or the port is taken."""


class RegistryError(FedmoreError):
    """A federation, expert or mixture that does not exist."""


class StoreError(RegistryError):
    """The disk is full, may not be written to, or has lost something."""


class RoundError(FedmoreError):
    """A round that cannot go on; carries every client's cause.

    `nobody` tells that no client at all did its part, rather than fewer than a quorum.
    """

    def __init__(self, message: object = "", *, nobody: bool = False) -> None:
        super().__init__(message)
        self.nobody = nobody


class EgressError(FedmoreError):
    """Something that was asked for, or about to be sent, must not leave this machine.

    `private` is what the owner reads of it in the audit and the coordinator does not.
    """

    def __init__(self, message: str, *, private: str = "") -> None:
        super().__init__(message)
        self.private = private


class PeerError(TransportError):
    """Who answers is not this federation's coordinator, or of another version: do not try again."""
