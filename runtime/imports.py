"""The imports of a run: torch, transformers and DeepSpeed, most of what a short run takes."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_NO_COMPILING = "TORCHDYNAMO_DISABLE"
"""Variable that makes torch.compile give back what it is given."""


@contextmanager
def kept() -> Iterator[None]:
    """Imports within make some 400,000 objects that stay until the process ends. Python's collector would go
    through them again and again meanwhile, and later while training; here it rests, and leaves them out for good.

    Only once in a process: afterwards there may be garbage of other work, which must not be kept.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def muon() -> None:
    """Import DeepSpeed's Muon, which nothing here uses. DeepSpeed imports it to ask whether an optimizer is one,
    and it marks functions to be compiled, for which torch imports Inductor: a second. Unmarked, they cost nothing."""
    before = os.environ.get(_NO_COMPILING)
    os.environ[_NO_COMPILING] = "1"
    try:
        with suppress(ImportError):
            import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    finally:
        if before is None:
            del os.environ[_NO_COMPILING]
        else:
            os.environ[_NO_COMPILING] = before
