"""Finds which tokens of a call are real, and at which of them a text begins.

It reads the arguments of the model's call: a padding mask, a 4-D mask, positions. Arguments that it
cannot interpret are refused.

Shape suffixes: B sequences (1 if all are alike), T tokens of the call, K tokens including those in
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
"""Arguments that mark the beginnings of texts in ways that are not supported."""


@dataclass(frozen=True)
class Inputs:
    """One call's tokens; `mask_BK` is False at padding, `begins_BT` True at a text's first token.

    Either is None if the call has no such token.
    """

    tokens: int
    position_BT: Tensor
    mask_BK: Tensor | None = None
    begins_BT: Tensor | None = None

    @classmethod
    def of(cls, tokens: Tensor) -> "Inputs":
        """The inputs for new texts without padding, given as [B, T, ...]."""
        return cls(tokens.shape[1], _on_from(0, tokens))

    @property
    def real(self) -> Tensor | None:
        """Which of the call's own tokens are real, [B, T]."""
        return None if self.mask_BK is None else self.mask_BK[:, -self.tokens :]


def read_inputs(given: Mapping[str, Any], past: Past) -> Inputs:
    """Interpret the arguments `given` of a call that continues `past`.

    Raises `ConfigError` for a call without tokens, and for masks that cannot be interpreted.
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
    """The default positions of a model, [1, T]."""
    count = tokens.shape[1]
    return torch.arange(start, start + count, device=tokens.device)[None]


def _needed(begins_BT: Tensor | None, mask_BK: Tensor | None, past: Past) -> Tensor | None:
    """Where texts begin after others; None if each sequence is one text, which needs no marks."""
    if begins_BT is None:
        return None
    if mask_BK is not None:
        real_BT = mask_BK[:, -begins_BT.shape[1] :]
        begins_BT = begins_BT & real_BT
        if not past.seen:
            begins_BT = begins_BT & (real_BT.cumsum(1) > 1)
    return begins_BT if bool(begins_BT.any()) else None


def restarts(position_BT: Tensor, last_B1: Tensor | None, packed: bool) -> Tensor:
    """Where positions restart, [B, T].

    In `packed` sequences, any step other than 1 begins a text, as in transformers. In others a
    position may be skipped, and a text begins if positions decrease or repeat.
    """
    first_B1 = position_BT[:, :1] - 1 if last_B1 is None else last_B1
    step_BT = torch.diff(position_BT, prepend=first_B1.expand(len(position_BT), 1), dim=1)
    return step_BT != 1 if packed else step_BT < 1


def _only(mask: Any) -> Tensor | None:
    """The mask for full attention, of those that transformers makes for each kind of layer."""
    if isinstance(mask, Mapping):
        if "full_attention" not in mask:
            raise ConfigError("attention_mask: there is none for full attention; give a 2-D mask")
        mask = mask["full_attention"]
    if mask is None or (isinstance(mask, Tensor) and mask.ndim in (2, 4)):
        return mask
    shape = tuple(getattr(mask, "shape", ()))
    raise ConfigError(f"attention_mask of shape {shape}: a mixture reads 2-D and 4-D tensors")


def _padding(mask: Tensor | None, count: int, past: Past) -> Tensor | None:
    """A 2-D mask as bools over all tokens so far, [B, K]."""
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
    """Read a 4-D mask [B, H, T, K]: which tokens are real, and which begin a text.

    A token is padding if it does not see itself. It begins a text if it sees no token before it.
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
    """Which tokens each token sees, bool [B, T, K]."""
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(torch.float16).min / 2
    if not bool((seen == seen[:, :1]).all()):
        raise ConfigError("attention_mask differs from head to head: a router has one text")
    return seen[:, 0]


def _check(seen_BTK: Tensor, text_BK: Tensor, begins_BT: Tensor) -> None:
    """Raise `ConfigError` unless every real token sees its text from the beginning up to itself.

    `text_BK` is True at the call's real tokens and at those of the text that they continue.
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
