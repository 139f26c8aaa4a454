"""Compares steps per second of ReMix and softmax training, one after the other, on equal windows.

If all layers share the decision, both do as many steps as the study's training by gradient, since
ReMix computes a loss only when it is first drawn. With a decision in every layer all steps cost the
same, so a few suffice.
"""

from dataclasses import replace

from fedmore.sims.studies.routing.material import Material
from fedmore.sims.studies.routing.trial import fit, fresh, mixed
from fedmore.sims.studies.routing.variants import AT, Size, Variant

FEW = 4
OPPONENTS = {
    "shared": Variant("softmax, top-k", "softmax", 2, trained_at=AT),
    "layers": Variant("softmax, top-k, layers", "softmax", 2, per_layer=True, trained_at=AT),
}
OURS = {
    "shared": Variant("ReMix", "remix", 2, samples=4, trained_at=AT),
    "layers": Variant("ReMix, layers", "remix", 2, per_layer=True, samples=4, trained_at=AT),
}


def cost(material: Material, size: Size, seed: int) -> dict[str, dict[str, float]]:
    """Return `{place: {remix, softmax, ratio}}` in steps per second."""
    steps = {"shared": size.steps, "layers": min(FEW, size.steps)}
    return {place: _compared(material, place, replace(size, steps=count, table_steps=count), seed)
            for place, count in steps.items()}  # fmt: skip


def _compared(material: Material, place: str, size: Size, seed: int) -> dict[str, float]:
    remix, softmax = (
        _rate(material, variant, size, seed) for variant in (OURS[place], OPPONENTS[place])
    )
    return {"remix": remix, "softmax": softmax, "ratio": remix / softmax}


def _rate(material: Material, variant: Variant, size: Size, seed: int) -> float:
    mixture = mixed(material, fresh(material, variant))
    return fit(mixture, material, variant, size, seed).steps_per_s
