"""What torch.compile leaves alone in a mixture."""

from collections.abc import Callable
from typing import Any

import torch

REASON = "a mixture is compiled in pieces: call torch.compile with fullgraph=False"


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, kept out of compiled graphs: a router's state is of a call, not of a graph.

    To be used where a model is there already: it loads torch's compiler.
    """
    kept: Callable[..., Any] = torch.compiler.disable(  # type: ignore[no-untyped-call]
        function, reason=REASON
    )
    return kept
