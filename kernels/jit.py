"""Compiles loops with numba and Triton, and runs them in threads.

numba's own threads are not used. Its work queue, the only layer in every wheel, aborts the process
when two Python threads enter it at once, and the local engine's clients are threads. Instead, loops
release the GIL and a thread pool calls them on chunks. A chunk's result does not depend on the
thread, so any number of threads gives the same bits.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Loop = TypeVar("Loop", bound=Callable[..., Any])


def njit(loop: Loop, inline: str = "never") -> Loop:
    """Compile `loop` at its first call: IEEE arithmetic, no GIL, no bounds checks, cached on disk.

    The cache is `__pycache__` beside the source or, if that is read-only, the user's cache folder
    (`NUMBA_CACHE_DIR` names another). If no folder can be written to, nothing is cached.
    """
    import numba

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "inline": inline}
    try:
        compiled: Loop = numba.njit(cache=True, **options)(loop)
    except RuntimeError:  # "no locator available": a read-only system without a home
        compiled = numba.njit(**options)(loop)
    return compiled


def inlined(loop: Loop) -> Loop:
    """`njit` for a helper that is inlined into its caller: a call with arrays costs too much."""
    return njit(loop, inline="always")


def intrinsic(emitter: Callable[..., Any]) -> Callable[..., Any]:
    """`numba.extending.intrinsic` with types: a function that writes its own LLVM code."""
    from numba.extending import intrinsic as make

    made: Callable[..., Any] = make(emitter)
    return made


def triton_jit(kernel: Callable[..., Any]) -> Any:
    """`triton.jit` with types; launch a kernel as ``kernel[grid](...)``."""
    import triton

    return triton.jit(kernel)


class _Pool:
    """A thread pool for the life of the process, made at first use and anew after a fork."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.size = 0
        self.threads: ThreadPoolExecutor | None = None

    def get(self, size: int) -> ThreadPoolExecutor:
        with self.lock:
            if self.threads is None or size > self.size:
                self.threads = ThreadPoolExecutor(size, "fedmore-kernels")
                self.size = size
            return self.threads


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.__init__)  # type: ignore[misc]


def in_chunks(work: Callable[[int, int], None], count: int, chunk: int) -> None:
    """Call ``work(start, stop)`` for every `chunk` of `count`, in torch's number of threads.

    The order is not defined. The first exception is raised after all chunks are done.
    """
    starts = range(0, count, chunk)
    threads, todo = min(torch.get_num_threads(), len(starts)), iter(starts)

    def some() -> None:
        for start in todo:  # shared, so a slow thread takes fewer; the GIL guards the iterator
            work(start, min(start + chunk, count))

    if threads <= 1:
        return some()
    others = [_pool.get(threads - 1).submit(some) for _ in range(1, threads)]
    try:
        some()
    finally:
        errors = [other.exception() for other in others]
    for error in errors:
        if error is not None:
            raise error
    return None
