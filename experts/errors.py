"""The exception tree of the whole system.

::

    FedmoreError
    ├── KernelError          a kernel has no form for the device, or lacks a library
    ├── ConfigError          a configuration or option is wrong
    │   └── RankError        a rank above what the matrix allows
    ├── DataError            private text is missing or cannot be read
    ├── DeviceError          the device asked for is not there
    ├── BaseError            the base cannot be loaded, or is not the federation's
    ├── MembershipError      a client may not take part
    │   ├── TokenError       an invite or credential is unknown, used or expired
    │   └── NameTakenError   another client has this name
    ├── WireError            received bytes do not have the declared form
    ├── TransportError       the peer cannot be reached, or the port is taken
    │   └── PeerError        the peer belongs to another federation or another version
    ├── RegistryError        a federation, expert or mixture does not exist
    │   └── StoreError       the disk is full or read-only, or has lost a file
    ├── RoundError           a round cannot go on
    └── EgressError          data that was asked for, or was about to be sent, must stay here

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
    """Private text is missing or cannot be read."""


class DeviceError(FedmoreError):
    """The device asked for is not there; names what was found."""


class BaseError(FedmoreError):
    """The base cannot be loaded, or is not the one that the federation uses."""


class MembershipError(FedmoreError):
    """A client may not take part."""


class TokenError(MembershipError):
    """An invite or credential is unknown, used or expired."""


class NameTakenError(MembershipError):
    """Another client has this name."""


class WireError(FedmoreError):
    """Received bytes do not have the form that was declared or that the protocol demands."""


class TransportError(FedmoreError):
    """The peer cannot be reached, or the port is taken."""


class RegistryError(FedmoreError):
    """A federation, expert or mixture does not exist."""


class StoreError(RegistryError):
    """The disk is full or read-only, or has lost a file."""


class RoundError(FedmoreError):
    """A round cannot go on; the message has every client's cause.

    With `nobody`, not one client did its part; without, there were some but fewer than a quorum.
    """

    def __init__(self, message: object = "", *, nobody: bool = False) -> None:
        super().__init__(message)
        self.nobody = nobody


class EgressError(FedmoreError):
    """Data that was asked for, or was about to be sent, must not leave this machine.

    `private` has details for the owner's audit, which the coordinator does not get.
    """

    def __init__(self, message: str, *, private: str = "") -> None:
        super().__init__(message)
        self.private = private


class PeerError(TransportError):
    """The peer is another federation's coordinator or of another version; retrying cannot help."""
