"""Checks an enrolment before its one-time token is used up."""

from typing import TYPE_CHECKING, cast

from fedmore.experts.errors import BaseError, ConfigError, RankError
from fedmore.experts.names import check_name, check_targets
from fedmore.experts.ranks import check_largest
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.enrolment.federation_info import FederationInfo

HIGHEST_RANK = 65_536

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fedmore.coordinator.config.schema import FederationConfig
    from fedmore.coordinator.store.records import Kind, Member


def check_enrolment(
    request: pb.EnrolRequest, config: "FederationConfig", info: FederationInfo
) -> "Kind":
    """Return the request's kind; raises if the federation has no place for it."""
    if config.federation.app or request.kind == "app":
        return _check_app(request, config)
    known = {"expert": config.federation.domains, "adapter": config.federation.languages}
    word = {"expert": "domain", "adapter": "language"}
    if request.kind not in known:
        raise ConfigError(f"a client trains an expert or an adapter, not {request.kind!r}")
    targets = known[request.kind]
    if targets and request.target not in targets:
        raise ConfigError(
            f"{word[request.kind]} {request.target[:80]!r} is not in this federation; "
            f"there are: {', '.join(targets)}"
        )
    check_rank(request.rank, request.ranks)
    check_name(request.target)
    check_targets((request.target,))
    check_fingerprint(request.fingerprint, info)
    return cast("Kind", request.kind)


def check_rank(rank: int, ranks: str) -> None:
    """Raise `RankError` for a rank out of bounds, or that is not the largest of its pattern."""
    if not (0 if ranks else 1) <= rank <= HIGHEST_RANK:
        raise RankError(f"the rank must be from 1 to {HIGHEST_RANK}, not {rank}")
    check_largest(rank, ranks)


def check_unmixed(kind: "Kind", target: str, members: "Iterable[Member]") -> None:
    """Raise `ConfigError` if members train this name as the other kind, or with other case.

    A federation without lists of domains and languages accepts any name, but only for one kind.
    """
    for member in members:
        same = (member.target or "").casefold() == target.casefold()
        if same and (member.kind, member.target) != (kind, target):
            raise ConfigError(
                f"{target!a} is trained here as the {member.kind} {member.target!a}; "
                "a domain or language needs a name of its own"
            )


def _check_app(request: pb.EnrolRequest, config: "FederationConfig") -> "Kind":
    app = config.federation.app
    if not app:
        raise ConfigError(
            "this federation trains experts and adapters; give --domain or --language"
        )
    if request.kind != "app":
        raise ConfigError(f"this federation runs the Flower app {app!r}; give --app of your own")
    if request.rank != 0 or request.ranks:
        raise RankError(
            f"the client of a Flower app has rank 0, not {request.ranks[:80] or request.rank}"
        )
    if request.target:
        raise ConfigError(f"the client of a Flower app trains no {request.target[:80]!r}")
    return "app"


def check_fingerprint(fingerprint: str, info: FederationInfo) -> None:
    """Raise `BaseError` if both sides give a fingerprint and they differ."""
    if fingerprint and info.fingerprint and fingerprint != info.fingerprint:
        raise BaseError(
            f"your base has the fingerprint {fingerprint[:16]}, the federation's ({info.base}) "
            f"has {info.fingerprint[:16]}; use the same weights"
        )
