"""Compiling the loops over integers that NumPy has no words for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def jit(function: Callable[..., Any], *helpers: Callable[..., Any], signature: Any = None) -> Callable[..., Any]:
    """`function` compiled by numba, without the interpreter's lock; `helpers` are the functions that it calls.

    It is compiled for `signature` now, or for the types that it is called with when it is. What was compiled is kept
    beside the source or, where that cannot be written, in the user's cache; where neither can, it is compiled anew in each
    process. To import numba takes a third of a second, so call this only when there is work.
    """
    import numba
    from numba.extending import register_jitable

    for helper in helpers:
        register_jitable(helper)
    compiled: Callable[..., Any]
    try:
        compiled = numba.njit(signature, nogil=True, cache=True)(function)
    except RuntimeError:  # no place for the cache
        compiled = numba.njit(signature, nogil=True)(function)
    return compiled
