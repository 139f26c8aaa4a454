"""Settings of stages that many tests share."""

from typing import Any

OWN_FACTORS: dict[str, Any] = {
    "round_start": "own", "server_learning_rate": 1.0, "server_momentum": 0.0,
}  # fmt: skip
"""Owners go on with their own factors, and the weighted mean of their changes is the step."""
