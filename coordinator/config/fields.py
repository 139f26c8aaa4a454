"""Types of values in `federation.toml`; each checks its value, so an error names the exact path."""

from typing import Annotated

from pydantic import AfterValidator

from fedmore.experts.errors import ConfigError
from fedmore.experts.names import check_name
from fedmore.protos.system.hosts import host, reachable


def named(name: str) -> str:
    """`name`; raises `ValueError` unless it can be one."""
    try:
        check_name(name)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return name


Name = Annotated[str, AfterValidator(named)]
Host = Annotated[str, AfterValidator(host)]
Reachable = Annotated[str, AfterValidator(reachable)]
