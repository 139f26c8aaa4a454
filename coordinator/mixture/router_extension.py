"""Extends a trained router to other experts than it was trained over, keeping what it learned."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.mixture.router_factory import (
    Trained,
    initial_router,
    proxy_windows,
    router_spec,
    training_of,
)
from fedmore.experts.base.model import Base
from fedmore.experts.errors import ConfigError
from fedmore.experts.factors import Factors, Kept
from fedmore.experts.mixture.model import assemble, routed_blocks
from fedmore.experts.router_training.gradient import Training, train_router
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.spec import is_learned

PART = 0.1
"""Steps for new experts, as a part of those of a whole training: fewer than this."""

RATE = 3.0
"""Times the learning rate: only rows that start at nothing are trained, in few steps."""


def grown_router(
    config: FederationConfig,
    base: Base,
    experts: Mapping[str, Factors],
    router: Router,
    before: Mapping[str, Kept],
    means: Mapping[str, Tensor] | None = None,
) -> Trained:
    """Return `router`, which was made for the experts `before`, as one for `experts`.

    Rows of experts that are gone are removed. Rows of new experts are added behind the others and
    trained alone. Raises `ConfigError` for a router that is not trained, or that has another kind
    or shape than configured.
    """
    known = list(before)
    stay = [name for name in known if name in experts]
    new = [name for name in experts if name not in known]
    ordered = {name: experts[name] for name in (*stay, *new)}
    made: Any = router.keeping([known.index(name) for name in stay]).with_new(len(new))
    _check(config, base, ordered, made)
    if not made.shared and routed_blocks(before) != routed_blocks(ordered):
        raise ConfigError(
            f"--keep-router: the router decides in the blocks {list(routed_blocks(before))}, these "
            f"experts change {list(routed_blocks(ordered))}; train it anew, without --keep-router"
        )
    if made.spec.init == "domain":
        fresh: Any = initial_router(config, base, ordered, means)
        made.domain.load_state_dict(fresh.domain.state_dict())
    if not new:
        return Trained(made, ordered)
    arms = tuple(range(len(stay) + 1, len(ordered) + 1))
    trace = train_router(
        assemble(base.model, ordered, made), proxy_windows(config, base), _few(config, arms)
    )
    return Trained(made.cpu(), ordered, trace)


def _few(config: FederationConfig, arms: tuple[int, ...]) -> Training:
    training = training_of(config)
    steps = max(1, math.ceil(PART * training.steps) - 1)
    rate = RATE * training.learning_rate
    return replace(training, steps=steps, learning_rate=rate, only=arms, experts_learning_rate=0.0)


def _check(
    config: FederationConfig, base: Base, experts: Mapping[str, Factors], made: Router
) -> None:
    if not is_learned(made.spec.kind):
        raise ConfigError(f"--keep-router: {made.spec.kind} is set, not trained; leave it out")
    wanted = router_spec(config, base, experts)
    if wanted != made.spec:
        raise ConfigError(
            f"--keep-router: the mixture's router is {made.spec}, the configuration asks for "
            f"{wanted}; train it anew, without --keep-router"
        )
