"""YAML text to plain values that know where they stand.

ruamel.yaml's pure parser gives events with marks; this module builds nodes from them and resolves plain
scalars by the YAML 1.2 core schema (https://yaml.org/spec/1.2.2/#103-core-schema) and nothing else: `no`,
`2024-01-01` and `1:30` are text. A mapping key is always the text as written, so a source may be called
`2024`.

Refused, each with its place: bytes that are not UTF-8, control characters, a second document, tags, merge
keys (`<<`, which YAML 1.2 does not have), duplicate keys, recursive aliases, and sizes beyond the bounds
below. Aliases are allowed; what they expand to is bounded, so that a few lines cannot stand for gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from mixc.spec.diagnostics import Diagnostic, InvalidSpecError, Span, Text, fail, printable

MAX_BYTES = 1 << 20
"""Of one file. A spec names its data by globs; the largest sensible one is a hundredth of this."""
MAX_DEPTH = 32
"""Nested lists and mappings. The schema needs 6."""
MAX_EXPANDED = 4 << 20
"""Characters with aliases expanded, each value counted as NODE_COST more."""
NODE_COST = 32
MAX_DIGITS = 250
"""Characters of a number; a longer one stays text. So every whole number, in hexadecimal too, has a finite float."""

Value: TypeAlias = "bool | int | float | str | None"


@dataclass(frozen=True, slots=True)
class Scalar:
    value: Value
    raw: str
    """The text that the value was read from, unquoted and unescaped."""
    style: str
    """`` plain, ' or " quoted, | or > a block."""
    span: Span

    def at(self, start: int, end: int) -> Span:
        """Where characters [start, end) of `raw` stand in the file, as near as can be told."""
        offsets = _offsets(self)
        first = offsets[min(start, len(offsets) - 1)]
        last = offsets[min(max(start, end - 1), len(offsets) - 1)]
        return Span(self.span.text, first, max(first, last) + 1)


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Node, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Mapping:
    values: dict[str, Node]
    keys: dict[str, Span]
    """Where each key stands; the same keys as `values`."""
    span: Span


Node: TypeAlias = "Scalar | Sequence | Mapping"


def plain(node: Node) -> Any:
    """The node as dicts, lists and scalars."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {key: plain(value) for key, value in node.values.items()}


@lru_cache(maxsize=16)
def parse(data: bytes, name: str) -> Node:
    """The one document in `data`. `name` is the file's name in messages. Nobody changes a node, so that the base of two specs is
    read once.

    Raises InvalidSpecError with every mistake that does not hide the ones after it.
    """
    if len(data) > MAX_BYTES:
        raise fail(
            f"{name} has {len(data):,} bytes; a spec has at most {MAX_BYTES:,}",
            mend="name data by globs instead of listing files, or pass the spec and not the data",
        )
    return compose(Text(name, _decode(data, name)))


def compose(text: Text, start: int = 0) -> Node:
    """The one document in `text.content[start:]`; spans count from the beginning of `text`."""
    return _Composer(text, start).run()


def _decode(data: bytes, name: str) -> str:
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = data[: error.start]
        line = good.count(b"\n") + 1
        source = good.rsplit(b"\n", 1)[-1].removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
        utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4]
        shown = Text(name, "\n" * (line - 1) + source + "�")
        place = Span(shown, len(shown.content) - 1, len(shown.content))
        raise fail(
            f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}, line {line}",
            place,
            mend="it looks like UTF-16: save it as UTF-8" if utf16 else "save it as UTF-8",
        ) from None
    content = content.replace("\r\n", "\n").replace("\r", "\n")
    text = Text(name, content)
    # The second class are line breaks in YAML 1.1 and none in 1.2; parsers and editors disagree about
    # lines after them.
    bad = re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff\U0001fffe\U0001ffff]|[\u2028\u2029]", content)
    if bad:
        raise fail(
            f"the character U+{ord(bad[0]):04X} cannot stand in a spec",
            Span(text, bad.start(), bad.end()),
            mend="remove it",
        )
    return content


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been seen."""

    start: int
    anchor: str | None
    is_mapping: bool
    depth: int
    items: list[Node] = field(default_factory=list)
    values: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Span] = field(default_factory=dict)
    key: tuple[str, Span] | None = None
    duplicate: bool = False
    size: int = NODE_COST


class _Composer:
    def __init__(self, text: Text, start: int) -> None:
        self.text = text
        self.start = start
        self.mistakes: list[Diagnostic] = []
        self.anchors: dict[str, tuple[Node, int] | None] = {}
        self.stack: list[_Open] = []
        self.root: Node | None = None
        self.documents = 0
        self.total = 0

    def run(self) -> Node:
        for event in self._events():
            self._take(event)
        if self.root is None and not self.mistakes:
            raise fail("the spec is empty", self._span(0, 1), mend="docs/spec.md has a complete example")
        if self.mistakes:
            raise InvalidSpecError(self.mistakes)
        assert self.root is not None
        return self.root

    def _events(self) -> Iterator[Any]:
        content = self.text.content[self.start :]
        seen = 0
        try:
            for event in YAML(typ="safe", pure=True).parse(content):
                seen = event.end_mark.index
                yield event
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            at = min(mark.index, len(content)) if mark else seen
            raise InvalidSpecError([*self.mistakes, self._syntax(error, at + self.start)]) from None
        except Exception as error:
            # A parser must not show its own failures (ValueError from `"\UFFFFFFFF"` is one):
            # the text is at fault.
            raise InvalidSpecError(
                [
                    *self.mistakes,
                    Diagnostic(
                        message="this cannot be read as YAML",
                        place=self._span(seen + self.start, seen + self.start).place,
                        why=printable(str(error)),
                    ),
                ]
            ) from None

    def _syntax(self, error: MarkedYAMLError, at: int) -> Diagnostic:
        problem = printable(str(error.problem or error.context or "unreadable"), 200)
        context = printable(str(error.context or ""), 200)
        if "'\\t'" in problem:
            mend = "indent with spaces, not tabs"
        elif "mapping values are not allowed" in problem:
            mend = "quote a value that holds `: `, or check the indentation"
        elif "could not find expected ':'" in problem:
            mend = "a key is followed by `: ` with a space; quote a value that spans lines"
        elif "<block end>" in problem:
            mend = "check the indentation, and close every bracket and quote"
        elif "cannot start any token" in problem:
            mend = "quote a value that begins with this character"
        elif "quoted scalar" in context or "quoted scalar" in problem:
            mend = "close the quote"
        else:
            mend = ""
        opened = error.context_mark
        why = ""
        if context and opened is not None and error.problem_mark is not None:
            line = self._span(opened.index + self.start, 0).place.line
            why = f"{context} that began on line {line}"
        return Diagnostic(message=f"not valid YAML: {problem}", place=self._span(at, at + 1).place, why=why, mend=mend)

    def _span(self, start: int, end: int) -> Span:
        return Span(self.text, start, end)

    def _mistake(self, message: str, span: Span, *, why: str = "", mend: str = "") -> None:
        self.mistakes.append(Diagnostic(message=message, place=span.place, why=why, mend=mend))

    def _stop(self, message: str, span: Span, *, why: str = "", mend: str = "") -> InvalidSpecError:
        self._mistake(message, span, why=why, mend=mend)
        return InvalidSpecError(self.mistakes)

    def _take(self, event: Any) -> None:
        start, end = event.start_mark.index + self.start, event.end_mark.index + self.start
        span = self._span(start, end)
        if isinstance(event, DocumentStartEvent):
            self._document(event, span)
        elif isinstance(event, AliasEvent):
            self._alias(event.anchor, span)
        elif isinstance(event, ScalarEvent):
            self._scalar(event, span)
        elif isinstance(event, SequenceStartEvent | MappingStartEvent):
            self._tag(event, span)
            if len(self.stack) >= MAX_DEPTH:
                raise self._stop(f"nested deeper than {MAX_DEPTH}", self._span(start, start + 1))
            if event.anchor:
                self.anchors[event.anchor] = None  # an alias to it from inside is recursive
            is_mapping = isinstance(event, MappingStartEvent)
            self.stack.append(_Open(start, event.anchor, is_mapping, len(self.stack)))
        elif isinstance(event, SequenceEndEvent | MappingEndEvent):
            self._close(end)

    def _document(self, event: Any, span: Span) -> None:
        self.documents += 1
        if self.documents > 1:
            raise self._stop(
                "a second document begins here",
                span,
                mend="a spec is one document: remove `---` and what follows",
            )
        if event.version not in (None, (1, 2), [1, 2]):
            version = ".".join(map(str, event.version))
            self._mistake(f"%YAML {version}: a spec is YAML 1.2", span, mend="remove the directive")

    def _tag(self, event: Any, span: Span) -> None:
        if event.tag is None:
            return
        written = re.search(r"![^\s,\[\]{}]*", self.text.content[span.start : span.end])
        start, end = written.span() if written else (0, 1)
        self._mistake(
            f"the tag `{printable(written[0] if written else str(event.tag))}` is not allowed",
            self._span(span.start + start, span.start + end),
            mend="remove it; quote a value to make it text",
        )

    def _alias(self, anchor: str, span: Span) -> None:
        if anchor not in self.anchors:
            self._mistake(f"no anchor `&{printable(anchor)}` before this alias", span)
            found = None
        else:
            found = self.anchors[anchor]
            if found is None:
                self._mistake(f"`*{printable(anchor)}` stands inside what it names", span)
        node, size = found or (Scalar(None, "", "", span), NODE_COST)
        self._grow(size, span, alias=True)
        self._attach(node, size, span)

    def _scalar(self, event: Any, span: Span) -> None:
        self._tag(event, span)
        raw: str = event.value
        odd = re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", raw)
        if odd:
            self._mistake(f"this text holds U+{ord(odd[0]):04X}", span, mend="remove the escape")
        style = event.style or ""
        node = Scalar(raw if style else resolve(raw), raw, style, span)
        size = NODE_COST + len(raw)
        if event.anchor:
            self.anchors[event.anchor] = (node, size)
        self._grow(size, span, alias=False)
        self._attach(node, size, span)

    def _grow(self, size: int, span: Span, *, alias: bool) -> None:
        self.total += size
        if self.total > MAX_EXPANDED:
            raise self._stop(
                "the spec is too large with its aliases expanded" if alias else "the spec has too many values",
                span,
                why=f"more than {MAX_EXPANDED:,} characters, each value counted as {NODE_COST} more",
            )

    def _attach(self, node: Node, size: int, span: Span) -> None:
        if not self.stack:
            self.root = node
            return
        top = self.stack[-1]
        top.size += size
        if not top.is_mapping:
            top.items.append(node)
        elif top.key is None:
            top.key = self._key(node, span, top)
        else:
            key, where = top.key
            top.key = None
            if not top.duplicate:
                top.values[key], top.keys[key] = node, where
            top.duplicate = False

    def _key(self, node: Node, span: Span, top: _Open) -> tuple[str, Span]:
        if not isinstance(node, Scalar):
            self._mistake("a key is text, not a list or a mapping", self._span(span.start, span.start + 1))
            return "", span
        if node.raw == "<<" and not node.style:
            self._mistake(
                "merge keys (`<<`) are not part of YAML 1.2",
                span,
                mend="write the keys out, or put what specs share in a file and name it in `extends`",
            )
        elif node.raw == "" and not node.style:
            self._mistake("a key is missing before `:`", span)
        elif node.raw in top.values:
            top.duplicate = True
            self._mistake(
                f"the key `{printable(node.raw)}` is given twice",
                span,
                why=f"first on line {top.keys[node.raw].place.line}",
                mend="keep one of them",
            )
        return node.raw, span

    def _close(self, end: int) -> None:
        top = self.stack.pop()
        span = self._span(top.start, end)
        node: Node = Mapping(top.values, top.keys, span) if top.is_mapping else Sequence(tuple(top.items), span)
        if top.anchor:
            self.anchors[top.anchor] = (node, top.size)
        # its parts are counted in self.total already; its own cost is not
        self.total += NODE_COST
        self._attach(node, top.size, span)


_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Value] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


def resolve(raw: str) -> Value:
    """A plain scalar by the YAML 1.2 core schema."""
    if raw in _WORDS:
        return _WORDS[raw]
    if len(raw) > MAX_DIGITS:
        return raw
    if _INT.fullmatch(raw):
        return int(raw)
    if _OCTAL.fullmatch(raw):
        return int(raw[2:], 8)
    if _HEX.fullmatch(raw):
        return int(raw[2:], 16)
    if _FLOAT.fullmatch(raw):
        return float(raw)
    return raw


_ESCAPE_LENGTHS = {"x": 4, "u": 6, "U": 10}


def _offsets(scalar: Scalar) -> list[int]:
    """For each character of `raw`, and for its end, the index in the file of the character that gave it.

    Walks both texts together: white space that folding or indentation adds or removes is skipped, escapes
    are one character. Exact for every style but for runs of white space in folded text, where it points
    into the run.
    """
    text, start, end = scalar.span.text.content, scalar.span.start, scalar.span.end
    at = start
    if scalar.style in ("|", ">"):
        at = text.find("\n", start, end) + 1 or end  # past the header line
    else:  # past anchors; a quoted scalar begins at its quote
        opened = text.find(scalar.style, start, end) if scalar.style else -1
        if opened >= 0:
            at = opened + 1
        elif text[start : start + 1] == "&":
            at = min(end, start + re.search(r"\s+|$", text[start:end]).end())  # type: ignore[union-attr]
    offsets: list[int] = []
    for character in scalar.raw:
        while scalar.style == '"' and text.startswith("\\\n", at):  # a line continued
            at += 2
            while at < end and text[at] in " \t":
                at += 1
        if not character.isspace():
            while at < end and text[at].isspace():
                at += 1
        offsets.append(min(at, max(start, end - 1)))
        if character.isspace() and text[at : at + 1] == "\n":
            while at < end and text[at].isspace():
                at += 1
        elif scalar.style == '"' and text[at : at + 1] == "\\":
            at += _ESCAPE_LENGTHS.get(text[at + 1 : at + 2], 2)
        elif scalar.style == "'" and character == "'":
            at += 2
        elif at < end and (not character.isspace() or text[at].isspace()):
            at += 1
    offsets.append(min(at, max(start, end - 1)))
    return offsets
