"""Which files a build consists of: those that its manifest names, and the manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from shards.layout import MANIFEST
from shards.manifest import Manifest
from shards.media import MEDIA_DTYPE
from shards.steps import STEP_DTYPE


def named_files(manifest: Manifest) -> dict[str, tuple[int, str]]:
    """Bytes and blake3 of every file of a build but the manifest, by its path inside the build."""
    media = manifest.media
    files = {media.index: (media.images * MEDIA_DTYPE.itemsize, media.index_file)}
    files |= {name: (entry.bytes, entry.file) for name, entry in manifest.files.items()}
    files |= {shard.name: (shard.bytes, shard.file) for shard in media.shards}
    for stage in manifest.stages:
        files[stage.steps_file] = (stage.steps * STEP_DTYPE.itemsize, stage.steps_digest)
        files |= {shard.name: (shard.bytes, shard.file) for shard in stage.shards}
    return files


def unnamed_files(build: Path, manifest: Manifest) -> Iterator[str]:
    """Everything below `build` that is not a folder and that `manifest` does not name, by its path inside the build."""
    named = named_files(manifest)
    for folder, _, names in os.walk(build):
        for name in names:
            found = (Path(folder) / name).relative_to(build).as_posix()
            if found not in named and found != MANIFEST:
                yield found
