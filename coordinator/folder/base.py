"""Checks for `init` that a plan fits its base, before any client is invited."""

from collections.abc import Callable, Sequence


def check_plan(
    model: str, domains: Sequence[str], languages: Sequence[str], tell: Callable[[str], None]
) -> None:
    """Raise `BaseError` if the base allows no expert or no adapter and the plan wants one.

    `tell` gets a line about any part that an adapter cannot change in this base.
    """
    from fedmore.experts.base.suitability import suitability

    found = suitability(model)
    if domains:
        found.check("expert")
    if languages:
        found.check("adapter")
        if beyond := found.reach("adapter"):
            tell(beyond)
