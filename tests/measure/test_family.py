"""Models as data, and the geometry that a spec gets."""

from __future__ import annotations

import msgspec
import pytest

from mixc.errors import SpecError
from mixc.measure.family import FAMILIES, family, geometry
from mixc.measure.template import TEMPLATES
from mixc.measure.tokenizer import NAMES, Tokenizer
from mixc.spec.schema import Spec
from shards.manifest import Geometry


def spec(model: str = "sail-vl-2b", **over: object) -> Spec:
    return msgspec.convert({"mixture": "m", "seed": 1, "model": model, "sources": {}, "stages": [], **over}, Spec)


def test_every_model_names_a_template_and_tokenizer_that_exist() -> None:
    assert set(FAMILIES) == {
        "sail-vl-tiny",
        "sail-vl-tiny-v1",
        "sail-vl-tiny-v1.5",
        "sail-vl-tiny-moe",
        "sail-vl-2b",
        "sail-vl-8b",
        "sail-vl-1.5-2b",
        "sail-vl-1.5-8b",
        "sail-vl-1.6-8b",
        "sail-vl2-1b",
        "sail-vl2-2b",
        "sail-vl2-8b",
        "sail-vl2-30b-a3b",
    }
    for entry in FAMILIES.values():
        assert entry.template in TEMPLATES
        assert entry.tokenizer in NAMES
        assert entry.tokens_per_tile == (entry.tile_size // 14 // 2) ** 2


def test_who_has_the_tags_of_thoughts_as_tokens() -> None:
    thinking = {name for name, entry in FAMILIES.items() if entry.think}
    assert thinking == {"sail-vl2-1b", "sail-vl2-2b", "sail-vl2-8b", "sail-vl2-30b-a3b"}
    assert thinking == {name for name, entry in FAMILIES.items() if entry.tokenizer == "qwen3"}


@pytest.mark.parametrize("model", FAMILIES)
def test_every_models_tokenizer_fits_its_embeddings(model: str, tokenizer: Tokenizer) -> None:
    assert geometry(spec(model), tokenizer).vocab_size >= tokenizer.size == 151678


def test_the_family_and_the_tokenizer_decide_the_geometry(tokenizer: Tokenizer, shape: Geometry) -> None:
    assert geometry(spec(), tokenizer) == shape


def test_the_spec_overrides_the_tiling(tokenizer: Tokenizer) -> None:
    found = geometry(spec(tiles={"max": 4, "thumbnail": False}), tokenizer)
    assert (found.max_tiles, found.thumbnail) == (4, False)


def test_an_unknown_model_is_named_with_the_likeliest() -> None:
    with pytest.raises(SpecError, match="did you mean 'sail-vl-2b'"):
        family("sail_vl-2b")


class Small:
    """A vocabulary without SAIL's tokens, or with too many ids."""

    def __init__(self, size: int) -> None:
        self.size = size

    def special(self, name: str) -> int:
        raise SpecError(f"no {name}")


def test_a_tokenizer_with_more_ids_than_embeddings_is_refused() -> None:
    with pytest.raises(SpecError, match="ids up to 199999, but sail-vl-2b has 151936 embeddings"):
        geometry(spec(), Small(200_000))


def test_a_tokenizer_without_the_image_tokens_is_refused() -> None:
    with pytest.raises(SpecError, match="<img>"):
        geometry(spec(), Small(1000))
