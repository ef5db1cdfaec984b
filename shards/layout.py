"""Where things lie in a build.

    BUILD/manifest.json
    BUILD/tokens/<stage>/00000.tokens.zst
    BUILD/tokens/<stage>/steps
    BUILD/media/00000.tar
    BUILD/media/index

Every name in a manifest is relative to the build, with `/`, and stays inside it.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import overload

from shards.errors import ShardError
from shards.store import Place

MANIFEST = "manifest.json"
MEDIA_INDEX = "media/index"


def token_shard_name(stage: str, number: int) -> str:
    return f"tokens/{stage}/{number:05d}.tokens.zst"


def steps_name(stage: str) -> str:
    return f"tokens/{stage}/steps"


def media_shard_name(number: int) -> str:
    return f"media/{number:05d}.tar"


def is_inside(name: str) -> bool:
    """Whether `name` is a relative path in its plainest form that does not leave the folder it is relative
    to."""
    path = PurePosixPath(name)
    return (
        name not in ("", ".")
        and "\0" not in name
        and "\\" not in name
        and path.as_posix() == name
        and not path.is_absolute()
        and ".." not in path.parts
    )


@overload
def inside(build: Path, name: str) -> Path: ...
@overload
def inside(build: Place, name: str) -> Place: ...
def inside(build: Place, name: str) -> Place:
    """The path of `name` in `build`. Raises ShardError when it would leave the build."""
    if not is_inside(name):
        raise ShardError(f"{build}: {name!r} is not a path inside a build")
    return build / name
