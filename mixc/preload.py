"""What worker processes have in common, imported once by the server that they are forked from (mixc/executor.py).

Every worker would otherwise spend seconds on imports and on the tokenizer, and hold a copy of its tables. Nothing here may
start a thread: a fork has none but its own. tests/test_executor.py looks.
"""

from __future__ import annotations

import os
from pathlib import Path

import mixc.cli.main  # every worker runs the main module again
import mixc.emit.step
import mixc.measure.step
import mixc.signals.step  # noqa: F401
from mixc.emit.expand import move
from mixc.executor import WARM_TOKENIZER
from mixc.measure.tokenizer import warm
from mixc.no_pandas import decide_without_pandas
from shards import pack_kernel

decide_without_pandas()
for compiled in (pack_kernel.fault, pack_kernel.count, pack_kernel.split, move):
    compiled()
if wanted := os.environ.get(WARM_TOKENIZER):
    kind, _, path = wanted.partition(" ")
    warm(Path(path), fast=kind == "fast")
