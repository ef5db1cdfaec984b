"""What can be wrong with a build. Every message names the file, and the pack or image when there is one."""

from __future__ import annotations


class ShardError(Exception):
    """A build, shard, pack or image is missing, truncated, corrupt or of an unknown format version."""
