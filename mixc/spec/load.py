"""A spec from its files: YAML, `extends`, `--set`, types. What it means is checked in check.py.

`extends` names one other spec, which is merged under the one that names it, key by key:

- mappings merge, whatever their depth;
- a list whose items all have a `name` merges with another such list item by item: an item with a known name
  is merged into it, in place, and a new one is appended;
- anything else replaces what was there, and an empty value (null) removes it; as the first item of a list it
  removes the items that were there.

Relative paths are relative to the file in which they are written. Every value keeps its place, so a
mistake in a base spec is shown in the base spec.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mixc.spec.convert import convert
from mixc.spec.diagnostics import InvalidSpecError, Place, Span, Text, fail, printable, suggest
from mixc.spec.schema import Spec
from mixc.spec.yaml import MAX_BYTES, MAX_DEPTH, Mapping, Node, Scalar, Sequence, compose, parse
from shards.recognise import LOCK, recognise

MAX_EXTENDS = 16
"""Specs in a chain of `extends`."""

KeyPath = tuple[str | int, ...]
"""A value of the spec: ("stages", 0, "mix", "chat", "where")."""


@dataclass(frozen=True, slots=True)
class LoadedSpec:
    """A typed spec and where its parts were written."""

    spec: Spec
    """Merged: `extends` is None."""
    base: Path
    """The absolute folder that relative paths in `spec` are relative to: that of the spec's own file."""
    root: Node
    """The merged YAML."""
    files: tuple[Path, ...]
    """The spec's file and those that it extends, in that order."""

    def locate(self, path: str | KeyPath) -> str:
        """`file:line:column` of a value, as in `locate("stages[0].mix.captions")` or
        `locate("stages.sft.budget")`; of what holds it when it is a default that nobody wrote."""
        return str(self.place(path))

    def place(self, path: str | KeyPath, characters: tuple[int, int] | None = None) -> Place:
        """Likewise, with the source line; `characters` [start, end) of a text value mark a part of it."""
        node, key, rest = _follow(self.root, _segments(path))
        if rest:
            return (key or _start(node)).place
        if characters is not None and isinstance(node, Scalar) and node.raw:
            return node.at(*characters).place
        return (node.span if isinstance(node, Scalar) else key or _start(node)).place

    def key_place(self, path: str | KeyPath) -> Place:
        """Where the key of a value stands, or the value when it has none."""
        node, key, _ = _follow(self.root, _segments(path))
        return (key or _start(node)).place


Reader = Callable[[Path], bytes | None]
"""Gives a file's content by its path; None where there is no such file. Raises MixcError."""


def load(
    path: str | os.PathLike[str],
    overrides: Items[str] = (),
    *,
    base: Path | None = None,
    reader: Reader | None = None,
) -> LoadedSpec:
    """Reads a spec, merges what it extends, applies `overrides` (`a.b=c`, stages and sources by name) and
    types it. `base` is the folder that its paths are relative to, where that is not its own; `reader` reads specs that are no
    files of the disk, by whatever `path` and `extends` make of their names.

    Raises SpecError: for a file that cannot be read, and as InvalidSpecError, with all mistakes that one
    pass finds, for what is in it.
    """
    file = Path(path)
    base = file.parent.absolute() if base is None else base  # not resolve(): a linked spec names data beside the link
    files: list[Path] = []
    root: Node = _merged(file, ".", base, None, files, reader)
    for override in overrides:
        root = _override(root, override)
    return LoadedSpec(convert(root), base, root, tuple(files))


def load_form(form: dict[str, Any], base: Path, name: str, overrides: Items[str] = ()) -> LoadedSpec:
    """The spec of a canonical form (canonical.py), its relative paths relative to `base`. `name` stands for a file's name
    in messages. Raises InvalidSpecError, as `load`."""
    text = msgspec.json.encode(form, order="sorted")  # JSON is YAML
    root: Node = parse(text, name)
    for override in overrides:
        root = _override(root, override)
    return LoadedSpec(convert(root), base, root, ())


def _merged(
    file: Path, folder: str, base: Path, named_at: Span | None, chain: list[Path], reader: Reader | None
) -> Mapping:
    """The nodes of `file` over those of the specs that it extends, paths relative to `base`.

    `folder` is the file's, relative to `base`. `chain` grows by the files read.
    """
    if "\0" in str(file):
        raise fail(f"`{printable(str(file))}` cannot be a file's name", named_at)
    identity = Path(os.path.realpath(file))
    if identity in (Path(os.path.realpath(seen)) for seen in chain):
        names = " -> ".join(str(p) for p in [*chain, file])
        raise fail("a spec cannot extend itself", named_at, why=names, mend="remove one `extends`")
    if len(chain) >= MAX_EXTENDS:
        raise fail(f"more than {MAX_EXTENDS} specs extend each other", named_at)
    chain.append(file)
    root = parse(_read(file, named_at, reader), str(file))
    if not isinstance(root, Mapping):
        start = root.span.start
        raise fail(
            f"a spec is a mapping, this is {'a list' if isinstance(root, Sequence) else 'text'}",
            Span(root.span.text, start, start + 1),
            mend="docs/spec.md has a complete example",
        )
    root = _rebase(root, folder, base)
    extends = root.values.get("extends")
    if extends is None or (isinstance(extends, Scalar) and extends.value is None):
        return _without(root, "extends")
    if not isinstance(extends, Scalar) or not isinstance(extends.value, str) or not extends.value.strip():
        raise fail("`extends` must be the path of a spec", extends.span)
    if "://" in extends.value:
        raise fail("`extends` must name a local file", extends.span, mend="copy the base spec beside this one")
    inner = posixpath.join(folder, posixpath.dirname(extends.value) or ".")
    under = _merged(file.parent / extends.value, inner, base, extends.span, chain, reader)
    merged = _merge(under, _without(root, "extends"))
    assert isinstance(merged, Mapping)
    return merged


def _read(file: Path, named_at: Span | None, reader: Reader | None) -> bytes:
    def wrong(what: str, mend: str = "") -> InvalidSpecError:
        return fail(what if named_at else f"{file}: {what}", named_at, why=str(file) if named_at else "", mend=mend)

    if reader is not None:
        data = reader(file)
        if data is None:
            raise wrong("there is no such file")
        return data[: MAX_BYTES + 1]
    try:
        if file.is_dir():
            raise wrong("this is a folder, not a spec", mend=recognise(file) or "name the YAML file in it")
        if file.suffix == LOCK and file.is_file():
            raise wrong("this is not a spec", mend=recognise(file))
        if file.exists() and not file.is_file():
            raise wrong("this is not a regular file")
        with file.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        beside = []
        if file.parent.is_dir():
            beside = [p.name for p in file.parent.iterdir() if p.suffix in (".yaml", ".yml")]
        raise wrong("there is no such file", mend=suggest(file.name, beside)) from None
    except OSError as error:
        raise wrong(f"the file cannot be read: {error.strerror or error}") from None


def _without(node: Mapping, key: str) -> Mapping:
    return Mapping(
        {k: v for k, v in node.values.items() if k != key},
        {k: v for k, v in node.keys.items() if k != key},
        node.span,
    )


def _merge(under: Node, over: Node) -> Node:
    if isinstance(under, Mapping) and isinstance(over, Mapping):
        values, keys = dict(under.values), dict(under.keys)
        for key, value in over.values.items():
            if key in values and _is_null(value):
                del values[key], keys[key]
            else:
                values[key] = _merge(values[key], value) if key in values else value
                keys[key] = over.keys[key]
        return Mapping(values, keys, over.span)
    if isinstance(under, Sequence) and isinstance(over, Sequence) and over.items[:1] and _is_null(over.items[0]):
        return Sequence(over.items[1:], over.span)
    names_under, names_over = _names(under), _names(over)
    if isinstance(under, Sequence) and isinstance(over, Sequence) and names_under and names_over:
        items = list(under.items)
        free = {name: i for i, name in enumerate(names_under)}
        for name, item in zip(names_over, over.items, strict=True):
            place = free.pop(name, None)  # a name given twice stays twice, for check.py to find
            if place is None:
                items.append(item)
            else:
                items[place] = _merge(items[place], item)
        return Sequence(tuple(items), over.span)
    return over


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None


def _names(node: Node) -> list[str] | None:
    """The names of a list's items, if each has one."""
    if not isinstance(node, Sequence):
        return None
    names = []
    for item in node.items:
        name = item.values.get("name") if isinstance(item, Mapping) else None
        if not isinstance(name, Scalar) or not isinstance(name.value, str):
            return None
        names.append(name.value)
    return names


_LOCAL = re.compile(r"(?!/)(?![A-Za-z][A-Za-z0-9+.-]*://)")


def _rebase(root: Mapping, folder: str, base: Path) -> Mapping:
    """Relative paths of a spec in `folder`, made relative to `base`."""
    step = posixpath.normpath(folder)
    if step == ".":
        return root
    # `x/../y` is `y` unless x is a link; then the dots are left for the file system
    real = Path(os.path.realpath(base))
    straight = os.path.realpath(base / folder) == os.path.normpath(real / folder)
    step = step if straight else folder

    def move(node: Node) -> Node:
        if isinstance(node, Sequence):
            return Sequence(tuple(move(item) for item in node.items), node.span)
        if isinstance(node, Scalar) and isinstance(node.value, str) and node.value and _LOCAL.match(node.value):
            joined = posixpath.join(step, node.value)
            return Scalar(posixpath.normpath(joined) if straight else joined, node.raw, node.style, node.span)
        return node

    def moved(node: Node, keys: Items[str]) -> Node:
        if not isinstance(node, Mapping):
            return node
        values = {key: move(value) if key in keys else value for key, value in node.values.items()}
        return Mapping(values, node.keys, node.span)

    values = dict(root.values)
    sources = values.get("sources")
    if isinstance(sources, Mapping):
        each = {name: moved(source, ("path", "image_root")) for name, source in sources.values.items()}
        values["sources"] = Mapping(each, sources.keys, sources.span)
    for name, key in (("decontaminate", "against"), ("continue_from", "build")):
        if name in values:
            values[name] = moved(values[name], (key,))
    tokenizer = values.get("tokenizer")
    # a name has neither; a folder beside the spec is written `./folder`
    if isinstance(tokenizer, Scalar) and ("/" in tokenizer.raw or tokenizer.raw.endswith(".json")):
        values["tokenizer"] = move(tokenizer)
    return Mapping(values, root.keys, root.span)


def _override(root: Node, override: str) -> Node:
    """`a.b.c=value`, the value read as YAML; an empty one removes the key."""
    path, equals, _ = override.partition("=")
    text = Text("--set", override)
    whole = Span(text, 0, len(override))
    if not equals or not path.strip():
        raise fail("--set needs `key=value`", whole, mend="as in --set stages.sft.train.batch=64")
    if not all(c.isprintable() or c in "\t\n" for c in override):
        raise fail("--set holds a control character", whole)
    segments = _segments(path.strip())
    key = Span(text, 0, len(path.rstrip()))
    if not segments or len(segments) > MAX_DEPTH:
        raise fail("--set needs `key=value`, with a key of a spec", key)
    if segments[0] == "extends":
        raise fail("`extends` cannot be set", key, mend="write a spec that extends another")
    value: Node
    if override[len(path) + 1 :].strip():
        value = compose(text, len(path) + 1)
    else:
        value = Scalar(None, "", "", Span(text, len(override), len(override)))
    return _put(root, segments, value, key)


def _put(node: Node, segments: list[str | int], value: Node, key: Span) -> Node:
    child, rest = _step(node, segments)
    if isinstance(node, Mapping):
        # what is not there yet: one key, or a new mapping on the way
        name, rest = (child, rest) if isinstance(child, str) else (str(segments[0]), segments[1:])
        values, keys = dict(node.values), dict(node.keys)
        if rest:
            inner = values.get(name, Mapping({}, {}, key))
            if isinstance(inner, Scalar) and inner.value is None:
                inner = Mapping({}, {}, key)
            values[name] = _put(inner, rest, value, key)
            keys.setdefault(name, key)
        elif isinstance(value, Scalar) and value.value is None and name in values:
            del values[name], keys[name]
        else:
            values[name], keys[name] = value, key
        return Mapping(values, keys, node.span)
    if isinstance(node, Sequence):
        if not isinstance(child, int):
            names = _names(node)
            shown = printable(str(segments[0]))
            if names is None:
                raise fail(f"`{shown}` names no item: this list has no names", key, mend="set the whole list")
            raise fail(f"there is no `{shown}` in this list", key, mend=suggest(str(segments[0]), names))
        items = list(node.items)
        items[child] = _put(items[child], rest, value, key) if rest else value
        return Sequence(tuple(items), node.span)
    raise fail(
        f"`{printable(str(segments[0]))}` cannot be set: what should hold it is `{printable(node.raw)}`",
        key,
        why=f"written at {node.span.place}",
        mend="set the whole value, as in --set 'a.b={c: 1}'",
    )


def _segments(path: str | KeyPath) -> list[str | int]:
    """`stages[0].mix.a` as ["stages", 0, "mix", "a"]."""
    if not isinstance(path, str):
        return list(path)
    parts = re.findall(r"\[([0-9]{1,9})\]|([^.\[\]]+)", path)
    return [int(number) if number else name for number, name in parts]


def _step(node: Node, segments: list[str | int]) -> tuple[str | int | None, list[str | int]]:
    """The key or index in `node` that the path begins with, and the rest of it; None when there is none.

    Names may hold dots, so the longest run of segments that is a key wins.
    """
    if isinstance(node, Sequence) and segments and isinstance(segments[0], int):
        return (segments[0], segments[1:]) if segments[0] < len(node.items) else (None, segments)
    if isinstance(node, Mapping):
        known: dict[str, str | int] = {key: key for key in node.values}
    elif isinstance(node, Sequence):
        names = _names(node) or [str(i.value) if isinstance(i, Scalar) else "" for i in node.items]
        known = {name: i for i, name in reversed(list(enumerate(names)))}
    else:
        return None, segments
    run = 0
    while run < len(segments) and isinstance(segments[run], str):
        run += 1
    for length in range(run, 0, -1):
        found = known.get(".".join(str(s) for s in segments[:length]))
        if found is not None:
            return found, segments[length:]
    return None, segments


def _follow(root: Node, segments: list[str | int]) -> tuple[Node, Span | None, list[str | int]]:
    """The deepest written node on a path, the span of its key, and the part of the path that is not
    written."""
    node, key = root, None
    while segments:
        child, rest = _step(node, segments)
        if child is None:
            break
        if isinstance(node, Mapping):
            assert isinstance(child, str)
            key = node.keys[child]
            node = node.values[child]
        else:
            assert isinstance(node, Sequence)
            assert isinstance(child, int)
            node, key = node.items[child], None
        segments = rest
    return node, key, segments


def _start(node: Node) -> Span:
    """A node's first key or character."""
    if isinstance(node, Mapping) and node.keys:
        return min(node.keys.values(), key=lambda span: (span.text is not node.span.text, span.start))
    return node.span
