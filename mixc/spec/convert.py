"""YAML nodes to the types of schema.py, with every mistake told in plain words at its place.

msgspec reports the first mistake, by path. People want all of them, by line. So the nodes are first held
against the types (read once through msgspec.inspect, so schema.py stays the only description), and
converted by msgspec after.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Iterable

import msgspec
import msgspec.inspect as mi

from mixc.spec.diagnostics import Diagnostic, InvalidSpecError, Span, in_order, printable, suggest
from mixc.spec.schema import Spec
from mixc.spec.yaml import Mapping, Node, Scalar, Sequence, plain

_HINTS = {
    "warmup": "write steps as a whole number, or a share of the stage as a percentage: `3%`",
    "decay": "write steps as a whole number, or a share of the stage as a percentage: `10%`",
    "budget": "write the unit: `4B tokens`, `16M samples` or `1.5 epochs`",
    "window": "write a whole number, or `10k`",
}
"""By key: how a value of the wrong type should have been written."""
_HELD_OUT_HINT = "write `500 samples` or `1%`"
_NAME_HINTS = {
    r"^[a-z][a-z0-9_]*$": "use small letters, digits and `_`, at most 100, a letter first: expressions name it without quotes"
}
"""By pattern: what a name may be made of, where it is less than for other names."""
_NAME_HINT = "use letters, digits, `.`, `_` and `-`, at most 100, a letter or digit first"


def convert(node: Node) -> Spec:
    """The node as a Spec. Raises InvalidSpecError with all mistakes, in the order of the text."""
    mistakes = _Checker().check(node, _schema(), "", None)
    if mistakes:
        raise InvalidSpecError(in_order(mistakes))
    try:
        return msgspec.convert(plain(node), Spec)
    except msgspec.ValidationError as error:  # a constraint that the checker does not know
        raise InvalidSpecError([Diagnostic(message=str(error), place=node.span.place)]) from None


def describe(info: mi.Type) -> str:
    """A type in words: `text or a list of texts`."""
    if isinstance(info, mi.UnionType):
        parts = [describe(t) for t in info.types if not isinstance(t, mi.NoneType)]
        return " or ".join(dict.fromkeys(parts))
    if isinstance(info, mi.LiteralType):
        values = [f"`{value}`" for value in info.values]
        return values[0] if len(values) == 1 else "one of " + ", ".join(values)
    if isinstance(info, mi.ListType):
        return f"a list of {_plural(info.item_type)}"
    if isinstance(info, mi.TupleType):
        return f"a list of {len(info.item_types)} {_plural(info.item_types[0])}"
    if isinstance(info, mi.DictType | mi.StructType):
        return "a mapping"
    if isinstance(info, mi.StrType):
        return "a name" if info.pattern else "text"
    if isinstance(info, mi.BoolType):
        return "true or false"
    if isinstance(info, mi.IntType):
        return "a whole number"
    if isinstance(info, mi.FloatType):
        return "a number"
    raise TypeError(f"schema.py uses a type that convert.py does not know: {info}")


def _plural(info: mi.Type) -> str:
    if isinstance(info, mi.UnionType):
        return " or ".join(_plural(t) for t in info.types)
    if isinstance(info, mi.StructType):
        return "mappings"
    return {"text": "texts", "a name": "names", "a number": "numbers"}.get(describe(info), describe(info))


@functools.cache
def _schema() -> mi.Type:
    return mi.type_info(Spec)


@functools.cache
def _homes() -> dict[str, list[str]]:
    """Key -> where the schema has it, for a key that stands in the wrong mapping."""
    homes: dict[str, list[str]] = {}

    def visit(info: mi.Type, path: str) -> None:
        if isinstance(info, mi.StructType):
            for f in info.fields:
                homes.setdefault(f.encode_name, []).append(path or "the spec itself")
                visit(f.type, f"{path}.{f.encode_name}" if path else f.encode_name)
        elif isinstance(info, mi.DictType):
            visit(info.value_type, f"{path}.NAME")
        elif isinstance(info, mi.ListType):
            visit(info.item_type, f"{path}.NAME")
        elif isinstance(info, mi.UnionType):
            for member in info.types:
                visit(member, path)

    visit(_schema(), "")
    return homes


class _Checker:
    """Holds nodes against types. `path` names the value in messages; `key` is the span of the key that leads
    to it."""

    def check(self, node: Node, info: mi.Type, path: str, key: Span | None) -> list[Diagnostic]:
        if isinstance(info, mi.UnionType):
            return self._union(node, info, path, key)
        if isinstance(info, mi.StructType) and isinstance(node, Mapping):
            return self._struct(node, info, path, key)
        if isinstance(info, mi.DictType) and isinstance(node, Mapping):
            return self._dict(node, info, path)
        if isinstance(info, mi.ListType) and isinstance(node, Sequence):
            return [
                mistake
                for i, item in enumerate(node.items)
                for mistake in self.check(item, info.item_type, _item(path, i, item), None)
            ]
        if isinstance(info, mi.TupleType) and isinstance(node, Sequence) and len(node.items) == len(info.item_types):
            return [
                mistake
                for i, (item, t) in enumerate(zip(node.items, info.item_types, strict=True))
                for mistake in self.check(item, t, _item(path, i, item), None)
            ]
        if isinstance(node, Scalar) and _fits(node, info):
            return self._constraints(node, info, path)
        return [self._wrong_type(node, info, path, key)]

    def _union(self, node: Node, info: mi.UnionType, path: str, key: Span | None) -> list[Diagnostic]:
        if isinstance(node, Scalar):
            fitting = [t for t in info.types if _fits(node, t)]
        elif isinstance(node, Mapping):
            fitting = [t for t in info.types if isinstance(t, mi.StructType | mi.DictType)]
        else:
            fitting = [t for t in info.types if isinstance(t, mi.ListType | mi.TupleType)]
        if not fitting:
            return [self._wrong_type(node, info, path, key)]
        literals = [t for t in info.types if isinstance(t, mi.LiteralType)]
        mistakes = self.check(node, fitting[0], path, key)
        if mistakes and literals and fitting[0] in literals:
            return [self._wrong_type(node, info, path, key)]
        return mistakes

    def _struct(self, node: Mapping, info: mi.StructType, path: str, key: Span | None) -> list[Diagnostic]:
        fields = {f.encode_name: f for f in info.fields}
        mistakes = []
        for name, value in node.values.items():
            if name in fields:
                inner = f"{path}.{name}" if path else name
                mistakes += self.check(value, fields[name].type, inner, node.keys[name])
            else:
                mistakes.append(self._unknown(name, node, fields, path))
        missing = [f"`{f.encode_name}`" for f in info.fields if f.required and f.encode_name not in node.values]
        if missing:
            mistakes.append(
                Diagnostic(
                    message=f"{path or 'the spec'} lacks {_join(missing)}",
                    place=(key or next(iter(node.keys.values()), node.span)).place,
                    mend=f"add {'it' if len(missing) == 1 else 'them'}; docs/spec.md says what belongs there",
                )
            )
        return mistakes

    def _unknown(self, name: str, node: Mapping, fields: Iterable[str], path: str) -> Diagnostic:
        free = [f for f in fields if f not in node.values]
        first, *inner = name.split(".")
        if inner and first in fields:
            mend = f"write `{_nested(first, inner, node.values[name])}`: a dot is for --set and for messages"
            if isinstance(node.values.get(first), Mapping):
                mend = f"write `{_nested(inner[0], inner[1:], node.values[name])}` in the `{first}` that is there"
        else:
            mend = suggest(name, free or fields)
        if not mend.startswith(("did you mean", "write")):  # then perhaps a key of another mapping
            (elsewhere,) = difflib.get_close_matches(name, _homes(), n=1, cutoff=0.75) or ("",)
            homes = [home for home in _homes().get(elsewhere, ()) if home != path]
            mend = f"`{elsewhere}` is a key of {_join(homes)}" if homes else mend
        return Diagnostic(
            message=f"unknown key `{printable(name)}` in {path or 'the spec'}",
            place=node.keys[name].place,
            mend=mend,
        )

    def _dict(self, node: Mapping, info: mi.DictType, path: str) -> list[Diagnostic]:
        mistakes = []
        for name, value in node.values.items():
            inner = f"{path}.{name}"
            as_key = Scalar(name, name, "", node.keys[name])
            wrong = self.check(as_key, info.key_type, inner, None)
            if wrong and isinstance(info.key_type, mi.LiteralType):
                known = [str(v) for v in info.key_type.values if v not in node.values]
                wrong = [
                    Diagnostic(
                        message=f"unknown key `{printable(name)}` in {path}",
                        place=node.keys[name].place,
                        mend=suggest(name, known),
                    )
                ]
            mistakes += wrong + self.check(value, info.value_type, inner, node.keys[name])
        return mistakes

    def _constraints(self, node: Scalar, info: mi.Type, path: str) -> list[Diagnostic]:
        value, place = node.value, node.span.place
        what = f"`{path}`" if path else "it"
        if isinstance(info, mi.LiteralType):
            if value in info.values:
                return []
            return [
                Diagnostic(
                    message=f"{what} must be {describe(info)}, got {_got(node)}",
                    place=place,
                    mend=suggest(str(value), map(str, info.values)) if len(info.values) > 1 else "",
                )
            ]
        if isinstance(info, mi.StrType):
            assert isinstance(value, str)
            too_long = info.max_length is not None and len(value) > info.max_length
            # fullmatch: `$` alone would let a line break at the end through
            if too_long or (info.pattern and not re.fullmatch(info.pattern, value)):
                return [
                    Diagnostic(
                        message=f"`{printable(value)}` cannot be a name",
                        place=place,
                        mend=_NAME_HINTS.get(info.pattern or "", _NAME_HINT),
                    )
                ]
        if isinstance(info, mi.IntType | mi.FloatType):
            assert isinstance(value, int | float)
            if not math.isfinite(value):
                return [Diagnostic(message=f"{what} must be a finite number, got {_got(node)}", place=place)]
            bounds = [
                ("above", info.gt, info.gt is None or value > info.gt),
                ("at least", info.ge, info.ge is None or value >= info.ge),
                ("below", info.lt, info.lt is None or value < info.lt),
                ("at most", info.le, info.le is None or value <= info.le),
            ]
            if not all(holds for _, _, holds in bounds):
                words = " and ".join(f"{word} {_number(b)}" for word, b, _ in bounds if b is not None)
                mend = "leave a module out to freeze it" if ".lr." in path and value == 0 else ""
                return [Diagnostic(message=f"{what} must be {words}, got {_got(node)}", place=place, mend=mend)]
        return []

    def _wrong_type(self, node: Node, info: mi.Type, path: str, key: Span | None) -> Diagnostic:
        what = f"`{path}`" if path else "a spec"
        span = node.span
        if isinstance(node, Scalar) and node.value is None:
            message, mend = f"{what} has no value", f"write {describe(info)}"
            span = key if key and not node.raw else span  # nothing is written: show what it belongs to
        else:
            message = f"{what} must be {describe(info)}, got {_got(node)}"
            hint = _HELD_OUT_HINT if path.startswith("held_out.") else _HINTS.get(path.rpartition(".")[2], "")
            mend = hint or _type_hint(node, info)
        return Diagnostic(message=message, place=span.place, mend=mend)


def _nested(key: str, inner: list[str], value: Node) -> str:
    """`order: {window: 10k}` for the keys of `order.window` and its value."""
    shown = printable(value.span.text.content[value.span.start : value.span.end])
    if not inner:
        return f"{printable(key)}: {shown}"
    return f"{printable(key)}: {{{_nested(inner[0], inner[1:], value)}}}"


def _fits(node: Scalar, info: mi.Type) -> bool:
    """Whether a scalar is of a type, its constraints aside."""
    value = node.value
    if isinstance(info, mi.NoneType):
        return value is None
    if isinstance(info, mi.BoolType):
        return isinstance(value, bool)
    if isinstance(info, mi.IntType):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(info, mi.FloatType):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(info, mi.StrType | mi.LiteralType) and isinstance(value, str)


def _type_hint(node: Node, info: mi.Type) -> str:
    if not isinstance(node, Scalar):
        return ""
    members = info.types if isinstance(info, mi.UnionType) else (info,)
    text_wanted = any(isinstance(t, mi.StrType) for t in members)
    if not isinstance(node.value, str):
        return f'to make it text, quote it: "{printable(node.raw)}"' if text_wanted else ""
    if any(isinstance(t, mi.BoolType) for t in members):
        return "in YAML 1.2 only `true` and `false` are" if node.raw.lower() in ("yes", "no", "on", "off") else ""
    number = re.fullmatch(r"[-+]?[0-9][0-9_.eE+-]*", node.raw)
    if number and any(isinstance(t, mi.IntType | mi.FloatType) for t in members):
        return "write it without quotes" if node.style else "write it without `_`"
    return ""


def _got(node: Node) -> str:
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return f"a list of {len(node.items)}"
    if isinstance(node.value, str):
        return f'the text "{printable(node.value)}"'
    return f"`{printable(node.raw)}`"


def _number(bound: float) -> str:
    return "2^63 - 1" if bound == (1 << 63) - 1 else f"{bound:g}" if isinstance(bound, float) else f"{bound:,}"


def _item(path: str, index: int, item: Node) -> str:
    """`stages.sft` for an item with a name, else `stages[0]`."""
    if isinstance(item, Mapping):
        name = item.values.get("name")
        if isinstance(name, Scalar) and isinstance(name.value, str) and name.value:
            return f"{path}.{printable(name.value)}"
    return f"{path}[{index}]"


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
