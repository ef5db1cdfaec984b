"""Integer kernels: plain Python in a small plan, compiled by numba in a large one; one code and one result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from shards.jit import jit


class Kernel:
    """A function of integers and int64 arrays [N]. The last array is its output; others may be its scratch.

    Written with loops over scalars and integer arithmetic that stays below 2^63, so that it does the same on
    lists of Python's integers as compiled. To import numba and load a compiled function takes about half a
    second, to compile it several, so a kernel starts plain and is compiled once it is asked for more than
    that is worth.
    """

    def __init__(self, function: Callable[..., Any], *helpers: Callable[..., Any], plain: int) -> None:
        """`helpers` are the functions that it calls. `plain`: the work it may do, over all calls, uncompiled."""
        self.function = function
        self.helpers = helpers
        self.plain = plain
        self._done = 0
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any, work: int) -> Any:
        """The function's result. `work`: how much there is to do, in the units of `plain`."""
        self._done += work
        if self._done > self.plain:
            return self.compiled(*arguments)
        lists = [a.tolist() if isinstance(a, np.ndarray) else a for a in arguments]
        result = self.function(*lists)
        arguments[-1][:] = lists[-1]
        return result

    @property
    def compiled(self) -> Callable[..., Any]:
        if self._compiled is None:
            self._compiled = jit(self.function, *self.helpers)
        return self._compiled
