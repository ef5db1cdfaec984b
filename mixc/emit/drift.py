"""What moved between a lock and the inputs as they are now: told file by file, in words. Pure.

Two inputs are the same when their digests are. Where they lie is provenance: a file that was renamed or moved, a spec
that names it by another path, or a tokenizer that lies elsewhere is no drift.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from mixc.emit.lock import Found, Inputs, Lock, LockedFragment
from mixc.spec.changes import changes
from shards.counted import counted

_Fragment = LockedFragment | Found


class SpecDrift(msgspec.Struct, frozen=True, kw_only=True):
    """One value of the canonical spec. `path` is dotted, named things of a list by name; None stands for "not there"."""

    path: str
    locked: Any
    now: Any

    def __str__(self) -> str:
        return f"spec: {self.path}: {_short(self.locked)} -> {_short(self.now)}"


class PinDrift(msgspec.Struct, frozen=True, kw_only=True):
    """Another pinned thing: the tokenizer, the chat template, a signal, what a continued run had used."""

    what: str
    locked: str | None
    now: str | None

    def __str__(self) -> str:
        return f"{self.what}: {_pin(self.locked)} -> {_pin(self.now)}"


class FileDrift(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    change: Literal["gone", "new", "changed"]
    """`changed`: the same path, or the same name at another place, with other content."""
    path: str
    samples_locked: int | None
    """Of the whole file; None when it is new."""
    samples_now: int | None
    """None when it is gone, or was not measured yet."""

    def __str__(self) -> str:
        return f"source {self.source}: {self.change} {self.path} ({self._samples()})"

    def _samples(self) -> str:
        if self.change == "gone":
            return _count(self.samples_locked)
        now = "not counted yet" if self.samples_now is None else f"{self.samples_now:,}"
        return f"{_count(self.samples_locked)} -> {now}" if self.change == "changed" else _count(self.samples_now)


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """Empty, and false, when nothing moved."""

    spec: list[SpecDrift]
    pins: list[PinDrift]
    files: list[FileDrift]

    def __bool__(self) -> bool:
        return bool(self.spec or self.pins or self.files)

    def words(self) -> list[str]:
        """A line for each thing that moved."""
        return [str(each) for each in (*self.spec, *self.pins, *self.files)]

    def outside(self, source: str) -> Drift:
        """Without what is this source's own: its files and its keys of the spec."""
        own = f"sources.{source}"
        return Drift(
            spec=[each for each in self.spec if each.path != own and not each.path.startswith(f"{own}.")],
            pins=self.pins,
            files=[each for each in self.files if each.source != source],
        )


def drift(lock: Lock, now: Inputs) -> Drift:
    """What differs from the lock among a build's inputs."""
    pins = [
        PinDrift(what=what, locked=locked, now=found)
        for what, locked, found in (
            ("tokenizer", lock.tokenizer, now.tokenizer),
            ("chat template", lock.template, now.template),
            ("what the continued run used", lock.continues.digest if lock.continues else None, now.continues),
            *(
                (f"signal {name}", lock.signals.get(name), now.signals.get(name))
                for name in sorted(lock.signals.keys() | now.signals.keys())
            ),
        )
        if locked != found
    ]
    files = [
        each
        for name in sorted(lock.sources.keys() | now.sources.keys())
        for each in moved_files(name, lock.sources.get(name, []), now.sources.get(name, []))
    ]
    return Drift(
        spec=[
            SpecDrift(path=each.path, locked=each.a, now=each.b)
            for each in changes(without_places(lock.spec), without_places(now.spec))
        ],
        pins=pins,
        files=files,
    )


def without_places(spec: dict[str, Any]) -> dict[str, Any]:
    """A canonical spec without what only says where something lies, for the digest of what lies there is pinned beside it:
    files and image folders of sources, the tokenizer, the benchmark, the build that is continued."""
    form = {key: value for key, value in spec.items() if key != "tokenizer"}
    form["sources"] = {
        name: {key: value for key, value in source.items() if key not in ("path", "image_root")}
        for name, source in spec.get("sources", {}).items()
    }
    for key, place in (("decontaminate", "against"), ("continue_from", "build")):
        if isinstance(form.get(key), dict):
            form[key] = {name: value for name, value in form[key].items() if name != place}
    return form


def moved_files(source: str, locked: Sequence[_Fragment], now: Sequence[_Fragment]) -> list[FileDrift]:
    """The files of one source whose content is not what it was, sorted by path.

    Fragments of equal digest are paired first, those at the same path before others, and say nothing. What is left over
    is a changed file where its path, or else a name that is alone of its kind, is left over on both sides.
    """
    before, after = _unpaired(locked, now)
    gone, new = ({fragment.path for fragment in side} for side in (before, after))
    renamed = _same_names(gone - new, new - gone)
    files_before, files_after, rest_before, rest_after = map(_samples, (locked, now, before, after))
    pairs = {path: path for path in gone & new} | renamed
    found = [
        FileDrift(
            source=source,
            change="changed",
            path=path if path == other else f"{path} (now {other})",
            samples_locked=files_before[path],
            samples_now=files_after[other],
        )
        for path, other in pairs.items()
    ]
    found += [
        FileDrift(source=source, change="gone", path=path, samples_locked=rest_before[path], samples_now=None)
        for path in gone - pairs.keys()
    ]
    found += [
        FileDrift(source=source, change="new", path=path, samples_locked=None, samples_now=rest_after[path])
        for path in new - set(pairs.values())
    ]
    return sorted(found, key=lambda each: (each.path, each.change))


def _same_names(gone: set[str], new: set[str]) -> dict[str, str]:
    """Paths of both sides that have a file name alone on their side."""
    before, after = _by_name(gone), _by_name(new)
    return {
        paths[0]: after[name][0] for name, paths in before.items() if len(paths) == 1 and len(after.get(name, [])) == 1
    }


def _by_name(paths: set[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(paths):
        found.setdefault(posixpath.basename(path.rstrip("/")), []).append(path)
    return found


def _unpaired(locked: Sequence[_Fragment], now: Sequence[_Fragment]) -> tuple[list[_Fragment], list[_Fragment]]:
    """What each side has beyond the other, by content."""
    left: dict[str, list[_Fragment]] = {}
    for fragment in now:
        left.setdefault(fragment.digest, []).append(fragment)
    moved: list[_Fragment] = []
    for fragment in locked:
        others = left.get(fragment.digest, [])
        same = next((other for other in others if other.path == fragment.path), None)
        if same is None:
            moved.append(fragment)
        else:
            others.remove(same)
    before: list[_Fragment] = []
    for fragment in moved:
        elsewhere = left.get(fragment.digest)
        if elsewhere:
            elsewhere.pop()
        else:
            before.append(fragment)
    return before, [fragment for others in left.values() for fragment in others]


def _samples(fragments: Sequence[_Fragment]) -> dict[str, int | None]:
    """By path, of files that may be several fragments; None where one was not counted yet."""
    found: dict[str, int | None] = {}
    for fragment in fragments:
        before = found.get(fragment.path, 0)
        found[fragment.path] = None if before is None or fragment.samples is None else before + fragment.samples
    return found


def _short(value: Any) -> str:
    """A value on one line; what is long (a whole source, a whole stage) is only said to be there."""
    if value is None:
        return "none"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."


def _pin(pin: str | None) -> str:
    if pin is None:
        return "none"
    return pin[:16] if len(pin) == 64 else pin


def _count(samples: int | None) -> str:
    if samples is None:
        return "samples not counted yet"
    return counted(samples, "sample")
