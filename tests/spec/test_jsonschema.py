"""The JSON Schema agrees with the loader, and documents every key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec.inspect as mi
import pytest

from mixc.spec.jsonschema import field_docs, json_schema, structs
from mixc.spec.reference import EXAMPLE, EXTENSION, MISTAKEN
from mixc.spec.yaml import parse, plain
from tests.spec.conftest import GOOD, unmark
from tests.spec.test_load import WRONG

STRUCTS = {struct.cls.__name__: struct for struct in structs()}

KEYWORDS = {
    *("$ref", "$schema", "$defs", "title", "description", "default", "type", "enum", "anyOf", "if", "then", "else"),
    *("properties", "required", "additionalProperties", "propertyNames", "items", "prefixItems"),
    *("minItems", "maxItems", "pattern", "maxLength", "minimum", "maximum", "exclusiveMinimum"),
}


def problems(value: Any, schema: Any, root: dict[str, Any], at: str = "$") -> list[str]:
    """What a validator of the keywords that the schema uses would say (compared once with `jsonschema` 4.26)."""
    if isinstance(schema, bool):
        return [] if schema else [f"{at}: nothing is allowed here"]
    assert schema.keys() <= KEYWORDS, schema.keys() - KEYWORDS
    found: list[str] = []

    def inner(part: Any, of: Any, where: str = at) -> list[str]:
        return problems(part, of, root, where)

    if "$ref" in schema:
        found += inner(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")])
    if "if" in schema:
        found += inner(value, schema["else"] if inner(value, schema["if"]) else schema["then"])
    if "anyOf" in schema and all(inner(value, each) for each in schema["anyOf"]):
        found.append(f"{at}: fits none of {len(schema['anyOf'])}")
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kind = schema.get("type")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in ("integer", "number"):
        if not number or (kind == "integer" and not isinstance(value, int)):
            found.append(f"{at}: not {kind}")
    elif kind and not isinstance(value, kinds[kind]):
        found.append(f"{at}: not {kind}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: not one of {schema['enum']}")
    if number:
        found += [f"{at}: too small"] * (value < schema.get("minimum", value))
        found += [f"{at}: too small"] * ("exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"])
        found += [f"{at}: too large"] * (value > schema.get("maximum", value))
    if isinstance(value, str):
        found += [f"{at}: too long"] * (len(value) > schema.get("maxLength", len(value)))
        found += [f"{at}: no match"] * (not re.search(schema.get("pattern", "").replace("$", r"\Z"), value))
    if isinstance(value, list):
        before = schema.get("prefixItems", [])
        found += [f"{at}: too short"] * (len(value) < schema.get("minItems", 0))
        found += [f"{at}: too long"] * (len(value) > schema.get("maxItems", len(value)))
        for i, item in enumerate(value):
            found += inner(item, before[i] if i < len(before) else schema.get("items", True), f"{at}[{i}]")
    if isinstance(value, dict):
        found += [f"{at}: lacks {key}" for key in schema.get("required", ()) if key not in value]
        for key, item in value.items():
            found += inner(key, schema.get("propertyNames", True), f"{at}.{key}")
            known = schema.get("properties", {})
            found += inner(item, known.get(key, schema.get("additionalProperties", True)), f"{at}.{key}")
    return found


def of(text: str) -> list[str]:
    schema = json_schema()
    return problems(plain(parse(text.encode(), "f")), schema, schema)


@pytest.mark.parametrize("text", [GOOD, EXAMPLE, EXTENSION], ids=["good", "example", "extension"])
def test_takes_good_specs(text: str) -> None:
    assert of(text) == []


STRICTER = {"infinite", "not a number", "overflow"}
"""JSON has no such numbers, so no schema can refuse them."""


@pytest.mark.parametrize("name", sorted(WRONG.keys() - STRICTER))
def test_refuses_what_the_loader_refuses(name: str) -> None:
    old, new, *_ = WRONG[name]
    assert of(unmark(GOOD.replace(old, new)).text)


def test_a_spec_that_extends_may_leave_out_and_remove_but_not_invent() -> None:
    assert of("extends: a.yaml\n") == []
    assert (
        of("extends: a.yaml\nstages: [{name: x, mix: {a: null, b: {where: null}}, train: {lr: {vision: null}}}]\n")
        == []
    )
    assert of("extends: a.yaml\nsources: {a: null}\ndedup: null\n") == []
    assert of("extends: a.yaml\nstages: [null, {name: x}]\n") == []
    assert of("extends: a.yaml\nstages: [{name: x}, null]\n")
    assert of("extends: a.yaml\nsede: 1\n")
    assert of("extends: a.yaml\nstages: [{budget: 1 epoch}]\n")  # lists merge by name
    assert of("extends: a.yaml\nstages: [{name: x, batch: 1}]\n")
    assert of("mixture: a\n")
    assert of(MISTAKEN)


def test_every_key_is_described() -> None:
    definitions = json_schema()["$defs"]
    for name, struct in STRUCTS.items():
        keys = {each.encode_name for each in struct.fields}
        assert field_docs()[name].keys() == keys, name
        for variant in (name, f"{name}Extension"):
            assert definitions[variant]["properties"].keys() == keys
            assert definitions[variant]["additionalProperties"] is False
            assert all(part["description"] for part in definitions[variant]["properties"].values())


def test_references_lead_somewhere() -> None:
    schema = json_schema()
    targets = {m.removeprefix("#/$defs/") for m in re.findall(r"#/\$defs/\w+", str(schema))}
    assert targets <= schema["$defs"].keys()
    assert {"Spec", "SpecExtension"} <= targets


def test_structs_are_those_of_the_schema() -> None:
    from mixc.spec import schema

    source = Path(schema.__file__).read_text()
    assert set(STRUCTS) == set(re.findall(r"^class (\w+)\(msgspec.Struct", source, flags=re.M))
    assert all(isinstance(struct, mi.StructType) for struct in STRUCTS.values())
