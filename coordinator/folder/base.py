"""Whether a plan can be carried out over its base: said by `init`, before anybody is invited."""

from collections.abc import Callable, Sequence


def check_plan(
    model: str, domains: Sequence[str], languages: Sequence[str], tell: Callable[[str], None]
) -> None:
    """Raise `BaseError` if the base allows no expert or no adapter and the plan wants one.

    What an adapter does not reach in this base is told.
    """
    from fedmore.experts.base.suitability import suitability

    found = suitability(model)
    if domains:
        found.check("expert")
    if languages:
        found.check("adapter")
        if beyond := found.reach("adapter"):
            tell(beyond)
