"""The one domain embedding that a client gives: the mean of many passages, clipped and noised.

The mean of a few short texts gives these texts away to somebody who has others of the domain. So it
is made of many passages. Each passage's mean embedding is clipped to norm C. Gaussian noise of
standard deviation ``noise * C / passages`` is added to their mean (the Gaussian mechanism for one
release; its unit is a passage). The noise comes from the owner's secret: the same for ever, so that
asking again takes none of it away.
"""

import torch
from torch import Tensor

from fedmore.client.owner.policy import OwnerPolicy


def noised_mean(
    passages_PD: Tensor, rows_VD: Tensor, rules: OwnerPolicy, seed: int
) -> tuple[Tensor, int]:
    """The embedding, float32 [D], and the number of passages that were clipped.

    Args:
        passages_PD: mean input embedding of each passage, float64 [P, D].
        rows_VD: the base's embedding matrix; its row norms set the scale of C.
        rules: the owner's policy, for clip and noise.
        seed: of the noise, the owner's own.

    """
    clip = clip_norm(rows_VD, rules)
    norms_P1 = passages_PD.norm(dim=1, keepdim=True)
    factors_P1 = (clip / norms_P1.clamp_min(1e-30)).clamp_max(1.0)
    mean_D = (passages_PD * factors_P1).mean(0)
    generator = torch.Generator().manual_seed(seed)
    noise_D = torch.randn(mean_D.shape, generator=generator, dtype=torch.float64)
    scale = rules.embedding_noise * clip / len(passages_PD)
    return (mean_D + scale * noise_D).float(), int((factors_P1 < 1).sum())


def clip_norm(rows_VD: Tensor, rules: OwnerPolicy) -> float:
    """The norm C: a multiple of the root mean square norm of the rows, a number of the base."""
    norms_V = torch.linalg.vector_norm(rows_VD.detach(), dim=1, dtype=torch.float64)
    return rules.embedding_clip * float(norms_V.square().mean().sqrt())
