"""Steps a second of ReMix against softmax training, in turn, each by itself.

One step is a batch of windows; a router's text is `STEPS` batches that it has not seen before.
"""

import statistics
from dataclasses import replace

from fedmore.sims.routing.material import Material
from fedmore.sims.routing.trial import fit, fresh, mixed
from fedmore.sims.routing.variants import AT, Size, Variant

STEPS, REPEATS = 4, 3
OPPONENTS = {
    "shared": Variant("softmax, top-k", "softmax", 2, trained_at=AT),
    "layers": Variant("softmax, top-k, layers", "softmax", 2, per_layer=True, trained_at=AT),
}
OURS = {
    "shared": Variant("ReMix", "remix", 2, samples=4, trained_at=AT),
    "layers": Variant("ReMix, layers", "remix", 2, per_layer=True, samples=4, trained_at=AT),
}


def cost(material: Material, size: Size, seed: int) -> dict[str, dict[str, float]]:
    """`{place: {remix, softmax, ratio}}`: steps/s, medians of `REPEATS`, new losses every time."""
    return {place: _compared(material, place, size, seed) for place in OURS}


def _compared(material: Material, place: str, size: Size, seed: int) -> dict[str, float]:
    rates: dict[str, list[float]] = {"remix": [], "softmax": []}
    for _ in range(REPEATS):
        for name, variant in (("remix", OURS[place]), ("softmax", OPPONENTS[place])):
            rates[name].append(_rate(material, variant, size, seed))
    remix, softmax = (statistics.median(each) for each in rates.values())
    return {"remix": remix, "softmax": softmax, "ratio": remix / softmax}


def _rate(material: Material, variant: Variant, size: Size, seed: int) -> float:
    mixture = mixed(material, fresh(material, variant))
    few = replace(size, steps=STEPS, table_steps=STEPS)
    return fit(mixture, material, variant, few, seed).steps_per_s
