"""The JSON Schema of specs, from schema.py: types and bounds from msgspec, descriptions from the docstrings.

A spec that extends another is held against the same schema with nothing required and null allowed, since
it may leave out what its base has and remove what it does not want.
"""

from __future__ import annotations

import ast
import copy
import functools
import inspect
from typing import Any

import msgspec
import msgspec.inspect as mi

from mixc.spec import schema
from mixc.spec.schema import Spec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PATCH = "Extension"
"""Suffix of the definitions for specs that extend another."""


@functools.cache
def field_docs() -> dict[str, dict[str, str]]:
    """The docstring under each field of each struct of schema.py, on one line: {struct: {field: text}}. A
    field without one is absent."""
    docs: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(schema)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = docs.setdefault(node.name, {})
        for before, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                fields[before.target.id] = " ".join(after.value.value.split())
    return docs


@functools.cache
def structs() -> tuple[mi.StructType, ...]:
    """Every struct that a spec is made of, Spec first."""
    found: dict[str, mi.StructType] = {}

    def visit(info: mi.Type) -> None:
        if isinstance(info, mi.StructType):
            found[info.cls.__name__] = info
            for each in info.fields:
                visit(each.type)
        elif isinstance(info, mi.UnionType):
            for member in info.types:
                visit(member)
        elif isinstance(info, mi.DictType):
            visit(info.value_type)
        elif isinstance(info, mi.ListType):
            visit(info.item_type)

    visit(mi.type_info(Spec))
    return tuple(found.values())


def json_schema() -> dict[str, Any]:
    """Draft 2020-12, for editors to complete and check specs by."""
    _, found = msgspec.json.schema_components((Spec,), ref_template="#/$defs/{name}")
    definitions: dict[str, Any] = copy.deepcopy(dict(found))
    for name, definition in definitions.items():
        for key, text in field_docs().get(name, {}).items():
            definition["properties"][key]["description"] = text
    for struct in structs():
        for each in struct.fields:
            # msgspec describes what a mapping's keys must look like, but not that they are of a few words
            if isinstance(each.type, mi.DictType) and isinstance(each.type.key_type, mi.LiteralType):
                names = {"enum": list(each.type.key_type.values)}
                definitions[struct.cls.__name__]["properties"][each.encode_name]["propertyNames"] = names
    extensions = {f"{name}{_PATCH}": _extension(definition) for name, definition in definitions.items()}
    return {
        "$schema": DIALECT,
        "title": "mixc mixture spec",
        "if": {"type": "object", "required": ["extends"]},
        "then": {"$ref": f"#/$defs/Spec{_PATCH}"},
        "else": {"$ref": "#/$defs/Spec"},
        "$defs": dict(sorted({**definitions, **extensions}.items())),
    }


def _extension(definition: dict[str, Any]) -> dict[str, Any]:
    """A struct of which any key may be left out or null. A `name` stays required: lists merge by it."""
    extension: dict[str, Any] = _loosened(definition)
    if "name" in definition["properties"]:
        extension["properties"]["name"] = definition["properties"]["name"]
        extension["required"] = ["name"]
    return extension


def _loosened(value: Any) -> Any:
    """A schema with nothing required, no defaults, and null allowed for every value of every mapping."""
    if isinstance(value, list):
        return [_loosened(item) for item in value]
    if not isinstance(value, dict):
        return value
    loose: dict[str, Any] = {}
    for key, part in value.items():
        if key == "$ref":
            loose[key] = f"{part}{_PATCH}"
        elif key == "properties":
            loose[key] = {name: _nullable(_loosened(each)) for name, each in part.items()}
        elif key == "additionalProperties" and isinstance(part, dict):
            loose[key] = _nullable(_loosened(part))
        elif key == "items" and isinstance(part, dict):
            # a null that comes first removes the items of the base
            loose |= {"prefixItems": [_nullable(_loosened(part))], "items": _loosened(part)}
        elif key not in ("required", "default"):
            loose[key] = _loosened(part)
    return loose


def _nullable(value: dict[str, Any]) -> dict[str, Any]:
    null = {"type": "null"}
    if null in value.get("anyOf", ()):
        return value
    described = {key: value[key] for key in ("description",) if key in value}
    inner = {key: part for key, part in value.items() if key != "description"}
    members = inner["anyOf"] if inner.keys() == {"anyOf"} else [inner]
    return {**described, "anyOf": [*members, null]}
