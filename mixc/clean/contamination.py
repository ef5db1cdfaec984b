"""Whether a sample shares something with a benchmark: a run of words, or an image.

After GPT-3 (Brown et al., arXiv:2005.14165, appendix C), whose n-grams have 8 to 13 words, by how long a benchmark's
texts are: here 13, of a text of 8 to 12 words all of it, and of a shorter one nothing, for that would be chance. Words
are those of shingles.py. One shared n-gram is enough; GPT-3 cut 200 characters around it, we drop the sample, as
Datatrove's n-gram decontamination does: a training example with a hole is none.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from mixc.clean.images import NO_HASH, PHASH_VERSION, phash
from mixc.clean.shingles import SHINGLE_VERSION, shingles

U64 = npt.NDArray[np.uint64]
Int = npt.NDArray[np.int64]

CONTAMINATION_VERSION = f"1.{SHINGLE_VERSION}.{PHASH_VERSION}"
"""Changes whenever a verdict can."""
SHORTEST = 8
"""Words of the shortest text that counts (GPT-3's bound)."""
_FILTER_BITS = 22
_MAGIC = b"mixc benchmark 1\n"


class Benchmark:
    """The n-grams and images of benchmark items, each item under a name for people.

    `ngrams`: by number of words, hashes uint64 [G], sorted, distinct, and the item of each, int64 [G]. `hashes` uint64
    [H] are the images' perceptual hashes, `hash_items` int64 [H] theirs, `hash_bits` how many bits may differ.
    """

    def __init__(
        self,
        items: Sequence[str],
        ngrams: dict[int, tuple[U64, Int]],
        hashes: U64,
        hash_items: Int,
        hash_bits: int | None,
    ) -> None:
        self.items = list(items)
        self.ngrams = ngrams
        self.hashes, self.hash_items, self.hash_bits = hashes, hash_items, hash_bits
        self._filters = {words: _filter(grams) for words, (grams, _) in ngrams.items()}

    @classmethod
    def of(
        cls, items: Iterable[tuple[str, Sequence[str], Sequence[bytes]]], *, ngram: int | None, phash_bits: int | None
    ) -> Benchmark:
        """From (name, texts, images) of each item. Images must be decodable. Items of equal content count as the first.

        The result is a function of the items in their order.
        """
        names: list[str] = []
        texts: list[str] = []
        text_items: list[int] = []
        hashes: list[int] = []
        hash_items: list[int] = []
        for number, (name, own, images) in enumerate(items):
            names.append(name)
            if ngram is not None:
                texts += own
                text_items += [number] * len(own)
            if phash_bits is not None:
                found = [value for image in images if (value := phash(image)) != NO_HASH]
                hashes += found
                hash_items += [number] * len(found)
        ngrams: dict[int, tuple[U64, Int]] = {}
        if ngram is not None and texts:
            words = _word_counts(texts)
            of = np.array(text_items, np.int64)
            for size in sorted({min(ngram, int(count)) for count in words if count >= min(SHORTEST, ngram)}):
                here = words >= ngram if size == ngram else words == size
                ngrams[size] = _grams([texts[i] for i in np.flatnonzero(here)], of[here], size)
        order = np.argsort(np.array(hashes, np.uint64), kind="stable")
        return cls(
            names,
            ngrams,
            np.array(hashes, np.uint64)[order],
            np.array(hash_items, np.int64)[order],
            phash_bits,
        )

    @property
    def digest(self) -> str:
        """blake3 over all of it, in hex."""
        return blake3(self._encoded()).hexdigest()

    def contaminated(self, texts: Sequence[str], images: Sequence[Sequence[bytes]]) -> list[str | None]:
        """For each sample, given by its text and its encoded images, the first item that it shares something with."""
        first = np.full(len(texts), len(self.items), np.int64)
        for size, (grams, owners) in self.ngrams.items():
            found, ends = shingles(texts, ngram=size)
            # A text of fewer words has one shingle too, of all of them: it equals none of `size` words.
            candidates = np.flatnonzero(self._filters[size][found >> np.uint64(64 - _FILTER_BITS)])
            at = np.searchsorted(grams, found[candidates])
            at[at == len(grams)] = 0
            hit = grams[at] == found[candidates] if len(grams) else np.zeros(len(candidates), bool)
            samples = np.searchsorted(ends, candidates[hit], side="right")
            np.minimum.at(first, samples, owners[at[hit]])
        if self.hash_bits is not None and len(self.hashes):
            for sample, own in enumerate(images):
                for image in own:
                    first[sample] = min(int(first[sample]), self._image(phash(image)))
        return [self.items[i] if i < len(self.items) else None for i in first.tolist()]

    def _image(self, value: int) -> int:
        """The first item with an image whose hash is near; the number of items without one."""
        if value == NO_HASH:
            return len(self.items)
        different = np.bitwise_count(self.hashes ^ np.uint64(value))
        near = self.hash_items[different <= self.hash_bits]
        return int(near.min()) if len(near) else len(self.items)

    def save(self, path: Path) -> None:
        path.write_bytes(self._encoded())

    @classmethod
    def load(cls, path: Path) -> Benchmark:
        """What `save` wrote. ValueError for anything else."""
        data = path.read_bytes()
        if not data.startswith(_MAGIC):
            raise ValueError("this is not a saved benchmark")
        try:
            with np.load(io.BytesIO(data[len(_MAGIC) :]), allow_pickle=False) as arrays:
                names = arrays["names"].tobytes().decode().split("\0")[:-1]
                sizes = arrays["sizes"].tolist()
                ngrams = {size: (arrays[f"grams{size}"], arrays[f"owners{size}"]) for size in sizes}
                bits = int(arrays["bits"])
                return cls(names, ngrams, arrays["hashes"], arrays["hash_items"], None if bits < 0 else bits)
        except (KeyError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"this saved benchmark is damaged: {error}") from None

    def _encoded(self) -> bytes:
        arrays: dict[str, Any] = {
            "names": np.frombuffer("".join(name.replace("\0", "?") + "\0" for name in self.items).encode(), np.uint8),
            "sizes": np.array(sorted(self.ngrams), np.int64),
            "bits": np.array(-1 if self.hash_bits is None else self.hash_bits, np.int64),
            "hashes": self.hashes,
            "hash_items": self.hash_items,
        }
        for size in sorted(self.ngrams):
            arrays[f"grams{size}"], arrays[f"owners{size}"] = self.ngrams[size]
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # members of a fixed date, uncompressed: equal arrays give equal bytes
        return _MAGIC + buffer.getvalue()


def _word_counts(texts: Sequence[str]) -> Int:
    """Words of each text, int64 [N]."""
    _, ends = shingles(texts, ngram=1)
    return np.diff(np.concatenate([[0], ends]))


def _grams(texts: Sequence[str], items: Int, size: int) -> tuple[U64, Int]:
    found, ends = shingles(texts, ngram=size)
    of = np.repeat(items, np.diff(np.concatenate([[0], ends])))
    order = np.lexsort([of, found])
    grams, first = np.unique(found[order], return_index=True)
    return grams, of[order][first]


def _filter(grams: U64) -> npt.NDArray[np.bool_]:
    """Which upper bits any of the grams has: most shingles are told apart by one look."""
    table = np.zeros(1 << _FILTER_BITS, bool)
    table[grams >> np.uint64(64 - _FILTER_BITS)] = True
    return table
