"""Settings that earlier versions wrote on every stage, also on kinds that never used them.

A file of such a version reads as it did: a setting that the kind has no use for is passed over.
"""

from collections.abc import Collection, Mapping
from typing import Any

from fedmore.strategies.stages.expert import FOLD

FORMER: Mapping[str, Any] = {
    "rounds": 3, "steps": 10, "batch_size": 4, "sequence_length": 128, "learning_rate": 1e-3,
    "codec": "sign1", "rank_learning_rates": [], "rank_scaling": "constant", "warm_up": "once",
    "round_start": "own", "server_learning_rate": 1.0, "server_momentum": 0.0,
    "fold_tolerance": FOLD, "weight_bits": 0, "download_codec": "bf16", "first_layers": 10,
    "last_layers": 2, "threads": 0, "max_rank": 512, "late_updates": "keep", "staleness_decay": 0.5,
    "aggregation": "mean", "clip_norm": 0.0, "malicious_fraction": 0.2, "max_client_weight": 1.0,
    "max_rms": 0.0,
}  # fmt: skip
"""Every setting that stages of all kinds had, with its default."""

REFUSED = {
    "router": ("weight_bits",),
    "routing": ("weight_bits", "aggregation", "clip_norm", "max_client_weight"),
}
"""Those that a kind without use for them refused, unless they had their default."""


def without_former(table: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """A stage's table without the settings that an earlier version wrote beside the `known`."""
    refused = REFUSED.get(table["kind"], ())
    return {
        name: value
        for name, value in table.items()
        if name in known or not _was_passed_over(name, value, name in refused)
    }


def _was_passed_over(name: str, value: Any, refused: bool) -> bool:
    if name not in FORMER:
        return False
    former = FORMER[name]
    if refused:
        return bool(value == former)
    if isinstance(former, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, type(former)) and not isinstance(value, bool)
