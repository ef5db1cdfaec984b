"""What computes each signal, and in which version. A version changes whenever a value can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa

from mixc.clean.contamination import CONTAMINATION_VERSION, Benchmark
from mixc.clean.images import PHASH_VERSION, phash
from mixc.clean.minhash import MINHASH_VERSION, signatures
from mixc.clean.shingles import SHINGLE_VERSION
from mixc.signals import text
from mixc.signals.batch import Batch
from mixc.signals.grey import commonest_level, laplacian_variance
from mixc.signals.names import SIGNALS, Described

Settings = Mapping[str, Any]
Function = Callable[[Batch], Any]
"""N values, a sequence or array, of a batch of N."""

_WORDS = f"words {SHINGLE_VERSION}"
"""What a letter, a digit and white space are, Unicode's version included, and which scripts have no spaces."""
_PIXELS = f"pillow {version('pillow')}"
"""And with it the decoders: what pixels an image has."""

FACTS: Mapping[str, Callable[[pa.Table], pa.Array]] = {
    "aspect": lambda facts: _of_images(facts, np.float64, lambda width, height: width / height),
    "min_side": lambda facts: _of_images(facts, np.int64, np.minimum),
}
"""Of facts.parquet alone: no source is read for these."""

FUNCTIONS: Mapping[str, Function] = {
    "words": text.words,
    "repetition": text.duplicate(10),
    **{f"duplicate_{n}gram": text.duplicate(n) for n in range(5, 10)},
    **{f"top_{n}gram": text.top(n) for n in range(2, 5)},
    "duplicate_lines": text.duplicate_lines,
    "language": text.language,
    "language_score": text.language_score,
    "mean_word_length": text.mean_word_length,
    "symbol_ratio": text.symbol_ratio,
    "digit_ratio": text.digit_ratio,
    "alphabetic_ratio": text.alphabetic_ratio,
    "stop_words": text.stop_words,
    "bullet_lines": text.bullet_lines,
    "ellipsis_lines": text.ellipsis_lines,
    "sharpness": lambda batch: [
        min(map(laplacian_variance, greys), default=None)  # the least sharp
        for greys in batch.greys
    ],
    "flatness": lambda batch: [max(map(commonest_level, greys), default=None) for greys in batch.greys],
}

_CLD2 = f"pycld2 {version('pycld2')}"
_OTHER_VERSIONS = {
    "language": f"1, {_CLD2}",
    "language_score": f"1, {_CLD2}",
    "sharpness": f"1, {_PIXELS}",
    "flatness": f"1, {_PIXELS}",
    "aspect": "1",
    "min_side": "1",
}

INTERNAL: Mapping[str, Described] = {
    "minhash": Described("binary", ("turns",), "MinHash signature, for `dedup.minhash` (mixc/clean/minhash.py)."),
    "phash": Described("list<uint64>", ("images",), "Perceptual hash of each image (mixc/clean/images.py)."),
    "contaminated": Described(
        "string", ("turns", "images"), "The first benchmark item that the sample shares something with, or NULL."
    ),
}
"""What `dedup` and `decontaminate` ask for. Not for a spec's `signals`."""

_INTERNAL_VERSIONS = {
    "minhash": MINHASH_VERSION,
    "phash": f"{PHASH_VERSION}, {_PIXELS}",
    "contaminated": f"{CONTAMINATION_VERSION}, {_PIXELS}",
}


def signal_version(name: str) -> str:
    """Of a signal of ours, with the libraries that decide its values."""
    return _INTERNAL_VERSIONS.get(name) or _OTHER_VERSIONS.get(name) or f"1, {_WORDS}"


def described(name: str) -> Described:
    return SIGNALS.get(name) or INTERNAL[name]


def function(name: str, settings: Settings, benchmark: Callable[[], Benchmark]) -> Function:
    """What computes one of our signals from batches. `benchmark` gives the one to compare with."""
    match name:
        case "minhash":
            return lambda batch: signatures(
                batch.whole_texts, ngram=settings["ngram"], permutations=settings["permutations"]
            )
        case "phash":
            return lambda batch: [[phash(image) for image in images] for images in batch.images]
        case "contaminated":
            return lambda batch: benchmark().contaminated(batch.whole_texts, batch.images)
    return FUNCTIONS[name]


def arrow_type(name: str, settings: Settings) -> pa.DataType:
    match described(name).type:
        case "binary":
            return pa.binary(4 * settings["permutations"])  # uint32, little-endian
        case "list<uint64>":
            return pa.list_(pa.uint64())
        case "double":
            return pa.float64()
        case "int64":
            return pa.int64()
        case "bool":
            return pa.bool_()
        case "string":
            return pa.string()


def _of_images(facts: pa.Table, dtype: Any, compute: Callable[[Any, Any], Any]) -> pa.Array:
    """Of the largest image's width and height; NULL for a sample without one."""
    width, height = (facts[name].to_numpy().astype(dtype) for name in ("width", "height"))
    without = height == 0
    return pa.array(compute(width, np.where(without, 1, height)), mask=without)
