"""docs/spec.md is what the schema says, its examples work, and no key appears or goes unnoticed."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import pytest

from mixc.measure.facts import SIGNALS as MEASURED
from mixc.measure.family import FAMILIES
from mixc.plan.groups import tempered
from mixc.spec import reference
from mixc.spec.check import EVERY_SAMPLE, check
from mixc.spec.expression import FUNCTIONS, parse_expression
from mixc.spec.jsonschema import structs
from mixc.spec.load import load
from mixc.spec.quantity import as_written, parse_budget, parse_count, parse_held_out, parse_warmup
from mixc.spec.reference import EXAMPLE, EXTENSION, MIXES, render

PAGE = Path(__file__).resolve().parents[2] / "docs" / "spec.md"

TILES = {name: family.tokens_per_tile for name, family in FAMILIES.items()}

SURFACE = {
    "Spec": "mixture seed model sources stages extends tokenizer tiles groups signals dedup decontaminate held_out"
    " continue_from max_reject_rate evidence",
    "Source": "path kind format columns text image image_root messages messages_format frames max_frames"
    " number_images decode_images template prompt where too_long evidence",
    "Stage": "name budget mix sequence_length train unit mix_end mix_schedule temperature reuse max_tiles order"
    " on_exhausted evidence",
    "MixEntry": "weight where max_epochs quantile balance held_out",
    "Quantile": "by at_least below",
    "Balance": "by temperature",
    "Order": "by direction window steps",
    "Train": "lr batch schedule warmup decay min_lr_ratio layer_decay weight_decay betas eps clip loss label_smoothing"
    " z_loss router_loss drop_path ema spikes adalrs",
    "Spikes": "sigma window",
    "AdaLRS": "window up down decay start end",
    "Tiles": "max thumbnail",
    "Signal": "name function version settings",
    "Dedup": "exact minhash image prefer",
    "MinHash": "threshold ngram permutations",
    "ImageDedup": "phash",
    "Decontaminate": "against ngram phash",
    "ContinueFrom": "build stage step",
}
"""Every key of the spec language. A new one belongs here, in CHANGELOG and, if it decides anything, in a test."""


def test_surface() -> None:
    found = {struct.cls.__name__: [each.encode_name for each in struct.fields] for struct in structs()}
    assert found == {name: keys.split() for name, keys in SURFACE.items()}


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m mixc.spec.reference > docs/spec.md"


def test_example_loads_and_checks(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(EXAMPLE)
    loaded = load(tmp_path / "base.yaml")
    assert check(loaded, models=FAMILIES, tokens_per_tile=TILES) == []
    assert [stage.name for stage in loaded.spec.stages] == ["alignment", "advance", "sft"]
    (tmp_path / "spec.yaml").write_text(EXTENSION)
    extended = load(tmp_path / "spec.yaml")
    unused = check(extended, models=FAMILIES, tokens_per_tile=TILES)
    assert unused == []
    assert extended.spec.stages[0].mix == {"captions": 0.5, "pages": 0.5}
    assert extended.spec.stages[2].mix == ["chat"]
    assert extended.spec.stages[2].order == "shuffle"


def test_mixes_of_the_page(tmp_path: Path) -> None:
    sources = "".join(f"  {name}: {{path: x, kind: caption}}\n" for name in ("captions", "alt_text", "pages"))
    sources += "  prose: {path: x, kind: text}\n"
    (tmp_path / "spec.yaml").write_text(f"mixture: a\nseed: 1\nmodel: sail-vl-2b\nsources:\n{sources}{MIXES}")
    loaded = load(tmp_path / "spec.yaml")
    assert check(loaded, models=FAMILIES, tokens_per_tile=TILES) == []
    weights = {name: as_written(weight) for name, weight in {"images": 0.9, "prose": 0.1}.items()}
    shares = tempered(weights, Fraction(2))
    assert abs(shares["images"] / shares["prose"] - 3) < Fraction(1, 2**50)


def test_override_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(EXAMPLE)
    (command,) = re.findall(r"^mixc plan SPEC (--set .*)$", PAGE.read_text(), flags=re.M)
    overrides = [a or b for a, b in re.findall(r"--set (?:'([^']*)'|(\S+))", command)]
    spec = load(tmp_path / "spec.yaml", overrides).spec
    assert (spec.seed, spec.stages[2].train.batch, spec.stages[2].mix) == (7, 64, {"chat": 2.0, "prose": 1.0})


def test_quantities_of_the_page() -> None:
    section = PAGE.read_text().partition("## Quantities")[2].partition("## ")[0]
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \|$", section, flags=re.M)
    assert len(rows) == 6
    for written, meaning in rows:
        for text in re.findall(r"`(.*?)`", written):
            if "window" in meaning:
                parse_count(text)
            elif "warm-up" in meaning:
                parse_warmup(text)
            elif "held_out" in meaning:
                parse_held_out(text)
            else:
                parse_budget(text, "tokens")


def test_expressions_of_the_page() -> None:
    assert parse_expression("language = 'en' and repetition < 0.2").columns == ("language", "repetition")
    block = "(clip_score >= 0.28 or source_rank <= 3)\nand not regexp_matches(caption, 'stock photo')\n"
    assert "  " + block.replace("\n", "\n  ").rstrip() in PAGE.read_text()
    assert parse_expression(block).columns == ("clip_score", "source_rank", "caption")
    for name in FUNCTIONS:
        assert f"`{name}`" in PAGE.read_text()


def test_signals_are_those_measured() -> None:
    assert EVERY_SAMPLE == MEASURED


def test_links_lead_to_headings() -> None:
    page = PAGE.read_text()
    headings = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", page, flags=re.M)
    }
    links = set(re.findall(r"\]\(#([^)]+)\)", page))
    assert links
    assert links <= headings


@pytest.mark.parametrize("name", SURFACE)
def test_every_struct_has_a_table(name: str) -> None:
    assert name in {section for section, _, _ in reference._SECTIONS}
