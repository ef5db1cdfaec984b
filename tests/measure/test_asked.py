"""Every key of a source that changes how its rows become tokens changes the object's key; no other does."""

from __future__ import annotations

import pytest

from mixc.errors import SpecError
from mixc.measure.object import object_digest
from mixc.measure.template import template_named
from mixc.sources.fragment import Fragment
from mixc.sources.sample import Sample, Turn
from mixc.spec.schema import Source
from shards.manifest import Geometry

PLAIN = {"path": "x", "kind": "chat"}


def digest_of(geometry: Geometry, think: bool = False, **fields: object) -> str:
    fragment = Fragment(source="s", path="p", format="jsonl", digest="d", bytes=1)
    source = Source(**PLAIN | fields)  # type: ignore[arg-type]
    template = template_named("univl-chat", think=think)
    return object_digest(fragment, source, geometry=geometry, tokenizer="t", template=template)


@pytest.fixture
def geometry() -> Geometry:
    return Geometry(
        name="m",
        tile_size=448,
        tokens_per_tile=256,
        max_tiles=12,
        min_tiles=1,
        thumbnail=True,
        vocab_size=10,
        image_start_id=1,
        image_end_id=2,
        image_context_id=3,
        pad_id=4,
    )


def test_what_is_asked_of_a_source(geometry: Geometry) -> None:
    asked = [
        {"columns": {"a": "b"}},
        {"columns": {"a": "c"}},
        {"messages_format": "openai"},
        {"frames": "video"},
        {"frames": "video", "max_frames": 4},
        {"number_images": True},
        {"decode_images": False},
        {"template": "chatml"},
        {"image": "i"},
    ]
    digests = [digest_of(geometry, **fields) for fields in [{}, *asked]]
    assert len(set(digests)) == len(digests)
    same = [
        {"evidence": {"path": "x"}},
        {"where": "a > 1"},
        {"path": "y"},
        {"template": "univl-chat"},
        {"number_images": False},
    ]
    assert {digest_of(geometry, **fields) for fields in same} == {digests[0]}


@pytest.mark.parametrize("kind", ["chat", "caption", "ocr", "text"])
def test_models_that_think_share_texts_with_the_others_and_nothing_else(geometry: Geometry, kind: str) -> None:
    for template in (None, "univl-chat", "chatml"):
        without, thinking = (digest_of(geometry, think, kind=kind, template=template) for think in (False, True))
        assert (without == thinking) == (kind == "text")
    # a source's own template is the thinking one, too
    models, its = digest_of(geometry, True, kind=kind), digest_of(geometry, True, kind=kind, template="univl-chat")
    assert models == its


def test_templates_by_name() -> None:
    with pytest.raises(SpecError) as error:
        template_named("univl_chat")
    assert "univl-chat" in error.value.mend
    chat = Sample(row=0, turns=(Turn("user", "q"), Turn("assistant", "a")))
    assert "".join(segment.text for segment in template_named("chatml").segments(chat)) == (
        "<|im_start|>user\nq<|im_end|><|im_start|>assistant\na<|im_end|>"
    )
