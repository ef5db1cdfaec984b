"""From a row to a Sample, by the source's kind. Pure: no file is opened here, and no input makes it raise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from mixc.sources.names import Names
from mixc.sources.raw import RawRow, is_utf8, reject
from mixc.sources.sample import IMAGE_PLACEHOLDER, Reason, Reject, Role, Sample, Scalar, Turn
from mixc.spec.schema import Source

DEFAULT_PROMPTS = {
    "caption": "Describe this image in detail.",
    "ocr": "Transcribe all the text in this image.",
}
"""The user's turn of a caption or page. Ours: SAIL-VL publishes no prompts."""

COLUMN_TEXT_LIMIT = 1024
"""Characters of a string column's value at most; a longer one is left out of `columns`, so that `where` sees
NULL."""

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
_VIDEO_PLACEHOLDER = "<video>"
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1  # what an int64 or uint64 column holds


class _BadRowError(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def normalise(raw: RawRow, source: Source, names: Names, images: tuple[bytes, ...] = ()) -> Sample | Reject:
    """The sample that a row is, or why it is none. `images` are the row's, already read."""
    try:
        columns = _columns(raw.values, names)
        if source.kind == "text":
            return Sample(row=raw.row, text=_text(raw.values, names.text), columns=columns, place=raw.place)
        if source.kind == "chat":
            turns = _conversation(raw.values, names.messages, source.messages_format)
        else:
            turns = _caption(raw.values, names, source, images)
        if source.frames is not None:
            turns = _place_frames(turns, len(images))
        placed = _place(turns, len(images), source.number_images)
        frames = source.frames is not None and bool(images)
        return Sample(
            row=raw.row,
            turns=placed,
            images=images,
            frames=frames,
            template=source.template,
            columns=columns,
            place=raw.place,
        )
    except _BadRowError as bad:
        return reject(raw.row, bad.reason, bad.detail, raw.place)


def scalar_columns(raw: RawRow, names: Names) -> dict[str, Scalar] | Reject:
    """The row's bools, ints, floats, short strings and nulls, sorted by name, without the columns that the
    kind uses.

    NaN becomes None. Lists, objects, bytes, dates, ints beyond 64 bits and strings longer than
    COLUMN_TEXT_LIMIT are left out.
    """
    try:
        return _columns(raw.values, names)
    except _BadRowError as bad:
        return reject(raw.row, bad.reason, bad.detail)


def _columns(values: Mapping[str, object], names: Names) -> dict[str, Scalar]:
    columns: dict[str, Scalar] = {}
    for name in sorted(values.keys() - names.used):
        value = values[name]
        if isinstance(value, float):
            columns[_utf8(name, "a column's name")] = None if math.isnan(value) else value
        elif isinstance(value, str):
            if len(value) <= COLUMN_TEXT_LIMIT:
                columns[_utf8(name, "a column's name")] = _utf8(value, f"column {name!r}")
        elif value is None or (isinstance(value, int) and _INT_MIN <= value <= _INT_MAX):  # a bool is an int
            columns[_utf8(name, "a column's name")] = value
    return columns


def _text(values: Mapping[str, object], name: str | None) -> str:
    """A text column, as it came."""
    assert name is not None  # every kind that calls this has a text column
    value = _present(values, name)
    if not isinstance(value, str):
        raise _BadRowError("wrong_type", f"column {name!r} is {type(value).__name__}, not text")
    if not value or value.isspace():
        raise _BadRowError("empty_text", f"column {name!r} is empty")
    return _utf8(value, f"column {name!r}")


def _present(values: Mapping[str, object], name: str) -> object:
    value = values.get(name)
    if value is None:
        raise _BadRowError("missing_value", f"column {name!r} is {'null' if name in values else 'absent'}")
    return value


def _utf8(text: str, what: str) -> str:
    if not is_utf8(text):
        raise _BadRowError("not_utf8", f"{what} holds a lone surrogate or bytes that are not UTF-8")
    return text


def _caption(values: Mapping[str, object], names: Names, source: Source, images: tuple[bytes, ...]) -> list[Turn]:
    answer = _text(values, names.text)
    if not images:
        _present(values, names.image or "image")
        raise _BadRowError("image_missing", f"column {names.image!r} names no image")
    prompt = source.prompt if source.prompt is not None else DEFAULT_PROMPTS[source.kind]
    return [Turn("user", prompt), Turn("assistant", answer)]


def _conversation(values: Mapping[str, object], names: tuple[str, ...], form: str | None) -> list[Turn]:
    """The turns of a ShareGPT (`from`, `value`) or OpenAI (`role`, `content`) conversation, checked. Its first turn
    tells which, unless the spec does; turns in the other form are refused."""
    name = next((name for name in names if values.get(name) is not None), names[0])
    items = _present(values, name)
    if not isinstance(items, list):
        raise _BadRowError("wrong_type", f"column {name!r} is {type(items).__name__}, not a list of turns")
    share_gpt = form != "openai" if form else bool(items) and isinstance(items[0], dict) and _says(items[0], "from")
    turns = [_turn(item, index, share_gpt) for index, item in enumerate(items)]
    if turns and turns[0].role == "system" and not turns[0].text.strip():
        del turns[0]  # an empty system turn says nothing: the same as none
    start = 1 if turns and turns[0].role == "system" else 0
    for index, turn in enumerate(turns[start:]):
        expected = "assistant" if index % 2 else "user"
        if turn.role != expected:
            raise _BadRowError("bad_turns", f"turn {start + index} is {turn.role}, expected {expected}")
        if turn.role == "assistant" and not turn.text.strip():
            raise _BadRowError("empty_text", f"turn {start + index}: the assistant's text is empty")
    if not turns or turns[-1].role != "assistant":
        raise _BadRowError("bad_turns", "the last turn is not the assistant's" if turns else "no turns")
    return turns


def _says(turn: dict[str, object], key: str) -> bool:
    # Parquet gives every field of a struct, so that a field is absent when it is null
    return turn.get(key) is not None


def _turn(item: object, index: int, share_gpt: bool) -> Turn:
    if not isinstance(item, dict):
        raise _BadRowError("wrong_type", f"turn {index} is {type(item).__name__}, not an object")
    role = item.get("from" if share_gpt else "role")
    content = item.get("value" if share_gpt else "content")
    if role is None:
        if _says(item, "role" if share_gpt else "from"):
            form = "`from` and `value`" if share_gpt else "`role` and `content`"
            raise _BadRowError("bad_turns", f"turn {index} is not written with {form}")
        raise _BadRowError("bad_turns", f"turn {index} has no `from` and no `role`")
    if not isinstance(role, str) or role not in _ROLES:
        raise _BadRowError("bad_turns", f"turn {index} has the role {role!r:.80}")
    if isinstance(content, list):
        content = _parts(content, index)
    if content is None:
        raise _BadRowError("missing_value", f"turn {index} has no text")
    if not isinstance(content, str):
        raise _BadRowError("wrong_type", f"turn {index}: its text is {type(content).__name__}")
    return Turn(_ROLES[role], _utf8(content, f"turn {index}"))


def _parts(parts: list[object], index: int) -> str:
    """OpenAI content parts as one text: an image part is `<image>`, on a line of its own; texts are joined as
    they are.

    The image itself comes from the row's image column.
    """
    text = ""
    after_image = False
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("image", "image_url", "input_image"):
            text += ("\n" if text else "") + IMAGE_PLACEHOLDER
            after_image = True
            continue
        piece = cast(dict[str, object], part).get("text") if kind in ("text", "input_text") else None
        if not isinstance(piece, str):
            known = (
                "expected {type: text, text: ...}, or {type: image} or {type: image_url}, its image in the image column"
            )
            raise _BadRowError("wrong_type", f"turn {index} has a part of type {kind!r:.80}; {known}")
        text += ("\n" if after_image and piece else "") + piece
        after_image = after_image and not piece
    return text


def _place_frames(turns: list[Turn], frames: int) -> list[Turn]:
    """Turns of a video: `Frame-1: <image>`, `Frame-2: <image>`, ... on lines of their own (InternVL 2's form), in the
    place of its one `<video>` or `<image>`, or before the first user turn. Turns that have a place for each of several
    frames stay as they are."""
    lines = "\n".join(f"Frame-{number}: {IMAGE_PLACEHOLDER}" for number in range(1, frames + 1))
    videos, images = _count(turns, _VIDEO_PLACEHOLDER), _count(turns, IMAGE_PLACEHOLDER)
    if videos and not frames:
        raise _BadRowError("image_missing", f"{videos} {_VIDEO_PLACEHOLDER} and no frame")
    if videos > 1 or (videos and images):
        raise _BadRowError("placeholder_mismatch", f"{videos} {_VIDEO_PLACEHOLDER} and {images} {IMAGE_PLACEHOLDER}")
    if not frames:
        return turns
    if videos:
        return _replaced(turns, _VIDEO_PLACEHOLDER, lines)
    if images == 1:
        return _replaced(turns, IMAGE_PLACEHOLDER, lines)
    return turns if images else _before_first(turns, lines + "\n")


def _place(turns: list[Turn], images: int, number_images: bool) -> tuple[Turn, ...]:
    """Turns with as many `<image>` in user turns as there are images: put before the first when there are
    none."""
    found = _count(turns, IMAGE_PLACEHOLDER)
    if images and not found:
        numbered = number_images and images > 1
        turns = _before_first(
            turns,
            "".join(
                f"Image-{k}: {IMAGE_PLACEHOLDER}\n" if numbered else f"{IMAGE_PLACEHOLDER}\n"
                for k in range(1, images + 1)
            ),
        )
    elif found and not images:
        raise _BadRowError("image_missing", f"{found} {IMAGE_PLACEHOLDER} and no image")
    elif found != images:
        raise _BadRowError("placeholder_mismatch", f"{found} {IMAGE_PLACEHOLDER} and {images} images")
    return tuple(turns)


def _count(turns: list[Turn], placeholder: str) -> int:
    return sum(turn.text.count(placeholder) for turn in turns if turn.role == "user")


def _replaced(turns: list[Turn], placeholder: str, text: str) -> list[Turn]:
    return [Turn("user", turn.text.replace(placeholder, text)) if turn.role == "user" else turn for turn in turns]


def _before_first(turns: list[Turn], text: str) -> list[Turn]:
    first = next(index for index, turn in enumerate(turns) if turn.role == "user")
    return [*turns[:first], Turn("user", text + turns[first].text), *turns[first + 1 :]]
