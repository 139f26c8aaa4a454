"""Which base an owner's machine opens, and whether the owner's change can be trained in it."""

from collections.abc import Callable

from fedmore.experts.errors import BaseError
from fedmore.protos.enrolment.federation_info import FederationInfo

Say = Callable[[str], None]


def choose_base(given: str | None, info: FederationInfo, say: Say) -> str:
    """The base that the owner names, or else the one on the hub that the coordinator names.

    A path from the coordinator is a place on the owner's machine that the owner has not chosen:
    `BaseError`, and nothing is opened.
    """
    from fedmore.experts.base.files import is_path

    if given:
        return given
    if is_path(info.base):
        raise BaseError(
            f"the coordinator names its base by a path, {info.base!r}; no path is opened unasked, "
            "so give this machine's copy with --base PATH"
        )
    say(f"the coordinator names the base {info.base!r}; it is taken from the hub or its cache")
    return info.base


def check_base(base: str, info: FederationInfo) -> str:
    """The fingerprint of this machine's base; raises `BaseError` if it is not the federation's."""
    from fedmore.experts.base.fingerprint import explain
    from fedmore.experts.base.hub import reach
    from fedmore.experts.base.model import fingerprint_of

    try:
        reach(base)
        found = fingerprint_of(base)
    except BaseError as error:
        raise BaseError(f"{error}; give this machine's copy with --base PATH") from error
    if info.fingerprint and found != info.fingerprint:
        raise BaseError(
            f"the base {base} has fingerprint {found}, the federation's ({info.base!r}) has "
            f"{info.fingerprint}; give the same with --base PATH{explain(found, info.fingerprint)}"
        )
    return found


def check_change(
    base: str, name: str, kind: str, target: str, rank: int, say: Say, ranks: str = ""
) -> None:
    """Raise `BaseError` or `RankError` if the base does not allow such a change.

    Says what the change does not reach, if that is so.
    """
    from fedmore.experts.base.suitability import kind_of, suitability
    from fedmore.experts.spec import ExpertSpec

    found, chosen = suitability(base), kind_of(kind)
    found.check(chosen)
    ExpertSpec(name, chosen, target, rank, ranks=ranks).sites(found.parts.shapes)
    if beyond := found.reach(chosen):
        say(beyond)


def load(
    base: str, info: FederationInfo, device: str, kind: str, rank: int, ranks: str = ""
) -> None:
    """Load the base once; the client's app finds it loaded.

    Raises `BaseError` if it cannot be loaded, or does not use what would be changed.
    """
    from fedmore.experts.base.layer_usage import check_reached
    from fedmore.experts.base.model import load_base, shapes_of
    from fedmore.experts.base.suitability import kind_of
    from fedmore.experts.spec import ExpertSpec

    loaded = load_base(base, info.dtype, device, info.quantization)
    spec = ExpertSpec("the change", kind_of(kind), "", rank, ranks=ranks)
    check_reached(loaded, spec.sites(shapes_of(loaded.model)))
