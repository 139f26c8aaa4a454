"""Adds and withdraws experts under a trained router, and measures cost and harm.

The router is ReMix with k = 1 that starts from domain embeddings; its losses are in a table.
"""

import math
import time
from dataclasses import replace
from typing import Any

from fedmore.coordinator.mixture.router_extension import PART
from fedmore.experts.mixture.model import Mixture
from fedmore.experts.router_training.gradient import Training, train_router
from fedmore.experts.routers.base import Router
from fedmore.sims.studies.routing.material import Material
from fedmore.sims.studies.routing.trial import Nats, fit, fresh, mixed, score_text
from fedmore.sims.studies.routing.variants import AT, Size, Variant

VARIANT = Variant("ReMix, from domains", "remix", 1, samples=4, start="domain", trained_at=AT)


def added(material: Material, size: Size, seed: int) -> dict[str, Any]:
    """Add the last expert to a router of the others, and compare with training all anew.

    Adding takes less than a tenth of the steps, over a tenth of the windows.
    """
    names = list(material.experts)
    old = trained(material.only(names[:-1]), size, seed).router
    short = replace(size, table_steps=max(1, math.ceil(PART * size.table_steps) - 1))
    began = time.perf_counter()
    mixture = mixed(material, _with_new(old, material))
    train_new(mixture, material, short, seed, arm=len(names))
    adding_s = time.perf_counter() - began
    began = time.perf_counter()
    whole = trained(material, size, seed)
    whole_s = time.perf_counter() - began
    return {
        "expert": names[-1],
        "steps": short.table_steps,
        "steps_of_retraining": size.table_steps,
        "seconds": adding_s,
        "seconds_of_retraining": whole_s,
        "nats": _own(mixture, material, size),
        "nats_of_retraining": _own(whole, material, size),
    }


def _with_new(old: Router, material: Material) -> Router:
    """Extend `old` by an arm for the last expert, with its domain embedding."""
    router: Any = old.with_new()
    started: Any = fresh(material, VARIANT)
    router.domain.load_state_dict(started.domain.state_dict())
    grown: Router = router
    return grown


def withdrawn(material: Material, size: Size, seed: int) -> dict[str, Any]:
    """Withdraw each expert in turn, and score the documents of the remaining texts.

    `{before: {text: nats}, after: {withdrawn: {text: nats}}}`
    """
    names = list(material.experts)
    mixture = trained(material, size, seed)
    before = _own(mixture, material, size)
    after = {name: _without(name, mixture.router, material, size) for name in names}
    return {"before": before, "after": after}


def _without(name: str, router: Router, material: Material, size: Size) -> Nats:
    names = list(material.experts)
    left = [n for n in names if n != name]
    fewer = material.only(left)
    mixture = mixed(fewer, router.keeping([names.index(n) for n in left]))
    return _own(mixture, fewer, size)


def trained(material: Material, size: Size, seed: int) -> Mixture:
    """Make a mixture whose router is trained over all experts."""
    mixture = mixed(material, fresh(material, VARIANT))
    fit(mixture, material, VARIANT, size, seed)
    return mixture


def train_new(mixture: Mixture, material: Material, size: Size, seed: int, arm: int) -> None:
    """Train only the row of one arm."""
    training = Training(
        steps=size.table_steps,
        batch_size=size.batch,
        learning_rate=VARIANT.rate,
        num_selections=VARIANT.samples,
        only=(arm,),
        seed=seed,
    )
    few = material.windows[: max(1, math.floor(PART * len(material.windows)))]
    train_router(mixture, few, training)


def _own(mixture: Mixture, material: Material, size: Size) -> Nats:
    """Score the documents of the experts' own texts."""
    return {name: score_text(mixture.model, material, name, size) for name in material.experts}
