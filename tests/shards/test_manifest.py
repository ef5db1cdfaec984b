"""The manifest: read as written or not at all; and the root, which covers what training sees and nothing
else.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from shards.digest import canonical_json, digest
from shards.errors import ShardError
from shards.manifest import (
    Manifest,
    MediaEntry,
    ShardEntry,
    StageEntry,
    read_manifest,
    root_digest,
    stage_digest,
    with_root,
    write_manifest,
)

replace = msgspec.structs.replace


@pytest.fixture
def manifest(tiny_build: Path) -> Manifest:
    return read_manifest(tiny_build)


def test_round_trip(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    first = (tmp_path / "manifest.json").read_bytes()
    write_manifest(tmp_path, manifest)
    assert (tmp_path / "manifest.json").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_reader_in_another_language_can_check_it(tiny_build: Path) -> None:
    """Neither checksum nor root needs this package: json, blake3 and the rules of docs/format.md."""
    data = (tiny_build / "manifest.json").read_bytes()
    document = json.loads(data)
    prefix = b'{"checksum":"' + document["checksum"].encode() + b'","manifest":'
    assert data.startswith(prefix) and data.endswith(b"}")
    assert blake3(data[len(prefix) : -1]).hexdigest() == document["checksum"]
    m = document["manifest"]
    stage_fields = (
        "name",
        "batch",
        "sequence_length",
        "max_tiles",
        "steps",
        "train",
        "digest",
        "steps_digest",
    )
    covered = {field: m[field] for field in ("seed", "geometry", "tokenizer", "template")}
    covered["format"] = 1
    covered["stages"] = [{field: stage[field] for field in stage_fields} for stage in m["stages"]]
    assert digest(canonical_json(covered)) == m["root"]


def test_stage_digest_does_not_see_the_division_into_shards() -> None:
    digests = [blake3(bytes([n])).digest() for n in range(5)]
    assert stage_digest(iter(digests)) == blake3(b"".join(digests)).hexdigest()
    assert stage_digest([]) == blake3(b"").hexdigest()


def change_stage(manifest: Manifest, **fields: Any) -> Manifest:
    return replace(manifest, stages=[replace(manifest.stages[0], **fields), *manifest.stages[1:]])


def test_root_covers_what_training_sees(manifest: Manifest) -> None:
    train = manifest.stages[0].train
    changed = [
        replace(manifest, seed=1),
        replace(manifest, geometry=replace(manifest.geometry, max_tiles=5)),
        replace(manifest, tokenizer="3" * 64),
        replace(manifest, template="3" * 64),
        replace(manifest, stages=manifest.stages[:1]),
        replace(manifest, stages=manifest.stages[::-1]),
        change_stage(manifest, name="other"),
        change_stage(manifest, batch=1),
        change_stage(manifest, sequence_length=1),
        change_stage(manifest, max_tiles=1),
        change_stage(manifest, steps=1),
        change_stage(manifest, digest="3" * 64),
        change_stage(manifest, steps_digest="3" * 64),
        change_stage(manifest, train=replace(train, lr={"projector": 1e-3})),
        change_stage(manifest, train=replace(train, loss="token")),
    ]
    roots = [with_root(other).root for other in changed]
    assert len({manifest.root, *roots}) == len(changed) + 1


def test_root_covers_nothing_else(manifest: Manifest) -> None:
    stage = manifest.stages[0]
    for other in (
        replace(manifest, mixture="renamed"),
        replace(manifest, files={}),
        replace(manifest, media=replace(manifest.media, index="elsewhere")),
        change_stage(manifest, shards=[], packs=0),
        change_stage(manifest, steps_file="elsewhere"),
        change_stage(manifest, sources={}),
        change_stage(manifest, unit="samples"),
        change_stage(manifest, train=replace(stage.train, lr=dict(reversed(stage.train.lr.items())))),
    ):
        assert with_root(other).root == manifest.root


def test_golden_root(manifest: Manifest) -> None:
    """Of the fixture without its packs, whose bytes depend on numpy's generator. A change here is a new
    format.
    """
    assert (
        root_digest(
            seed=manifest.seed,
            geometry=manifest.geometry,
            tokenizer=manifest.tokenizer,
            template=manifest.template,
            stages=[replace(manifest.stages[0], digest="4" * 64, steps_digest="5" * 64)],
        )
        == "74b5777600705605f9bf13c6b6622d891f09efb03784eed4a46e8c53ad44ff4b"
    )


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"manifest\.json: missing: not a build"):
        read_manifest(tmp_path)
    with pytest.raises(ShardError, match=r"manifest\.json: missing: not a build"):
        read_manifest(tmp_path / "nowhere")
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(ShardError, match=r"manifest\.json: not a file"):
        read_manifest(tmp_path)


def test_every_flipped_byte_is_found(build_copy: Path, flipped: Any) -> None:
    path = build_copy / "manifest.json"
    for at in range(path.stat().st_size):
        for mask in (0x01, 0x20):  # 0x20: a letter's case
            with flipped(path, at, mask), pytest.raises(ShardError, match=r"manifest\.json: "):
                read_manifest(build_copy)


def test_every_truncation_is_found(build_copy: Path) -> None:
    path = build_copy / "manifest.json"
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(ShardError, match=r"manifest\.json: not a whole manifest"):
            read_manifest(build_copy)


def seal(body: bytes) -> bytes:
    """A manifest file whose checksum holds, whatever its body."""
    return b'{"checksum":"' + digest(body).encode() + b'","manifest":' + body + b"}"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m | {"format": 3}, "format version 3; this program reads 2: a newer program is needed"),
        (lambda m: m | {"format": 3, "stages": "of another shape"}, "format version 3"),
        (lambda m: m | {"format": 1}, "format version 1; this program reads 2$"),
        (lambda m: m | {"extra": 1}, "unknown field `extra`"),
        (
            lambda m: {key: value for key, value in m.items() if key != "media"},
            "missing required field `media`",
        ),
        (lambda m: m | {"seed": "one"}, r"Expected `int`, got `str` - at `\$\.seed`"),
        (lambda m: m | {"seed": 2}, "its fields give root"),
        (lambda m: [], "not a whole manifest"),
    ],
)
def test_contents_are_checked_behind_a_checksum_that_holds(build_copy: Path, edit: Any, message: str) -> None:
    path = build_copy / "manifest.json"
    document = json.loads(path.read_bytes())["manifest"]
    path.write_bytes(seal(canonical_json(edit(document))))
    with pytest.raises(ShardError, match=message):
        read_manifest(build_copy)


def test_another_encoding_of_the_same_is_refused(build_copy: Path) -> None:
    path = build_copy / "manifest.json"
    good = path.read_bytes()
    document = json.loads(good)
    for data in (
        good + b"\n",
        json.dumps(document).encode(),
        seal(json.dumps(document["manifest"]).encode()),
        good[:-1] + b',"manifest":{}}',
    ):
        path.write_bytes(data)
        with pytest.raises(ShardError, match=r"manifest\.json: "):
            read_manifest(build_copy)


def test_nesting_without_end(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b'{"checksum":"","manifest":' + b"[" * 200_000)
    with pytest.raises(ShardError, match="not a whole manifest"):
        read_manifest(tmp_path)


def first_shard(stage: StageEntry, **fields: Any) -> list[ShardEntry]:
    return [replace(stage.shards[0], **fields), *stage.shards[1:]]


def first_media(media: MediaEntry, **fields: Any) -> MediaEntry:
    return replace(media, shards=[replace(media.shards[0], **fields), *media.shards[1:]])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m, s: change_stage(m, packs=5), "5 packs are not 2 steps of 2"),
        (lambda m, s: change_stage(m, batch=0, packs=0), "0 packs are not"),
        (lambda m, s: change_stage(m, shards=s.shards[:1]), "its shards hold another number"),
        (lambda m, s: change_stage(m, digest="xyz"), "'xyz' is not a digest"),
        (lambda m, s: change_stage(m, steps_file="../steps"), "not the path of a file inside"),
        (lambda m, s: change_stage(m, shards=first_shard(s, name="/etc/passwd")), "not the path"),
        (lambda m, s: change_stage(m, shards=first_shard(s, name="manifest.json")), "not the path"),
        (lambda m, s: change_stage(m, shards=first_shard(s, name=s.steps_file)), "two files have one name"),
        (lambda m, s: change_stage(m, shards=first_shard(s, file="0" * 63)), "is not a digest"),
        (lambda m, s: replace(m, media=first_media(m.media, name="a/../../b")), "not the path"),
        (lambda m, s: replace(m, media=first_media(m.media, images=7)), "media shards do not hold"),
        (lambda m, s: change_stage(m, train=replace(s.train, clip=float("nan"))), "clip"),
    ],
)
def test_contradictions_are_neither_written_nor_read(build_copy: Path, edit: Any, message: str) -> None:
    manifest = read_manifest(build_copy)
    before = (build_copy / "manifest.json").read_bytes()
    wrong = with_root(edit(manifest, manifest.stages[0]))
    with pytest.raises(ShardError, match=message):
        write_manifest(build_copy, wrong)
    assert (build_copy / "manifest.json").read_bytes() == before
    (build_copy / "manifest.json").write_bytes(seal(canonical_json(wrong)))
    with pytest.raises(ShardError, match=message):
        read_manifest(build_copy)


def test_two_stages_of_one_name(tmp_path: Path, manifest: Manifest) -> None:
    one, two = manifest.stages
    with pytest.raises(ShardError, match="two stages have one name"):
        write_manifest(tmp_path, with_root(replace(manifest, stages=[one, replace(two, name=one.name)])))


def test_a_wrong_root_is_not_written(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(ShardError, match="its fields give root"):
        write_manifest(tmp_path, replace(manifest, root="0" * 64))
    assert list(tmp_path.iterdir()) == []
