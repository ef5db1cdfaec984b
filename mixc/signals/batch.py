"""What a signal's function is called with: some samples of one file, in row order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from mixc.signals.grey import Grey, grey
from mixc.signals.words import Words, split
from mixc.sources.sample import Sample, Scalar, Turn

BATCH_SAMPLES = 1024
BATCH_BYTES = 64 << 20
"""Of a batch at most, but that it has one sample: texts and encoded images."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """N samples. How a file is cut into batches is not fixed: a value may depend on nothing but its own sample."""

    texts: Sequence[str]
    """The supervised text of each: the document, or the assistant's turns with a line break between them."""
    turns: Sequence[Sequence[Turn]]
    """All turns of each, `role` (system, user, assistant) and `text`; none for a document."""
    images: Sequence[Sequence[bytes]]
    """The encoded images of each, which are known to decode."""
    columns: Sequence[Mapping[str, Scalar]]
    """The other scalar columns of each row, by name."""
    rows: Sequence[int]
    """Row numbers in the file."""
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """From the spec."""

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def words(self) -> Words:
        """The texts in words, for all signals of the batch that count them."""
        return split(self.texts)

    @cached_property
    def whole_texts(self) -> list[str]:
        """The document, or all turns with a line break between them: what MinHash and decontamination compare."""
        return [
            "\n".join(turn.text for turn in turns) if turns else text
            for text, turns in zip(self.texts, self.turns, strict=True)
        ]

    @cached_property
    def greys(self) -> list[list[Grey]]:
        """Each image decoded once for all signals that look at its pixels."""
        return [[grey(image) for image in images] for images in self.images]


def batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """The samples in order, cut by BATCH_SAMPLES and BATCH_BYTES."""
    held: list[Sample] = []
    size = 0
    for sample in samples:
        own = _size(sample)
        if held and (len(held) >= BATCH_SAMPLES or size + own > BATCH_BYTES):
            yield held
            held, size = [], 0
        held.append(sample)
        size += own
    if held:
        yield held


def _size(sample: Sample) -> int:
    """About how many bytes: code points count as one."""
    return len(sample.text or "") + sum(len(turn.text) for turn in sample.turns) + sum(map(len, sample.images))


def batch_of(samples: Sequence[Sample]) -> Batch:
    return Batch(
        texts=[supervised_text(sample) for sample in samples],
        turns=[sample.turns for sample in samples],
        images=[sample.images for sample in samples],
        columns=[sample.columns for sample in samples],
        rows=[sample.row for sample in samples],
    )


def supervised_text(sample: Sample) -> str:
    """The document, or the assistant's turns with a line break between them."""
    if sample.text is not None:
        return sample.text
    return "\n".join(turn.text for turn in sample.turns if turn.role == "assistant")
