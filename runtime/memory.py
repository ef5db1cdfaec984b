"""Memory that this machine, or the container that the process is in, has left."""

from __future__ import annotations

from pathlib import Path

_FACTS = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes that could be asked for now without anything being swapped out or killed."""
    facts = _numbers(_FACTS)
    free = facts["MemAvailable:"] * 1024
    try:
        limit = int((_GROUP / "memory.max").read_text())
        used = int((_GROUP / "memory.current").read_text()) - _numbers(_GROUP / "memory.stat")["inactive_file"]
    except (OSError, ValueError):  # no control group of version 2, or "max"
        return free
    return max(0, min(free, limit - used))


def _numbers(path: Path) -> dict[str, int]:
    """The first number of each line, by the word before it."""
    return {words[0]: int(words[1]) for line in path.read_text().splitlines() if len(words := line.split()) > 1}
