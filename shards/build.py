"""A build, opened for reading: what the runtime trains from.

    build = Build.open(path)
    stage = build.stage("pretrain")
    pack = stage.pack(step * stage.entry.batch + k)
    data = build.image(pack.images[0]["digest"].tobytes())

Opening reads the manifest and nothing else, so it costs the same for any number of packs and images; shards
are opened when first read, and few are held open. Builds and stages can be used in threads and after a fork,
and be pickled: another process opens the same build again, and refuses one that has become another.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.blocks import in_background
from shards.errors import ShardError
from shards.handles import HandleCache
from shards.layout import inside
from shards.manifest import Manifest, StageEntry, read_manifest
from shards.media import MediaReader
from shards.pack import Pack
from shards.steps import read_steps
from shards.store import Place, StoreUrl, place
from shards.tokens import TokenShard

OPEN_SHARDS = 64
"""Token shards that a stage keeps open, each with a vocabulary of 256 KiB. Training reads packs in order, so one or two
are in use at a time; who reads at random opens a shard seldom."""


class StageReader:
    """The packs of one stage, numbered from 0 in the order of training. Step s trains packs
    [s * batch, (s + 1) * batch)."""

    def __init__(self, build: Build, entry: StageEntry) -> None:
        self.build = build
        self.entry = entry
        self._ends = list(accumulate(shard.packs for shard in entry.shards))
        self._shards: HandleCache[int, TokenShard] = HandleCache(self._open, OPEN_SHARDS)
        self._far = isinstance(build.path, StoreUrl)
        self._prepared = 0

    def __len__(self) -> int:
        """Packs, empty ones included."""
        return self.entry.packs

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen_stage, (self.build, self.entry.name)

    def _open(self, shard: int) -> TokenShard:
        return TokenShard(self.build.path, self.entry.shards[shard])

    def _find(self, i: int) -> tuple[TokenShard, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"pack {i} of stage {self.entry.name}, which has {len(self)}")
        # The first shard that ends after i; shards without packs are passed over.
        shard = bisect_right(self._ends, i)
        first = self._ends[shard - 1] if shard else 0
        if self._far and 2 * (i - first) > self._ends[shard] - first:
            self._prepare(shard + 1)
        return self._shards.get(shard), i - first

    def _prepare(self, shard: int) -> None:
        """Have a shard in a store opened and its first blocks fetched in the background, before it is read."""
        if shard < len(self._ends) and shard != self._prepared:
            self._prepared = shard
            in_background(lambda: self._shards.get(shard).begin())

    def pack(self, i: int) -> Pack:
        """Pack `i` of the stage. ShardError, by file and pack, when it is not as written; IndexError beyond
        the last."""
        shard, k = self._find(i)
        return shard.pack(k)

    def read(self, i: int) -> tuple[Pack, bytes]:
        """Pack `i` and its digest, as it is stored beside it, 32 bytes. Errors as for `pack`."""
        shard, k = self._find(i)
        return shard.read(k)

    def pack_bytes(self, i: int) -> bytes:
        """The canonical bytes of pack `i`: `pack_digest` of them is its identity. Errors as for `pack`."""
        shard, k = self._find(i)
        return shard.raw(k)

    @cached_property
    def steps(self) -> npt.NDArray[np.void]:
        """STEP_DTYPE [steps], read-only, checked against the manifest's digest when first used."""
        path = inside(self.build.path, self.entry.steps_file)
        return read_steps(path, self.entry.steps_digest, steps=self.entry.steps)


class Build:
    """A whole, finished build. Make one with `Build.open`."""

    def __init__(self, path: Place, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._stages: dict[str, StageReader] = {}
        self._media: MediaReader | None = None

    @classmethod
    def open(cls, path: Place | str) -> Build:
        """The build in folder `path`, or at a URL. Raises ShardError when it has no manifest, or one that is not whole."""
        folder = place(path) if isinstance(path, str) else path
        if isinstance(folder, Path):
            folder = folder.absolute()  # so that it stays the same folder wherever a worker process runs
        return cls(folder, read_manifest(folder))

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.path, self.manifest.root)

    def stage(self, name: str) -> StageReader:
        """The stage of this name. Raises ShardError when there is none."""
        if name not in self._stages:
            for entry in self.manifest.stages:
                if entry.name == name:
                    self._stages.setdefault(name, StageReader(self, entry))
                    break
            else:
                known = ", ".join(entry.name for entry in self.manifest.stages)
                raise ShardError(f"{self.path}: no stage {name!r}; it has {known}")
        return self._stages[name]

    @property
    def media(self) -> MediaReader:
        """The images by digest."""
        if self._media is None:
            self._media = MediaReader(self.path, self.manifest.media)
        return self._media

    def image(self, digest: bytes) -> bytes:
        """The encoded image whose blake3 is `digest` (32 bytes), checked. Raises ShardError by file and
        image."""
        return self.media.read(digest)


def _reopen(path: Place, root: str) -> Build:
    build = Build.open(path)
    if build.manifest.root != root:
        raise ShardError(f"{path}: has become another build: root {build.manifest.root}, not {root}")
    return build


def _reopen_stage(build: Build, name: str) -> StageReader:
    return build.stage(name)
