"""The tokens of one call: which are real, and where a text begins among them.

Read from what a caller gives a model: a padding mask, a 4-D mask, positions. What it gives that
cannot be read so is refused, in one line.

Shape suffixes: B sequences (1 where all are alike), T tokens of the call, K tokens with those in
the cache.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedmore.experts.errors import ConfigError
from fedmore.experts.routers.past import Past

PAGED = ("cache", "block_table", "cu_seq_lens_q", "seq_idx")
"""Arguments that say where texts begin in ways that are not read here."""


@dataclass(frozen=True)
class Inputs:
    """One call's tokens; `mask_BK` is False at padding, `begins_BT` True where a text begins.

    Either is None if there is no such token.
    """

    tokens: int
    position_BT: Tensor
    mask_BK: Tensor | None = None
    begins_BT: Tensor | None = None

    @classmethod
    def of(cls, tokens: Tensor) -> "Inputs":
        """The inputs of new texts without padding [B, T, ...]."""
        return cls(tokens.shape[1], _on_from(0, tokens))

    @property
    def real(self) -> Tensor | None:
        """Which of the call's own tokens are real [B, T]."""
        return None if self.mask_BK is None else self.mask_BK[:, -self.tokens :]


def read_inputs(given: Mapping[str, Any], past: Past) -> Inputs:
    """The tokens of a call with the arguments `given`, after those of `past`.

    Raises `ConfigError` for a call without tokens, and for masks that are not understood.
    """
    ids = given.get("input_ids")
    tokens = ids if ids is not None else given.get("inputs_embeds")
    if tokens is None:
        raise ConfigError("call a mixture with input_ids or inputs_embeds")
    for name in PAGED:
        if given.get(name) is not None and (name == "cache" or given.get("position_ids") is None):
            raise ConfigError(f"a mixture does not read {name}=: give it position_ids, and a Cache")
    count, mask = tokens.shape[1], _only(given.get("attention_mask"))
    if mask is None or mask.ndim == 2:
        mask_BK, begins_BT = _padding(mask, count, past), None
    else:
        mask_BK, begins_BT = _seen(mask, count, past)
    position_BT = given.get("position_ids")
    if position_BT is None:
        position_BT = _on_from(past.seen, tokens)
    else:
        position_BT = position_BT[0] if position_BT.ndim == 3 else position_BT
        packed = mask is None and given.get("past_key_values") is None
        restarts_BT = restarts(position_BT, past.position.last, packed)
        begins_BT = restarts_BT if begins_BT is None else begins_BT | restarts_BT
    begins_BT = _needed(begins_BT, mask_BK, past)
    return Inputs(count, position_BT, mask_BK, begins_BT)


def _on_from(start: int, tokens: Tensor) -> Tensor:
    """The positions [1, T] that a model gives tokens if its caller does not."""
    count = tokens.shape[1]
    return torch.arange(start, start + count, device=tokens.device)[None]


def _needed(begins_BT: Tensor | None, mask_BK: Tensor | None, past: Past) -> Tensor | None:
    """Where texts begin after others; the first real token of all begins one anyway."""
    if begins_BT is None:
        return None
    if mask_BK is not None:
        real_BT = mask_BK[:, -begins_BT.shape[1] :]
        begins_BT = begins_BT & real_BT
        if not past.seen:
            begins_BT = begins_BT & (real_BT.cumsum(1) > 1)
    return begins_BT if bool(begins_BT.any()) else None


def restarts(position_BT: Tensor, last_B1: Tensor | None, packed: bool) -> Tensor:
    """Where positions do not go on [B, T].

    `packed` texts are told apart as transformers does: by any step that is not 1. Elsewhere a
    position may be left out, and a text begins where they go back or stand.
    """
    first_B1 = position_BT[:, :1] - 1 if last_B1 is None else last_B1
    step_BT = torch.diff(position_BT, prepend=first_B1.expand(len(position_BT), 1), dim=1)
    return step_BT != 1 if packed else step_BT < 1


def _only(mask: Any) -> Tensor | None:
    """The mask of full attention; transformers makes one for each kind of layer."""
    if isinstance(mask, Mapping):
        if "full_attention" not in mask:
            raise ConfigError("attention_mask: there is none for full attention; give a 2-D mask")
        mask = mask["full_attention"]
    if mask is None or (isinstance(mask, Tensor) and mask.ndim in (2, 4)):
        return mask
    shape = tuple(getattr(mask, "shape", ()))
    raise ConfigError(f"attention_mask of shape {shape}: a mixture reads 2-D and 4-D tensors")


def _padding(mask: Tensor | None, count: int, past: Past) -> Tensor | None:
    """A 2-D mask as bools, of the tokens up to now [B, K]."""
    width = past.seen + count
    if mask is None:
        if past.mask_BT is None:
            return None
        return torch.nn.functional.pad(past.mask_BT, (0, count), value=True)
    if mask.shape[1] < width:
        raise ConfigError(
            f"attention_mask is for {mask.shape[1]} tokens, cache and call have {width}: give one "
            "number for each of them"
        )
    mask_BK = mask[:, :width].bool()
    earlier_BK = mask_BK[:, : past.seen]
    if past.seen and not bool((earlier_BK == past.real(earlier_BK)).all()):
        raise ConfigError(
            "attention_mask hides or shows other tokens of the cache than before: the router has "
            "counted them already; begin with an empty cache"
        )
    return mask_BK


def _seen(mask: Tensor, count: int, past: Past) -> tuple[Tensor, Tensor]:
    """What a 4-D mask [B, H, T, K] says: which tokens are real, and where texts begin.

    A token is padding if it does not see itself, and begins a text if it sees none before it.
    """
    start, width = past.seen, past.seen + count
    seen_BTK = _as_bools(mask)[..., :width]
    if seen_BTK.shape[1:] != (count, width):
        raise ConfigError(
            f"attention_mask of shape {tuple(mask.shape)}: cache and call have {width} tokens"
        )
    before_BT = past.real(seen_BTK)
    seen_BTK = seen_BTK.expand(len(before_BT), -1, -1)
    real_BT = seen_BTK[..., start:].diagonal(dim1=1, dim2=2)
    mask_BK = torch.cat([before_BT, real_BT], dim=1)
    at_T = torch.arange(start, width, device=mask.device)[:, None]
    earlier_TK = torch.arange(width, device=mask.device) < at_T
    begins_BT = real_BT & ~(seen_BTK & earlier_TK & mask_BK[:, None]).any(-1)
    text_BK = torch.cat([past.of_the_last_text(before_BT), real_BT], dim=1)
    _check(seen_BTK, text_BK, begins_BT)
    return mask_BK, begins_BT


def _as_bools(mask: Tensor) -> Tensor:
    """Whether each token sees each [B, T, K]."""
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(torch.float16).min / 2
    if not bool((seen == seen[:, :1]).all()):
        raise ConfigError("attention_mask differs from head to head: a router has one text")
    return seen[:, 0]


def _check(seen_BTK: Tensor, text_BK: Tensor, begins_BT: Tensor) -> None:
    """Raise `ConfigError` unless every real token sees its text from the beginning up to itself.

    `text_BK` is True at the call's real tokens and at those of the text that they go on with.
    """
    count, width = seen_BTK.shape[1:]
    place_K = torch.arange(width, device=text_BK.device)
    at_T = place_K[width - count :]
    first_BT = torch.where(begins_BT, at_T, 0).cummax(1).values[..., None]
    wanted_BTK = (place_K <= at_T[:, None]) & (place_K >= first_BT) & text_BK[:, None]
    real_BT1 = text_BK[:, -count:, None]
    if bool(((seen_BTK != wanted_BTK) & real_BT1).any()):
        raise ConfigError(
            "attention_mask: a token does not see all of its text up to itself, as a router does; "
            "give a 2-D mask, and position_ids for packed texts"
        )
