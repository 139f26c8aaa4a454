"""Keeps parts of a mixture out of torch.compile."""

from collections.abc import Callable
from typing import Any

import torch

REASON = "a mixture is compiled in pieces: call torch.compile with fullgraph=False"


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep `function` out of compiled graphs, because a router's state belongs to a call.

    It loads torch's compiler, so use it only after a model was loaded.
    """
    kept: Callable[..., Any] = torch.compiler.disable(  # type: ignore[no-untyped-call]
        function, reason=REASON
    )
    return kept
