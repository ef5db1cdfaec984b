"""Samples in, an object out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace as with_fields

from mixc.errors import BuildError
from mixc.measure import samples
from mixc.measure.facts import FACTS_SCHEMA, MEDIA_SCHEMA, RECORD_IMAGE, REJECTS_SCHEMA, ObjectInfo
from mixc.measure.identity import content_digest, image_digest, sample_id
from mixc.measure.object import (
    FACTS,
    MEDIA,
    REJECTS,
    Object,
    object_digest,
    object_path,
    read_info,
    reject_counts,
    write_object,
)
from mixc.measure.records import parts
from mixc.measure.samples import measure_rows
from mixc.measure.template import TEMPLATES, Template, Tokens, template_named
from mixc.measure.tokenizer import Tokenizer
from mixc.sources.fragment import Fragment
from mixc.sources.sample import Reject, Sample, Turn
from mixc.spec.schema import Source
from shards.manifest import Geometry

Picture = Callable[..., bytes]
Measured = Callable[..., Object]

FRAGMENT = Fragment(source="s", path="/anywhere/a.jsonl", format="jsonl", digest="ab" * 32, bytes=1)
SOURCE = Source(path="a.jsonl", kind="chat")
TEMPLATE = TEMPLATES["univl-chat"]
KEY = "0123" * 16


@pytest.fixture
def measured(tokenizer: Tokenizer, shape: Geometry, tmp_path: Path) -> Measured:
    def run(
        rows: Iterable[Sample | Reject],
        tokenizer: Tokenizer = tokenizer,
        folder: Path = tmp_path,
        template: Template = TEMPLATE,
    ) -> Object:
        with write_object(folder, KEY) as writer:
            fast = measure_rows(rows, writer, source="s", geometry=shape, tokenizer=tokenizer, template=template)
            writer.finish(FRAGMENT, KEY, fast_tokenizer=fast)
        return Object(object_path(folder, KEY))

    return run


def record_of(found: Object, fact: dict[str, Any]) -> Any:
    """A sample's tokens, spans and images."""
    words = found.words[fact["offset"] // 4 : (fact["offset"] + fact["length"]) // 4]
    one = parts(words, np.array([0]), np.array([len(words)]))
    tokens = words[int(one.at[0]) :][: int(one.tokens[0])]
    return Tokens(tokens, words[one.span_words].reshape(-1, 2), words[one.image_words].view(RECORD_IMAGE))


def info_of(found: Object) -> ObjectInfo:
    info = read_info(found.path)
    assert info is not None
    return info


def turns(*texts: str) -> tuple[Turn, ...]:
    roles = ("user", "assistant") * (len(texts) // 2)
    return tuple(Turn(role, text) for role, text in zip(roles, texts, strict=True))


def test_an_object_holds_what_facts_say(measured: Measured, tokenizer: Tokenizer, picture: Picture) -> None:
    small, large = picture(448, 448), picture(896, 448, "JPEG", seed=3)
    chat = turns("<image> and <image>", "Two.", "Again <image>?", "Yes, the first.")
    rows = [
        Sample(row=0, text="Hello, world!", columns={"score": 1, "lang": "en"}),
        Reject(row=1, reason="broken_row", detail="not JSON", place="line 2"),
        Sample(row=2, turns=chat, images=(small, large, small), columns={"score": 0.5}),
    ]
    found = measured(rows)
    text, conversation = pq.read_table(found.path / FACTS).to_pylist()
    assert pq.read_schema(found.path / FACTS).names == [*FACTS_SCHEMA.names, "col:lang", "col:score"]
    assert (text["col:score"], text["col:lang"], conversation["col:score"]) == (1.0, "en", 0.5)

    content = content_digest(None, chat, [image_digest(image) for image in (small, large, small)])
    assert conversation["content"] == UUID(bytes=content)
    assert conversation["id"] == UUID(bytes=sample_id("s", content))

    record = record_of(found, text)
    assert record.ids.tolist() == [9707, 11, 1879, 0, 151643]
    assert record.spans.tolist() == [[1, 5]]
    assert (text["row"], text["tokens"], text["supervised_tokens"], text["characters"]) == (0, 5, 4, 13)
    assert [text[name] for name in ("images", "tiles", "turns", "width", "height", "image_bytes")] == [0] * 6

    record = record_of(found, conversation)
    spans = [tokenizer.decode(record.ids[start:end]) for start, end in record.spans]
    assert spans == ["Two.<|im_end|>", "Yes, the first.<|im_end|>"]
    assert [i["digest"].tobytes() for i in record.images] == [
        image_digest(small),
        image_digest(large),
        image_digest(small),
    ]
    assert record.ids[record.images["position"]].tolist() == [151671] * 3
    grids = [(int(i["cols"]), int(i["rows"]), int(i["thumbnail"])) for i in record.images]
    assert grids == [(1, 1, 0), (2, 1, 1), (1, 1, 0)]
    assert conversation["tiles"] == 1 + 3 + 1
    assert conversation["tokens"] == len(record.ids) - 3 + 5 * 256
    assert conversation["supervised_tokens"] == sum(end - start for start, end in record.spans.tolist())
    assert (conversation["images"], conversation["turns"], conversation["row"]) == (3, 4, 2)
    assert (conversation["width"], conversation["height"]) == (896, 448)
    assert conversation["image_bytes"] == 2 * len(small) + len(large)

    media = pq.read_table(found.path / MEDIA)
    assert media.schema.equals(MEDIA_SCHEMA)
    for row, image in zip(media.to_pylist(), (small, large, small), strict=True):
        assert found.image(row["offset"], row["size"]) == image
        assert row["digest"] == image_digest(image)
    assert media["extension"].to_pylist() == ["png", "jpg", "png"]
    assert (found.path / "media.bin").stat().st_size == len(small) + len(large)  # once each

    assert pq.read_table(found.path / REJECTS).to_pylist() == [
        {"row": 1, "reason": "broken_row", "detail": "not JSON", "place": "line 2"}
    ]
    assert (info_of(found).samples, info_of(found).rejects, info_of(found).fast_tokenizer) == (2, 1, True)
    assert info_of(found).tokens == text["tokens"] + conversation["tokens"]
    assert info_of(found).columns == {"lang": "string", "score": "double"}


def test_unusable_samples_are_rejected_with_their_reason(measured: Measured, picture: Picture) -> None:
    good = picture(20, 20)
    ask = turns("<image>", "x")
    rows: list[Sample | Reject] = [
        Sample(row=0, turns=ask, images=(b"",)),
        Sample(row=1, turns=ask, images=(picture(300, 300, "JPEG")[:-900],)),
        Sample(row=2, turns=ask, images=(b"GIF89a" + b"\x30\x75\x30\x75\0\0\0,\0\0\0\0\x30\x75\x30\x75\0\x02\0;",)),
        Sample(row=3, turns=turns("<image><image>", "x"), images=(good, b"nothing")),
        Sample(row=4, turns=ask, images=()),
        Sample(row=5, turns=turns("none", "x"), images=(good,)),
        Sample(row=6, text=""),
        Sample(row=7, text="lone \ud800 surrogate"),
        Sample(row=8, text="fine", columns={"c": "\udfff"}),
        Sample(row=9, turns=ask, images=(good,)),
    ]
    found = measured(rows)
    rejects = pq.read_table(found.path / REJECTS)
    assert rejects.schema.equals(REJECTS_SCHEMA)
    assert [(row["row"], row["reason"]) for row in rejects.to_pylist()] == [
        (0, "image_empty"),
        (1, "image_undecodable"),
        (2, "image_bomb"),
        (3, "image_undecodable"),
        (5, "placeholder_mismatch"),
        (6, "empty_text"),
        (7, "not_utf8"),
        (8, "not_utf8"),
    ]
    assert rejects["detail"].to_pylist()[3] == "image 2 of 2: no known image format"
    assert pq.read_table(found.path / FACTS)["row"].to_pylist() == [4, 9]
    assert reject_counts(found.path) == {
        "empty_text": 1,
        "image_bomb": 1,
        "image_empty": 1,
        "image_undecodable": 2,
        "not_utf8": 2,
        "placeholder_mismatch": 1,
    }
    # an image of a rejected sample is kept only for the sample that has it, too, and is not rejected
    assert pq.read_table(found.path / MEDIA)["digest"].to_pylist() == [image_digest(good)]
    assert (found.path / "media.bin").read_bytes() == good


def test_an_empty_fragment_is_an_object(measured: Measured) -> None:
    found = measured([])
    assert (info_of(found).samples, info_of(found).rejects, info_of(found).tokens) == (0, 0, 0)
    assert pq.read_table(found.path / FACTS).schema.equals(FACTS_SCHEMA)
    assert reject_counts(found.path) == {}


def some_rows(picture: Picture) -> list[Sample | Reject]:
    rows: list[Sample | Reject] = []
    for i in range(40):
        if i % 13 == 5:
            rows.append(Reject(row=i, reason="missing_value", detail="no text"))
        elif i % 3:
            rows.append(Sample(row=i, turns=turns(f"<image> {i}", f"é{i}"), images=(picture(60, 40 + i % 5),)))
        else:
            rows.append(Sample(row=i, text=f"text {i} " * i or "x", columns={"n": i, "s": "a" * (i % 4)}))
    return rows


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_size_of_batches_shows_in_no_byte(
    measured: Measured, picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = some_rows(picture)
    first = files(measured(rows, folder=tmp_path / "a").path)
    monkeypatch.setattr(samples, "BATCH_SAMPLES", 3)
    assert files(measured(iter(rows), folder=tmp_path / "b").path) == first
    monkeypatch.setattr(samples, "BATCH_CHARACTERS", 1)
    assert files(measured(rows, folder=tmp_path / "c").path) == first


def test_words_that_were_let_go_are_read_again(measured: Measured) -> None:
    found = measured([Sample(row=0, text="some text"), Sample(row=1, text="and more")])
    before = found.words.copy()
    found.let_go()
    assert np.array_equal(found.words, before)
    empty = measured([], folder=found.path.parent / "empty")
    empty.let_go()
    assert not len(empty.words)


def test_what_an_object_has_lost_is_told(measured: Measured, picture: Picture) -> None:
    found = measured([Sample(row=0, turns=turns("<image>", "a"), images=(picture(40, 40),))])
    size = (found.path / "media.bin").stat().st_size
    assert found.image(0, size) == picture(40, 40)
    with pytest.raises(BuildError, match="does not hold an image"):
        found.image(1, size)
    for name, use in (("media.bin", lambda o: o.image(0, size)), ("samples.bin", lambda o: o.words)):
        (found.path / name).unlink()
        with pytest.raises(BuildError, match=f"{name}: an object is gone"):
            use(Object(found.path))


class Differs(Tokenizer):
    """Its fast side gives other ids, and says nothing."""

    def encode_fast(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids, offsets = self.encode_reference(texts)
        return ids + np.uint32(1), offsets


class GivesUp(Tokenizer):
    """Its fast side fails on a text that the first comparison did not hold."""

    def encode_fast(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        if any("text 30" in text for text in texts):
            raise RuntimeError("match limit exceeded")
        return self.encode_reference(texts)


@pytest.mark.parametrize("kind", [Differs, GivesUp])
def test_a_fast_tokenizer_that_fails_here_is_replaced_and_recorded(
    measured: Measured,
    picture: Picture,
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Tokenizer],
) -> None:
    monkeypatch.setattr(samples, "BATCH_SAMPLES", 5)
    rows = some_rows(picture)
    right = measured(rows, replace(tokenizer, fast=False), folder=tmp_path / "a")
    assert not info_of(right).fast_tokenizer
    found = measured(rows, kind(tokenizer.path, tokenizer.digest, fast=True), folder=tmp_path / "b")
    assert not info_of(found).fast_tokenizer
    assert files(found.path) == files(right.path)


def test_what_an_object_is_keyed_by(shape: Geometry) -> None:
    def key(fragment: Fragment = FRAGMENT, source: Source = SOURCE, shape: Geometry = shape, **over: Any) -> str:
        return object_digest(fragment, source, geometry=shape, **{"tokenizer": "t", "template": TEMPLATE, **over})

    same = [
        key(replace(FRAGMENT, path="/elsewhere/b.jsonl", bytes=2)),
        key(source=with_fields(SOURCE, path="b.jsonl", where="x > 1", too_long="drop", image_root="i")),
        key(shape=with_fields(shape, name="sail-vl-tiny", vocab_size=152064)),
    ]
    assert same == [key()] * 3
    others = [
        key(replace(FRAGMENT, digest="cd" * 32)),
        key(replace(FRAGMENT, source="other")),
        key(replace(FRAGMENT, format="json")),
        *(key(source=with_fields(SOURCE, **{n: "x"})) for n in ("text", "image", "messages", "prompt")),
        key(source=with_fields(SOURCE, kind="text")),
        *(key(shape=with_fields(shape, **{n: 5})) for n in ("tile_size", "tokens_per_tile", "max_tiles", "min_tiles")),
        key(shape=with_fields(shape, thumbnail=False)),
        key(tokenizer="v"),
        key(template=TEMPLATES["chatml"]),
        key(template=template_named("univl-chat", think=True)),
    ]
    assert len({key(), *others}) == len(others) + 1


def test_a_thought_is_measured_with_its_tokens(measured: Measured, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """By the fast tokenizer and by the reference, with the model's template and with a source's own."""
    said = turns("<think>?", "<think>\n1, 2</think> 2", "Sure?", "</think>Yes.<think>")
    rows = [Sample(row=0, turns=said), Sample(row=1, turns=said, template="chatml"), Sample(row=2, text="<think>x")]
    found = measured(rows, template=template_named("univl-chat", think=True))
    slow = measured(rows, replace(tokenizer, fast=False), tmp_path / "slow", template_named("univl-chat", think=True))
    assert (
        info_of(found).fast_tokenizer
        and (found.path / "samples.bin").read_bytes() == (slow.path / "samples.bin").read_bytes()
    )
    facts = pq.read_table(found.path / FACTS).to_pylist()
    for fact in facts[:2]:
        record = record_of(found, fact)
        assert [i for i in record.ids.tolist() if i in (151667, 151668)] == [151667, 151668, 151668, 151667]
        spans = [tokenizer.decode(record.ids[start:end]) for start, end in record.spans]
        assert spans == ["<think>\n1, 2</think> 2<|im_end|>", "</think>Yes.<think><|im_end|>"]
        assert (fact["tokens"], fact["supervised_tokens"]) == (
            len(record.ids),
            sum(b - a for a, b in record.spans.tolist()),
        )
    assert not {151667, 151668} & set(record_of(found, facts[2]).ids.tolist())
    plain = measured(rows, folder=tmp_path / "plain")
    for fact in pq.read_table(plain.path / FACTS).to_pylist():
        assert not {151667, 151668} & set(record_of(plain, fact).ids.tolist())


@pytest.mark.parametrize("damage", ["info_missing", "info_cut", "info_other_key", "cut", "grown", "missing"])
def test_a_damaged_object_is_none(measured: Measured, picture: Picture, damage: str) -> None:
    path = measured(some_rows(picture)).path
    assert isinstance(read_info(path), ObjectInfo)
    info, data = path / "object.json", path / "samples.bin"
    match damage:
        case "info_missing":
            info.unlink()
        case "info_cut":
            info.write_bytes(info.read_bytes()[:-5])
        case "info_other_key":
            info.write_text(json.dumps(json.loads(info.read_text()) | {"digest": "0" * 64}))
        case "cut":
            data.write_bytes(data.read_bytes()[:-4])
        case "grown":
            data.write_bytes(data.read_bytes() + b"\0")
        case "missing":
            data.unlink()
    assert read_info(path) is None
    before = files(measured(some_rows(picture)).path)  # measured again, it replaces the damaged one
    assert read_info(path) is not None
    assert before == files(path)
