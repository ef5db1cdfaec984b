"""Compiling the loops over integers that NumPy has no words for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def jit(function: Callable[..., Any], *helpers: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled by numba, without the interpreter's lock; `helpers` are the functions that it calls.

    What was compiled is kept beside the source or, where that cannot be written, in the user's cache; where neither can,
    it is compiled anew in each process. To import numba takes a third of a second, so call this only when there is work.
    """
    import numba
    from numba.extending import register_jitable

    for helper in helpers:
        register_jitable(helper)
    compiled: Callable[..., Any]
    try:
        compiled = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no place for the cache
        compiled = numba.njit(nogil=True)(function)
    return compiled
