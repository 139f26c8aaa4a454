"""Reads and raises the process's limit of file descriptors."""

import logging
import sys

WANTED = 65_536
"""Number of descriptors that a coordinator of thousands of clients needs."""

log = logging.getLogger(__name__)


def raise_descriptors(wanted: int = WANTED) -> int:
    """Raise the soft limit of descriptors as far as the hard one allows; returns the new limit."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return limit_of_descriptors()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError) as error:
        log.warning("the limit of %d descriptors cannot be raised to %d: %s", soft, most, error)
        return soft
    return most


def limit_of_descriptors() -> int:
    """The soft limit of descriptors of this process."""
    if sys.platform == "win32":
        return WANTED
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
