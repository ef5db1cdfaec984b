"""Read a whole build and say what is wrong with it.

Everything is recomputed from the bytes: each file's digest, each pack's rules and digest, the chain from
packs through shards and stages to the root, each step's record, each stage's and source's counts, each
image's digest, each tar header, the index in both directions. A flipped byte anywhere is named with its file,
and with the pack or image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from shards.digest import DIGEST_BYTES, source_key
from shards.errors import ShardError
from shards.files import named_files, unnamed_files
from shards.handles import PositionalFile
from shards.layout import MANIFEST, inside
from shards.manifest import Manifest, MediaShardEntry, ShardEntry, StageEntry, read_manifest
from shards.media import BLOCK, END, MAX_IMAGE_BYTES, MediaReader, padding, tar_header
from shards.pack import Pack, encode_pack, pack_digest
from shards.rules import Counts, add_counts, pack_faults
from shards.seekable import SeekableReader
from shards.steps import STEP_DTYPE, read_steps, step_record
from shards.stored import decode_stored
from shards.vocabulary import decode_vocabulary, token_table

Progress = Callable[[str, int, int], None]
"""Called as progress(file, bytes read, bytes to read); both count the whole build."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    file: str
    """Relative to the build."""
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def verify(path: Path, *, progress: Progress | None = None) -> list[Problem]:
    """Everything that is wrong with the build in folder `path`; an empty list when it is as written.

    Reads every file, and holds in memory one image, the packs of one step, 64 bytes a step and two an image.
    A fault of the build never raises. Without a manifest that can be trusted, nothing else is looked at.
    """
    try:
        manifest = read_manifest(path)
    except ShardError as error:
        return [Problem(MANIFEST, _without(path / MANIFEST, error))]
    verifier = _Verifier(path, manifest, progress)
    verifier.run()
    return list(verifier.problems)


class _Verifier:
    def __init__(self, path: Path, manifest: Manifest, progress: Progress | None) -> None:
        self.path = path
        self.manifest = manifest
        self.problems: dict[Problem, None] = {}  # a set in order: two checks can find the same
        self.expected = named_files(manifest)
        self._progress = progress
        self._read = 0
        self._total = sum(size for size, _ in self.expected.values())

    def run(self) -> None:
        for found in sorted(unnamed_files(self.path, self.manifest)):
            self._add(found, "not named in the manifest")
        for name in self.manifest.files:
            self._file(name)
        media = self._index()
        images = len(media) if media is not None else 0
        stored, walked = np.zeros(images, bool), True
        for number, shard in enumerate(self.manifest.media.shards):
            walked &= self._media_shard(number, shard, media, stored)
        used, read = np.zeros(images, bool), True
        for stage in self.manifest.stages:
            read &= self._stage(stage, media, used)
        if media is not None and walked:
            for digest in media.records["digest"][~stored]:
                self._add(self.manifest.media.index, f"image {_hex(digest)}: no media shard has it there")
        if media is not None and read:
            for digest in media.records["digest"][~used]:
                self._add(self.manifest.media.index, f"image {_hex(digest)}: no pack uses it")

    def _add(self, file: str, what: str) -> None:
        self.problems[Problem(file, what)] = None

    def _open(self, name: str) -> _Sequential:
        def count(size: int) -> None:
            self._read += size
            if self._progress:
                self._progress(name, self._read, self._total)

        return _Sequential(inside(self.path, name), count)

    def _compare(self, name: str, reader: _Sequential) -> None:
        """Compare a file that was read to its end with what the manifest says of it."""
        size, digest = self.expected[name]
        if reader.at != size:
            self._add(name, f"{reader.at} bytes, the manifest says {size}")
        if reader.digest != digest:
            self._add(name, f"blake3 is {reader.digest}, the manifest says {digest}")

    def _file(self, name: str) -> None:
        """Check a file's size and digest."""
        try:
            reader = self._open(name)
            reader.rest()
        except ShardError as error:
            self._add(name, _without(self.path / name, error))
        else:
            self._compare(name, reader)

    # media

    def _index(self) -> MediaReader | None:
        """The index, when it has the right size and order: without these nothing can be found in it."""
        entry = self.manifest.media
        self._file(entry.index)
        try:
            media = MediaReader(self.path, entry)
        except ShardError as error:
            self._add(entry.index, _without(self.path / entry.index, error))
            return None
        records = media.records
        total = sum(int(records["size"][i : i + _CHUNK].sum()) for i in range(0, len(records), _CHUNK))
        if total != entry.bytes:
            self._add(entry.index, f"{total} bytes of images, the manifest says {entry.bytes}")
        odd = (records["reserved"] != 0) | (records["width"] == 0) | (records["height"] == 0)
        for digest in records["digest"][odd]:
            self._add(entry.index, f"image {_hex(digest)}: no width, no height, or reserved bytes that are not 0")
        for i in range(1, len(records)):
            if records["digest"][i - 1].tobytes() >= records["digest"][i].tobytes():
                self._add(entry.index, f"image {_hex(records['digest'][i])}: out of order")
                return None
        return media

    def _media_shard(
        self, number: int, entry: MediaShardEntry, media: MediaReader | None, stored: npt.NDArray[np.bool_]
    ) -> bool:
        """Walk a tar in one pass, member by member, and mark in `stored` the images that are where the index
        says. Whether it could be walked to its end."""
        name = entry.name
        images = 0
        try:
            reader = self._open(name)
            while (header := reader.take(BLOCK)) != END[:BLOCK]:
                member = _parse_header(header)
                if member is None:
                    self._add(name, f"byte {reader.at - BLOCK}: not a tar header as this format writes it")
                    break
                digest, size = member
                offset = reader.at
                found = blake3(reader.take(size)).digest()
                if found != digest:
                    self._add(name, f"image {digest.hex()}: its bytes have blake3 {found.hex()}")
                if reader.take(len(padding(size))) != padding(size):
                    self._add(name, f"image {digest.hex()}: its padding is not zeros")
                images += 1
                if media is not None:
                    i = media.position(digest)
                    if i is None:
                        self._add(name, f"image {digest.hex()}: not in the index")
                    elif media.records[["shard", "offset", "size"]][i].tolist() != (number, offset, size):
                        self._add(name, f"image {digest.hex()}: the index has it elsewhere")
                    else:
                        stored[i] = True
            ended = header == END[:BLOCK]
            if ended and (reader.left != BLOCK or reader.take(BLOCK) != END[BLOCK:]):
                self._add(name, f"byte {reader.at}: not one more block of zeros and the end of the file")
            if ended and images != entry.images:
                self._add(name, f"{images} images, the manifest says {entry.images}")
            reader.rest()
        except ShardError as error:
            self._add(name, _without(self.path / name, error))
            return False
        self._compare(name, reader)
        return ended

    # stages

    def _stage(self, stage: StageEntry, media: MediaReader | None, used: npt.NDArray[np.bool_]) -> bool:
        """Read a stage's packs in order, and compare what they give with what manifest and steps file say.
        Marks in `used` the images they name. Whether all packs could be read."""
        digests = blake3()
        steps: list[bytes] = []
        step: list[Pack] = []
        counts = {source_key(name): Counts() for name in stage.sources}
        whole = True
        for shard in stage.shards:
            for i, pack, digest in self._packs(shard):
                if pack is None:
                    whole = False
                    continue
                digests.update(digest)
                for fault in pack_faults(pack, stage, self.manifest.geometry):
                    self._add(shard.name, f"pack {i}: {fault}")
                if media is not None:
                    self._mark_used(shard.name, i, pack, media, used)
                add_counts(counts, pack)
                step.append(pack)
                if len(step) == stage.batch:
                    steps.append(step_record(step).tobytes())
                    step.clear()
        self._file(stage.steps_file)
        if whole:  # otherwise the rest could only repeat that packs are missing
            if digests.hexdigest() != stage.digest:
                self._add(MANIFEST, f"stage {stage.name}: packs give {digests.hexdigest()}, not {stage.digest}")
            self._steps(stage, steps)
            self._counts(stage, counts)
        return whole

    def _mark_used(self, shard: str, i: int, pack: Pack, media: MediaReader, used: npt.NDArray[np.bool_]) -> None:
        for digest in pack.images["digest"]:
            position = media.position(digest.tobytes())
            if position is None:
                self._add(shard, f"pack {i}: image {_hex(digest)}: not in the media index")
            else:
                used[position] = True

    def _packs(self, shard: ShardEntry) -> Iterator[tuple[int, Pack | None, bytes]]:
        """Number, content and digest of each pack of a shard; None for one that cannot be read, which is reported."""
        self._file(shard.name)
        path = self.path / shard.name
        try:
            reader = SeekableReader(path, seek_digest=shard.seek)
            if len(reader) - 1 != shard.packs:
                self._add(shard.name, f"{len(reader) - 1} packs, the manifest says {shard.packs}")
            tokens = token_table(decode_vocabulary(reader.frame(0) if len(reader) else b""))
        except ShardError as error:
            self._add(shard.name, _without(path, error))
            yield 0, None, b""
            return
        digests = blake3()
        whole = True
        for i in range(len(reader) - 1):
            try:
                pack, stored = decode_stored(reader.frame(i + 1), tokens)
            except ShardError as error:
                self._add(shard.name, f"pack {i}: {_without(path, error).removeprefix(f'frame {i + 1}: ')}")
                whole = False
                yield i, None, b""
                continue
            digest = pack_digest(encode_pack(pack))
            if digest != stored:
                self._add(shard.name, f"pack {i}: its digest is {digest.hex()}, and {stored.hex()} is stored beside it")
            digests.update(digest)
            yield i, pack, digest
        if whole and digests.hexdigest() != shard.digest:
            self._add(shard.name, f"packs give digest {digests.hexdigest()}, the manifest says {shard.digest}")

    def _steps(self, stage: StageEntry, computed: list[bytes]) -> None:
        try:
            steps = read_steps(self.path / stage.steps_file)
        except ShardError as error:
            self._add(stage.steps_file, _without(self.path / stage.steps_file, error))
            return
        if len(steps) != len(computed):
            self._add(stage.steps_file, f"{len(steps)} steps, packs for {len(computed)}")
            return
        for s, (stored, data) in enumerate(zip(steps, computed, strict=True)):
            if stored.tobytes() != data:
                right = np.frombuffer(data, STEP_DTYPE)[0]
                wrong = [f for f in STEP_DTYPE.names or () if stored[f].tobytes() != right[f].tobytes()]
                self._add(stage.steps_file, f"step {s}: {', '.join(wrong)}: not what its packs give")

    def _counts(self, stage: StageEntry, counts: dict[int, Counts]) -> None:
        names = {source_key(name): name for name in stage.sources}
        for field in (f.name for f in fields(Counts)):
            found = sum(getattr(c, field) for c in counts.values())
            if found != getattr(stage, field):
                self._add(MANIFEST, f"stage {stage.name}: packs hold {found} {field}, not {getattr(stage, field)}")
            for key, name in names.items():
                found, said = getattr(counts[key], field), getattr(stage.sources[name], field)
                if found != said:
                    self._add(MANIFEST, f"stage {stage.name}: {name}: packs hold {found} {field}, not {said}")
        for key in counts.keys() - names.keys():
            self._add(MANIFEST, f"stage {stage.name}: packs hold samples of a source without a name: {key:#018x}")


class _Sequential:
    """A file read once from front to end, digested on the way."""

    def __init__(self, path: Path, count: Callable[[int], None]) -> None:
        self._file = PositionalFile(path)
        self._count = count
        self._hasher = blake3()
        self.at = 0

    @property
    def left(self) -> int:
        return self._file.size - self.at

    @property
    def digest(self) -> str:
        return self._hasher.hexdigest()

    def take(self, size: int) -> bytes:
        data = self._file.read_at(self.at, size, f"byte {self.at}")
        self._hasher.update(data)
        self.at += size
        self._count(size)
        return data

    def rest(self) -> None:
        while self.left:
            self.take(min(self.left, _CHUNK))


def _parse_header(header: bytes) -> tuple[bytes, int] | None:
    """Digest and size of a tar member; None unless `header` is byte for byte what `tar_header` makes of
    them."""
    try:
        name = header[:100].rstrip(b"\0").decode("ascii")
        digest = bytes.fromhex(name.partition(".")[0])
        size = int(header[124:135], 8)
        if tar_header(name, size) == header and len(digest) == DIGEST_BYTES and 0 < size <= MAX_IMAGE_BYTES:
            return digest, size
    except ValueError:  # not ASCII, not hex, not octal
        pass
    return None


def _without(path: Path, error: ShardError) -> str:
    """The message without the path, which a Problem names anyway."""
    return str(error).removeprefix(f"{path}: ")


def _hex(digest: np.void) -> str:
    return digest.tobytes().hex()
