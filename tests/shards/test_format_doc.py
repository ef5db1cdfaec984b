"""docs/format.md is right: every block of bytes on the page is what the encoder makes of its example."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import zstandard
from blake3 import blake3

from shards.digest import canonical_json, digest, source_key
from shards.manifest import Geometry, TrainSettings, stage_digest
from shards.media import MEDIA_DTYPE, tar_header
from shards.pack import (
    EMPTY_PACK,
    IMAGE_DTYPE,
    SEGMENT_DTYPE,
    SPAN_DTYPE,
    Pack,
    decode_pack,
    encode_pack,
    pack_digest,
)
from shards.seekable import TABLE_ENTRY, SeekableWriter, checksum, encode_seek_table
from shards.steps import step_record
from shards.stored import encode_stored
from shards.vocabulary import encode_vocabulary, rank_table, vocabulary

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text("utf-8")
BLOCKS = {
    (kind, name): text
    for kind, name, text in re.findall(r"^```(hex|digest|json) ([a-z-]+)\n(.*?)^```$", PAGE, re.M | re.S)
}


def documented(name: str) -> bytes:
    """A block of hex, without the comments after `;`."""
    return bytes.fromhex(" ".join(line.partition(";")[0] for line in BLOCKS["hex", name].splitlines()))


IMAGE = b"an image, as it came"
IMAGE_DIGEST = blake3(IMAGE).digest()
PACK = Pack(
    tokens=np.array([151665, 151667, 151667, 151666, 9707, 151645, 785, 3974, 13876, 38835], np.int32),
    segments=np.array(
        [
            (bytes(range(0xA0, 0xB0)), source_key("captions"), 0, 0, 0, 0.5),
            (bytes(range(0xB0, 0xC0)), source_key("prose"), 6, 1, 0, 1.0),
        ],
        SEGMENT_DTYPE,
    ),
    spans=np.array([(4, 6), (7, 10)], SPAN_DTYPE),
    images=np.array([(IMAGE_DIGEST, 1, 1, 1, 0, 0)], IMAGE_DTYPE),
)
DIGESTS = [pack_digest(encode_pack(pack)) for pack in (PACK, EMPTY_PACK)]
STEP = step_record([PACK, EMPTY_PACK]).tobytes()
WORDS = vocabulary(PACK.tokens)
STORED = [
    encode_stored(pack, its, rank_table(WORDS, 1 << 18)[pack.tokens].tobytes(), b"")
    for pack, its in zip((PACK, EMPTY_PACK), DIGESTS, strict=True)
]
FRAMES = [encode_vocabulary(WORDS), *STORED]
SIZES = (48, 194, 58)
"""Of these frames, compressed."""
SEEK_TABLE = encode_seek_table(
    b"".join(
        TABLE_ENTRY.pack(compressed, len(data), checksum(data)) for compressed, data in zip(SIZES, FRAMES, strict=True)
    )
)
ROOT = {
    "format": 1,
    "seed": 20250110,
    "geometry": Geometry(
        name="example",
        tile_size=448,
        tokens_per_tile=2,
        max_tiles=6,
        min_tiles=1,
        thumbnail=True,
        vocab_size=151936,
        image_start_id=151665,
        image_end_id=151666,
        image_context_id=151667,
        pad_id=151643,
    ),
    "tokenizer": "1" * 64,
    "template": "2" * 64,
    "stages": [
        {
            "name": "example",
            "batch": 2,
            "sequence_length": 16,
            "max_tiles": 8,
            "steps": 1,
            "train": TrainSettings(
                lr={"projector": 2e-4},
                schedule="cosine",
                warmup_steps=1,
                min_lr_ratio=0.0,
                weight_decay=0.01,
                betas=(0.9, 0.999),
                eps=1e-8,
                clip=1.0,
                loss="sample",
            ),
            "digest": stage_digest(DIGESTS),
            "steps_digest": digest(STEP),
        }
    ],
}

ENCODED = {
    "pack": encode_pack(PACK),
    "empty-pack": encode_pack(EMPTY_PACK),
    "vocabulary": FRAMES[0],
    "stored-pack": STORED[0],
    "seek-table": SEEK_TABLE,
    "step": STEP,
    "tar-header": tar_header(f"{IMAGE_DIGEST.hex()}.jpg", len(IMAGE)).rstrip(b"\0"),
    "media-record": np.array((IMAGE_DIGEST, 0, 640, 480, 0, 512, len(IMAGE)), MEDIA_DTYPE).tobytes(),
}
DIGESTED = {
    "pack": DIGESTS[0].hex(),
    "empty-pack": DIGESTS[1].hex(),
    "stage": stage_digest(DIGESTS),
    "root": digest(canonical_json(ROOT)),
}


@pytest.mark.parametrize("name", ENCODED)
def test_hex(name: str) -> None:
    assert documented(name).hex(" ", 8) == ENCODED[name].hex(" ", 8)


@pytest.mark.parametrize("name", DIGESTED)
def test_digests(name: str) -> None:
    assert BLOCKS["digest", name].strip() == DIGESTED[name]


def test_no_block_is_left_unchecked() -> None:
    checked = {("hex", name) for name in ENCODED} | {("digest", name) for name in DIGESTED} | {("json", "root")}
    assert set(BLOCKS) == checked
    assert len(re.findall("^```(?:hex|digest|json)", PAGE, re.M)) == len(checked)


def test_root_json() -> None:
    text = BLOCKS["json", "root"].strip().encode()
    assert text == canonical_json(ROOT)
    assert blake3(text).hexdigest() == DIGESTED["root"]


def test_a_reader_written_from_the_page_alone() -> None:
    """The tables, followed by hand with nothing of `shards`, give back the example's content."""
    data = documented("pack")
    n = [int.from_bytes(data[at : at + 4], "little") for at in range(4, 32, 4)]
    assert data[:4] == b"MXP1" and n[0] == 1 and n[5:] == [0, 0]
    tokens, segments, spans, images = n[1:5]
    at = 32
    starts = [int.from_bytes(data[at + 40 * i + 24 :][:4], "little") for i in range(segments)]
    at += 40 * segments
    pairs = [tuple(int.from_bytes(data[at + 8 * i + k :][:4], "little") for k in (0, 4)) for i in range(spans)]
    at += 8 * spans
    assert data[at : at + 32] == blake3(b"an image, as it came").digest()
    at += 40 * images
    lo = [int.from_bytes(data[at + 2 * i :][:2], "little") for i in range(tokens)]
    at += 2 * tokens
    ids = [low + 65536 * high for low, high in zip(lo, data[at:], strict=True)]
    assert ids == PACK.tokens.tolist() == decode_pack(data).tokens.tolist()
    assert starts == [0, 6] and pairs == [(4, 6), (7, 10)]


@pytest.mark.skipif(zstandard.ZSTD_VERSION != (1, 5, 7), reason="the page quotes sizes of zstd 1.5.7")
def test_the_frames_take_the_bytes_that_the_page_says() -> None:
    file = io.BytesIO()
    writer = SeekableWriter(file)
    for frame in FRAMES:
        writer.write_frame(frame)
    writer.close()
    assert file.getvalue()[sum(SIZES) :] == documented("seek-table")


def test_a_stored_pack_read_by_the_page_alone() -> None:
    words, data = documented("vocabulary"), documented("stored-pack")
    entries = int.from_bytes(words[4:8], "little")
    steps = [words[8 + i] + 256 * words[8 + entries + i] + 65536 * words[8 + 2 * entries + i] for i in range(entries)]
    ids, token = [], 0
    for step in steps:
        token = (token + step) % (1 << 24)
        ids.append(token)
    assert data[:4] == b"MXS1" and data[32:64].hex() == BLOCKS["digest", "pack"].strip()
    tokens, segments, spans, images, exceptions = (
        int.from_bytes(data[at : at + 4], "little") for at in range(8, 28, 4)
    )
    tables = 40 * segments + 8 * spans + 40 * images
    assert data[64 : 64 + tables] == documented("pack")[32 : 32 + tables]
    ranks = [int.from_bytes(data[64 + tables + 2 * i :][:2], "little") for i in range(tokens)]
    assert exceptions == 0 and [ids[rank] for rank in ranks] == PACK.tokens.tolist()


def test_canonical_numbers_and_strings_as_the_page_has_them() -> None:
    assert canonical_json([1e16, 1.5e-7, 1e-5, 9999999999999998.0, 0.0, 2.0, 10**20]) == (
        b"[1e16,1.5e-7,0.00001,9999999999999998.0,0.0,2.0,100000000000000000000]"
    )
    assert canonical_json('"\\/\b\t\n\f\r\x00\x1f\x7f\u2028') == (
        '"\\"\\\\/\\b\\t\\n\\f\\r\\u0000\\u001f\x7f\u2028"'.encode()
    )
    assert list(json.loads(canonical_json({"a": 1, "Z": 2, "é": 3, "\U0001f600": 4, "\uffff": 5}))) == [
        "Z",
        "a",
        "é",
        "\uffff",
        "\U0001f600",
    ]
