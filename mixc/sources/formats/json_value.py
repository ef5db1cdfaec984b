"""One JSON value, as Python's json module reads it, and as fast as msgspec where both agree."""

from __future__ import annotations

import json

import msgspec

DEPTH_LIMIT = 256
"""Deepest nesting of lists and objects in a row. Without it the answer would hang on the depth of our own
stack."""


class BadJSONError(ValueError):
    """The text is not one JSON value, or one nested too deeply."""


def parse(text: str) -> object:
    """The value of `text`. NaN and Infinity are numbers and a lone `\\ud800` a lone surrogate, since
    json.dumps writes both; of a repeated key the last counts. Raises BadJSONError."""
    try:
        value: object = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:  # its own words count lines, of which a row of a file of lines is one
            raise BadJSONError(f"not JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}") from None
        except (ValueError, RecursionError) as error:
            deep = isinstance(error, RecursionError)
            raise BadJSONError("nested too deeply" if deep else str(error)) from None
    if too_deep(value, text.count("[") + text.count("{")):
        raise BadJSONError(f"nested more than {DEPTH_LIMIT} deep")
    return value


def parse_utf8(data: bytes) -> object:
    """`parse` of the text that `data` is, without making that text of it where msgspec takes it. Raises UnicodeDecodeError, and
    BadJSONError."""
    try:
        value: object = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return parse(data.decode())
    if not _is_flat(value) and too_deep(value, data.count(b"[") + data.count(b"{")):
        raise BadJSONError(f"nested more than {DEPTH_LIMIT} deep")
    return value


def _is_flat(value: object) -> bool:
    """Whether it is an object without lists and objects in it: then there is no need to count brackets in a long text."""
    return isinstance(value, dict) and not any(isinstance(item, dict | list) for item in value.values())


def too_deep(value: object, brackets: int) -> bool:
    """Whether `value`, whose text has so many opening brackets, is nested more than DEPTH_LIMIT deep."""
    if brackets <= DEPTH_LIMIT:
        return False
    level, depth = [value], 0
    while level:
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        depth += any(isinstance(item, dict | list) for item in level)
        if depth > DEPTH_LIMIT:
            return True
        level = [item for item in inner if isinstance(item, dict | list)]
    return False
