"""docs/tokens.md: each worked example is what the code makes of the sample above it.

Run as a program, this writes the examples again: `python tests/measure/test_tokens_page.py CACHE`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import msgspec
import numpy as np

from mixc.emit.expand import Assembly
from mixc.emit.placements import Placements
from mixc.measure.facts import RECORD_IMAGE
from mixc.measure.family import FAMILIES, geometry
from mixc.measure.image import MAX_PIXELS
from mixc.measure.records import Records, encode
from mixc.measure.template import TEMPLATES, Tokens, template_named, tokenize
from mixc.measure.tiles import grid, image_tokens
from mixc.measure.tokenizer import Tokenizer, load_tokenizer
from mixc.sources.sample import Role, Sample, Turn
from mixc.spec.schema import Spec
from shards.manifest import Geometry

PAGE = Path(__file__).parents[2] / "docs" / "tokens.md"
EXAMPLE = re.compile(r"```json sample\n(.*?)```\n\n```text tokens\n(.*?)```", re.S)


class Written(msgspec.Struct, forbid_unknown_fields=True):
    """A sample as the page writes it."""

    text: str | None = None
    turns: list[tuple[Role, str]] = []
    images: list[tuple[int, int]] = []
    """Width and height."""
    model: str = "sail-vl-2b"
    """Whose template; the page says nothing of it where all models have the same."""


def render(sample: str, tokenizer: Tokenizer, shape: Geometry) -> str:
    """One line a token: its position, its id, `*` when supervised, its text. The inside of an image is left out."""
    written = msgspec.json.decode(sample, type=Written)
    made = Sample(
        row=0,
        text=written.text,
        turns=tuple(Turn(role, text) for role, text in written.turns),
        images=(b"",) * len(written.images),
    )
    segments = template_named("univl-chat", think=FAMILIES[written.model].think).segments(made)
    (tokens,) = tokenize([segments], tokenizer.encode_plain, tokenizer.special)
    records = np.zeros(len(written.images), RECORD_IMAGE)
    for record, position, size in zip(records, tokens.images, written.images, strict=True):
        record["position"] = position
        record["cols"], record["rows"], record["thumbnail"] = grid(*size, shape)
    ids, supervised = expanded(tokens, records, shape)
    lines = []
    for position, id in enumerate(ids):
        if id == shape.image_context_id and ids[position - 1] == id == ids[position + 1]:
            if ids[position - 2] != id:
                lines.append("   ...")
            continue
        text = tokenizer.decode([id]).replace("\n", "\\n").replace(" ", "␣")
        lines.append(f"{position:6} {id:7} {'*' if position in supervised else ' '} {text}")
    return "\n".join([*lines, f"{len(ids)} tokens, {len(supervised)} supervised\n"])


def expanded(tokens: Tokens, images: np.ndarray, shape: Geometry) -> tuple[list[int], set[int]]:
    """The tokens of a sample as they stand in a pack, and the positions that are supervised."""
    words, lengths = encode(
        Records(
            tokens=tokens.ids,
            token_ends=np.array([len(tokens.ids)]),
            spans=tokens.spans,
            span_ends=np.array([len(tokens.spans)]),
            images=images,
            image_ends=np.array([len(images)]),
        )
    )
    tiles = int((images["cols"].astype(int) * images["rows"] + images["thumbnail"]).sum())
    length = len(tokens.ids) - len(images) + tiles * shape.tokens_per_tile
    whole = {"piece_end": length, "tokens": length, "images": len(images), "tiles": tiles, "length": lengths[0]}
    columns = {field.name: np.array([whole.get(field.name, 0)]) for field in fields(Placements)}
    assembly = Assembly(
        Placements(**columns | {"id": np.zeros(1, "V16")}),
        first=0,
        last=1,
        tokens_per_tile=shape.tokens_per_tile,
        image_context_id=shape.image_context_id,
    )
    assembly.add(words, np.array([0]))
    pack = assembly.packs()[0]
    return pack.tokens.tolist(), {i for start, end in pack.spans.tolist() for i in range(start, end)}


def rewritten(page: str, make: Callable[[str], str]) -> str:
    return EXAMPLE.sub(lambda one: f"```json sample\n{one[1]}```\n\n```text tokens\n{make(one[1])}```", page)


def test_the_examples_are_true(tokenizer: Tokenizer, shape: Geometry) -> None:
    page = PAGE.read_text()
    assert len(EXAMPLE.findall(page)) == page.count("```json sample") == 6
    assert rewritten(page, lambda sample: render(sample, tokenizer, shape)) == page


def test_the_figures_are_true(tokenizer: Tokenizer, shape: Geometry) -> None:
    page = PAGE.read_text()
    table = re.findall(r"^\| (\d+) x (\d+) \| (\d+) x (\d+) \| (\d+) \| ([\d,]+) \|$", page, re.M)
    assert len(table) >= 6
    for width, height, cols, rows, tiles, tokens in table:
        found = grid(int(width), int(height), shape)
        assert (found.cols, found.rows, found.tiles) == (int(cols), int(rows), int(tiles))
        assert image_tokens(found, shape) == int(tokens.replace(",", ""))
    models = re.findall(r"^\| `([\w.-]+)` \| (\d+) \| ([\d,]+) \| (\S+) \|$", page, re.M)
    expected = [(n, str(f.max_tiles), f"{f.vocab_size:,}", f.tokenizer) for n, f in FAMILIES.items()]
    assert models == expected
    assert f"{MAX_PIXELS:,} pixels" in page
    assert TEMPLATES["univl-chat"].system in page


if __name__ == "__main__":
    qwen = load_tokenizer("qwen2.5", base=Path(), cache=Path(sys.argv[1]))
    spec = {"mixture": "m", "seed": 1, "model": "sail-vl-2b", "sources": {}, "stages": []}
    figures = geometry(msgspec.convert(spec, Spec), qwen)
    PAGE.write_text(rewritten(PAGE.read_text(), lambda sample: render(sample, qwen, figures)))
