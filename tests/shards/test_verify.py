"""`verify` is silent about a good build and names the file of whatever is wrong with another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from blake3 import blake3

from shards.digest import digest_file
from shards.manifest import (
    Manifest,
    ShardEntry,
    StageEntry,
    read_manifest,
    stage_digest,
    with_root,
    write_manifest,
)
from shards.media import MEDIA_DTYPE, tar_header
from shards.pack import Pack
from shards.steps import STEP_DTYPE
from shards.tokens import TokenShard, write_token_shard
from shards.verify import Problem, verify
from tests.columns import columns

replace = msgspec.structs.replace


def said(problems: list[Problem]) -> str:
    return "\n".join(str(problem) for problem in problems)


def files(problems: list[Problem]) -> set[str]:
    return {problem.file for problem in problems}


def test_a_good_build(tiny_build: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    assert verify(tiny_build, progress=lambda *call: calls.append(call)) == []
    total = sum(path.stat().st_size for path in tiny_build.rglob("*") if path.is_file())
    total -= (tiny_build / "manifest.json").stat().st_size
    assert calls[-1][1:] == (total, total)
    assert [read for _, read, _ in calls] == sorted(read for _, read, _ in calls)


def test_a_build_may_stand_anywhere_and_move(build_copy: Path, tmp_path: Path) -> None:
    moved = shutil.move(build_copy, tmp_path / "elsewhere")
    assert verify(Path(moved)) == []


def test_no_build_at_all(tmp_path: Path) -> None:
    assert said(verify(tmp_path)) == "manifest.json: missing: not a build, or one that was never finished"


def test_missing_and_extra_files(build_copy: Path) -> None:
    names = [p.relative_to(build_copy).as_posix() for p in build_copy.rglob("*") if p.is_file()]
    for name in names:
        hidden = (build_copy / name).rename(build_copy.parent / "hidden")
        problems = verify(build_copy)
        assert Problem(name, "missing") in problems or (name == "manifest.json" and files(problems) == {name})
        hidden.rename(build_copy / name)
    (build_copy / "tokens" / ".00000.tokens.zst.1f.partial").write_bytes(b"")
    (build_copy / "notes.txt").write_text("mine")
    assert verify(build_copy) == [
        Problem("notes.txt", "not named in the manifest"),
        Problem("tokens/.00000.tokens.zst.1f.partial", "not named in the manifest"),
    ]


# What follows are builds that contradict themselves though every file is as its manifest says.


def seal(build: Path, manifest: Manifest) -> None:
    """Write `manifest` with the digests and sizes of the files as they are now."""

    def shard(entry: ShardEntry) -> ShardEntry:
        path = build / entry.name
        return replace(entry, bytes=path.stat().st_size, file=digest_file(path))

    stages = [
        replace(
            stage,
            steps_digest=digest_file(build / stage.steps_file),
            shards=[shard(entry) for entry in stage.shards],
        )
        for stage in manifest.stages
    ]
    media = replace(
        manifest.media,
        index_file=digest_file(build / manifest.media.index),
        shards=[
            replace(entry, bytes=(build / entry.name).stat().st_size, file=digest_file(build / entry.name))
            for entry in manifest.media.shards
        ],
    )
    write_manifest(build, with_root(replace(manifest, stages=stages, media=media)))


def rewrite_pack(build: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the first pack of the build and set right all digests over it, up to the root."""
    manifest = read_manifest(build)
    stage = manifest.stages[0]
    readers = [TokenShard(build, entry) for entry in stage.shards]
    packs = [[reader.pack(i) for i in range(len(reader))] for reader in readers]
    first = packs[0][0]
    fields = {name: getattr(first, name).copy() for name in ("tokens", "segments", "spans", "images")}
    edit(fields)
    packs[0][0] = Pack(**fields)
    written = [
        write_token_shard(build, entry.name, columns(own)) for entry, own in zip(stage.shards, packs, strict=True)
    ]
    stage = replace(
        stage,
        shards=[entry for entry, _ in written],
        digest=stage_digest(digests for _, digests in written),
    )
    seal(build, replace(manifest, stages=[stage, *manifest.stages[1:]]))


def set_tokens(at: int, value: int) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields["tokens"].__setitem__(at, value)


def set_image(field: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields["images"][0].__setitem__(field, value)


def lengthen(fields: dict[str, Any]) -> None:
    fields["tokens"] = np.concatenate([fields["tokens"], np.full(200, 5, np.int32)])


def no_images(fields: dict[str, Any]) -> None:
    fields["images"] = fields["images"][:0]


def split_at_the_image(fields: dict[str, Any]) -> None:
    """A segment boundary in the middle of the first image's run."""
    fields["segments"] = np.insert(fields["segments"], 1, fields["segments"][0])
    fields["segments"]["start"][1] = fields["images"]["start"][0] + 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_tokens(0, 70_000), "token id 70000 is not below"),
        (set_tokens(0, 69_002), "image context tokens are not where"),
        (set_tokens(1, 5), "do not stand between start and end token"),
        (set_tokens(6, 5), "do not stand between start and end token"),
        (lengthen, "tokens, more than the stage's 128"),
        (no_images, "image context tokens are not where"),
        (split_at_the_image, "do not stand between start and end token of one sample"),
        (set_image("cols", 5), "a grid of 5 tiles, not 1 to 4"),
        (set_image("cols", 200), "more than the stage's 12"),
        (set_image("cols", 2), "a thumbnail where the model has none"),
        (set_image("start", 4), "do not stand between"),
        (set_image("digest", b"\0" * 32), f"image {'00' * 32}: not in the media index"),
    ],
)
def test_a_pack_that_breaks_a_rule_of_its_stage(build_copy: Path, edit: Any, message: str) -> None:
    rewrite_pack(build_copy, edit)
    problems = verify(build_copy)
    assert any(
        p.file == "tokens/align/00000.tokens.zst" and p.what.startswith("pack 0: ") and message in p.what
        for p in problems
    ), said(problems)


def test_a_source_without_a_name(build_copy: Path) -> None:
    rewrite_pack(build_copy, lambda fields: fields["segments"][0].__setitem__("source", 77))
    problems = said(verify(build_copy))
    assert "samples of a source without a name: 0x000000000000004d" in problems
    assert "captions: packs hold" in problems


def test_a_weight_that_the_steps_do_not_have(build_copy: Path) -> None:
    rewrite_pack(build_copy, lambda fields: fields["segments"][0].__setitem__("weight", 3.0))
    assert verify(build_copy) == [Problem("tokens/align/steps", "step 0: denominator: not what its packs give")]


@pytest.mark.parametrize("field", STEP_DTYPE.names)
def test_steps_are_recomputed(build_copy: Path, field: str) -> None:
    path = build_copy / "tokens/align/steps"
    steps = np.fromfile(path, STEP_DTYPE)
    raw = bytearray(steps[1:2].tobytes())
    raw[STEP_DTYPE.fields[field][1]] ^= 1  # the last bit of a float64, too
    path.write_bytes(steps[:1].tobytes() + bytes(raw))
    seal(build_copy, read_manifest(build_copy))
    assert verify(build_copy) == [Problem("tokens/align/steps", f"step 1: {field}: not what its packs give")]


COUNTS = ("samples", "tokens", "supervised_tokens", "images", "tiles")


@pytest.mark.parametrize("field", COUNTS)
def test_counts_are_recomputed(build_copy: Path, field: str) -> None:
    manifest = read_manifest(build_copy)
    stage: StageEntry = manifest.stages[0]
    count = getattr(stage, field)
    share = stage.sources["prose"]
    shared = getattr(share, field)
    sources = stage.sources | {"prose": replace(share, **{field: shared + 2})}
    wrong = replace(stage, sources=sources, **{field: count + 1})
    write_manifest(build_copy, with_root(replace(manifest, stages=[wrong, manifest.stages[1]])))
    assert verify(build_copy) == [
        Problem("manifest.json", f"stage align: packs hold {count} {field}, not {count + 1}"),
        Problem("manifest.json", f"stage align: prose: packs hold {shared} {field}, not {shared + 2}"),
    ]


def test_the_bytes_of_images_are_added_up(build_copy: Path) -> None:
    manifest = read_manifest(build_copy)
    right = manifest.media.bytes
    write_manifest(build_copy, replace(manifest, media=replace(manifest.media, bytes=right + 1)))
    assert verify(build_copy) == [Problem("media/index", f"{right} bytes of images, the manifest says {right + 1}")]


def test_the_chain_of_digests(build_copy: Path) -> None:
    manifest = read_manifest(build_copy)
    stage = manifest.stages[0]
    shard = replace(stage.shards[0], digest="0" * 64)
    wrong = replace(stage, digest="1" * 64, shards=[shard, stage.shards[1]])
    write_manifest(build_copy, with_root(replace(manifest, stages=[wrong, manifest.stages[1]])))
    assert verify(build_copy) == [
        Problem(shard.name, f"packs give digest {stage.shards[0].digest}, the manifest says {'0' * 64}"),
        Problem("manifest.json", f"stage align: packs give {stage.digest}, not {'1' * 64}"),
    ]


def test_packs_in_another_order(build_copy: Path) -> None:
    """Swapping two shards of one stage keeps every file and every pack, and is another training run."""
    manifest = read_manifest(build_copy)
    stage = manifest.stages[0]
    one, two = (build_copy / entry.name for entry in stage.shards)
    one.rename(build_copy / "swap")
    two.rename(one)
    (build_copy / "swap").rename(two)
    entries = [
        replace(entry, name=name)
        for entry, name in zip(stage.shards[::-1], (e.name for e in stage.shards), strict=True)
    ]
    write_manifest(
        build_copy,
        with_root(replace(manifest, stages=[replace(stage, shards=entries), manifest.stages[1]])),
    )
    assert "stage align: packs give" in said(verify(build_copy))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shard", 7, "no media shard has it there"),
        ("offset", 0, "no media shard has it there"),
        ("size", 1, "no media shard has it there"),
        ("width", 0, "no width, no height"),
        ("height", 0, "no width, no height"),
        ("reserved", 1, "reserved bytes that are not 0"),
        ("digest", b"\0" * 32, "no pack uses it"),
        ("digest", b"\xff" * 32, "out of order"),
    ],
)
def test_the_index_is_checked_in_both_directions(build_copy: Path, field: str, value: object, message: str) -> None:
    path = build_copy / "media/index"
    index = np.fromfile(path, MEDIA_DTYPE)
    index[0][field] = value
    path.write_bytes(index.tobytes())
    manifest = read_manifest(build_copy)
    media = replace(manifest.media, bytes=int(index["size"].sum()))
    seal(build_copy, replace(manifest, media=media))
    problems = verify(build_copy)
    assert any(p.file == "media/index" and message in p.what for p in problems), said(problems)


def test_an_image_that_no_pack_uses(build_copy: Path) -> None:
    rewrite_pack(build_copy, lambda fields: fields["images"][1].__setitem__("digest", fields["images"][0]["digest"]))
    manifest = read_manifest(build_copy)  # image 1 is also in the last stage: take that away
    write_manifest(build_copy, with_root(replace(manifest, stages=manifest.stages[:1])))
    shutil.rmtree(build_copy / "tokens/sft")
    unused = [p.what for p in verify(build_copy) if p.file == "media/index"]
    assert len(unused) == 2 and all("no pack uses it" in what for what in unused)


def tar_edit(build: Path, edit: Callable[[bytearray], bytearray]) -> list[Problem]:
    path = build / "media/00000.tar"
    path.write_bytes(edit(bytearray(path.read_bytes())))
    seal(build, read_manifest(build))
    return verify(build)


def test_tar_headers_are_those_of_the_format(build_copy: Path) -> None:
    def own(tar: bytearray) -> bytearray:
        """A valid header with an owner in it: harmless to read, but no byte of a build may vary."""
        name = tar[:100].rstrip(b"\0").decode()
        header = bytearray(tar_header(name, int(tar[124:135], 8)))
        header[265:269] = b"root"
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return header + tar[512:]

    problems = tar_edit(build_copy, own)
    assert Problem("media/00000.tar", "byte 0: not a tar header as this format writes it") in problems


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tar: tar[:-512], "not one more block of zeros and the end"),
        (lambda tar: tar[:-1024], "truncated"),
        (lambda tar: tar + bytes(512), "not one more block of zeros and the end"),
        (lambda tar: tar[:-1] + b"\1", "not one more block of zeros and the end"),
        (lambda tar: tar[:512] + b"\0" + tar[513:], "its bytes have blake3"),
        (lambda tar: tar[:1023] + b"\1" + tar[1024:], "its padding is not zeros"),
        (lambda tar: tar[1024:], "2 images, the manifest says 3"),
        (lambda tar: tar[:1024] + tar, "the index has it elsewhere"),
    ],
)
def test_tars_are_walked(build_copy: Path, edit: Any, message: str) -> None:
    problems = tar_edit(build_copy, edit)
    assert any(p.file == "media/00000.tar" and message in p.what for p in problems), said(problems)


def test_an_image_that_the_index_lacks(build_copy: Path) -> None:
    data = b"extra"
    extra = tar_header(f"{blake3(data).hexdigest()}.png", len(data)) + data + bytes(507)
    problems = tar_edit(build_copy, lambda tar: tar[:-1024] + extra + tar[-1024:])
    assert Problem("media/00000.tar", f"image {blake3(data).hexdigest()}: not in the index") in problems
    assert Problem("media/00000.tar", "4 images, the manifest says 3") in problems
