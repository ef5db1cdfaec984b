"""However a spec is written, its canonical form is one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.errors import SpecError
from mixc.spec.canonical import canonical, canonical_bytes
from mixc.spec.convert import convert
from mixc.spec.load import LoadedSpec, load, load_form
from mixc.spec.yaml import parse
from tests.spec.conftest import GOOD

SPECS = Path(__file__).resolve().parents[2] / "specs"
SHIPPED = sorted(
    path
    for folder in ("", "sail_vl", "sail_vl2")
    for path in (SPECS / folder).glob("*.yaml")
    if path.name != "base.yaml"
)
"""Whole specs: a base is only a part of one."""

LoadText = Callable[..., LoadedSpec]

RICH: dict[str, Any] = {
    "mixture": "demo",
    "seed": 7,
    "model": "sail-vl-tiny",
    "sources": {
        "captions": {"path": ["b/*.tar", "a/*.tar"], "kind": "caption", "where": "x < 1 and y = 'it''s: {}'"},
        "prose": {"path": "p.jsonl", "kind": "text", "text": "content"},
        "chat": {"path": "c.json", "kind": "chat", "where": "n > 2\nor m # 3 > 1"},
    },
    "dedup": {"exact": True},
    "stages": [
        {
            "name": "one",
            "budget": "4B tokens",
            "mix": {"captions": 0.7, "prose": {"weight": 0.3, "max_epochs": 2.5}},
            "sequence_length": 4096,
            "train": {"lr": {"projector": 0.0002, "vision": 1e-5}, "batch": 8, "warmup": "3%", "betas": [0.9, 0.95]},
        },
        {
            "name": "two",
            "budget": 1000,
            "mix": ["chat", "prose"],
            "sequence_length": 4096,
            "order": {"by": "n", "window": "10k"},
            "train": {"lr": {"language": 1e-5}, "batch": 8},
        },
    ],
}


def quoted(text: str, dice: random.Random) -> str:
    styles = [json.dumps(text)]
    if "\n" not in text:
        styles.append("'" + text.replace("'", "''") + "'")
        if all(c.isalnum() or c in "_-./*" for c in text) and text[0].isalpha():
            styles += [text, text]
    return dice.choice(styles)


def write(value: Any, dice: random.Random, indent: int) -> str:
    """YAML of a value in one of many ways, to stand after `key:` or `-`."""
    pad = " " * indent
    if isinstance(value, str):
        return f" {quoted(value, dice)}"
    if not isinstance(value, dict | list):
        return f" {json.dumps(value)}"
    if not value or dice.random() < 0.3:
        return f" {flow(value, dice)}"
    lines = []
    pairs = list(value.items()) if isinstance(value, dict) else [(None, item) for item in value]
    if isinstance(value, dict):
        dice.shuffle(pairs)
    for key, item in pairs:
        if dice.random() < 0.2:
            lines.append(dice.choice(["", f"{pad}# a comment: {{", "      # b"]))
        head = "-" if key is None else f"{quoted(key, dice)}:"
        lines.append(f"{pad}{head}{write(item, dice, indent + dice.choice([2, 3]))}{dice.choice(['', '', '  # c'])}")
    return "\n" + "\n".join(lines)


def flow(value: Any, dice: random.Random) -> str:
    if isinstance(value, str):
        return quoted(value, dice)
    if isinstance(value, dict):
        pairs = list(value.items())
        dice.shuffle(pairs)
        return "{" + ", ".join(f"{quoted(k, dice)}: {flow(v, dice)}" for k, v in pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(item, dice) for item in value) + "]"
    return json.dumps(value)


def form(text: str) -> bytes:
    return canonical_bytes(convert(parse(text.encode(), "f")))


PLAIN = form(json.dumps(RICH))


@given(st.integers(0, 2**32))
@settings(max_examples=120, deadline=None)
def test_layout_does_not_matter(seed: int) -> None:
    text = write(RICH, random.Random(seed), 0)
    assert form(text) == PLAIN


SAME = {
    "suffixes": ("budget: 4M tokens", "budget: 4_000k tokens"),
    "a bare number in the stage's unit": ("budget: 4M tokens", "budget: 4000000"),
    "epoch and epochs": ("budget: 1 epoch", "budget: 1.0 epochs"),
    "a default written out": ("budget: 1 epoch", "unit: tokens\n    on_exhausted: fail\n    budget: 1 epoch"),
    "the default order": ("budget: 1 epoch", "order: shuffle\n    budget: 1 epoch"),
    "the default order in its long form": ("budget: 1 epoch", "order: {window: 100_000}\n    budget: 1 epoch"),
    "the default cap": (
        "budget: 1 epoch\n    mix: [chat, prose]",
        "budget: 1 epoch\n    mix: {prose: {max_epochs: 1}, chat: {}}",
    ),
    "a mix as a mapping": ("mix: [chat, prose]", "mix: {prose: {}, chat: {}}"),
    "a mix in another order": ("mix: [chat, prose]", "mix: [prose, chat]"),
    "a share in its long form": ("pages: 0.3", "pages: {weight: 0.3}"),
    "another spelling of a number": ("pages: 0.3", "pages: 3.0e-1"),
    "one path in a list": ("path: pages.tar", "path: [pages.tar]"),
    "paths in another order": ("[chat.jsonl, more.json]", "[more.json, chat.jsonl]"),
    "what happens to long text": ("kind: text", "kind: text, too_long: split"),
    "an alias": ("{projector: 2e-4}, batch: 8", "{projector: &r 2e-4}, batch: 8"),
}


@pytest.mark.parametrize("case", SAME.values(), ids=SAME)
def test_same(case: tuple[str, str]) -> None:
    old, new = case
    assert GOOD.count(old) == 1
    assert form(GOOD.replace(old, new)) == form(GOOD)


DIFFERENT = {
    "a seed": ("seed: 7", "seed: 8"),
    "a share": ("pages: 0.3", "pages: 0.30000000000000004"),
    "a condition": ("kind: ocr", "kind: ocr, where: a < 1"),
    "a path": ("path: pages.tar", "path: page.tar"),
    "a budget": ("budget: 4M tokens", "budget: 4M samples"),
    "a window": ("budget: 1 epoch", "order: {window: 99999}\n    budget: 1 epoch"),
    "a rate": ("projector: 2e-4", "projector: 2e-5"),
    "a stage's name": ("name: sft", "name: tuning"),
    "a share instead of sizes": ("mix: [chat, prose]", "mix: {chat: 1, prose: 1}"),
}


@pytest.mark.parametrize("case", DIFFERENT.values(), ids=DIFFERENT)
def test_different(case: tuple[str, str]) -> None:
    old, new = case
    assert GOOD.count(old) == 1
    assert form(GOOD.replace(old, new)) != form(GOOD)


NEW = """\
groups: {images: {web: 3, pages: 1}, web: [captions, alt]}
signals: [language, {name: mine, function: "a.b:c", settings: {n: 3}}]
dedup: {exact: true, minhash: {}, image: {phash: 2}, prefer: [pages, alt]}
decontaminate: {against: [b.jsonl, a.jsonl], phash: 3}
held_out: {pages: 500 samples, prose: 1%}
continue_from: {build: ../old, stage: align, step: 10}
"""
MIXED = """\
    mix: {images: {weight: 1, quantile: {by: x, below: 0.5}, balance: {by: y}}, prose: 0}
    mix_end: {images: 0.5, prose: 0.5}
    mix_schedule: cosine
    temperature: 2
    reuse: true
"""
WITH_NEW = (
    (NEW + GOOD)
    .replace("    mix: {captions: 0.7, pages: 0.3}\n", MIXED)
    .replace("kind: text}", "kind: text}\n  alt: {path: alt.csv, kind: caption, columns: {text: a.b}}")
)

SAME_NEW = {
    "members of a list in another order": ("web: [captions, alt]", "web: [alt, captions]"),
    "members of a group in another order": ("{web: 3, pages: 1}", "{pages: 1.0, web: 3}"),
    "a signal in its long form": ("[language,", "[{name: language},"),
    "signals in another order": (
        'signals: [language, {name: mine, function: "a.b:c", settings: {n: 3}}]',
        'signals: [{name: mine, settings: {n: 3}, function: "a.b:c", version: "1"}, language]',
    ),
    "defaults of near-duplicates": ("minhash: {}", "minhash: {threshold: 0.8, ngram: 5}"),
    "benchmarks in another order": ("[b.jsonl, a.jsonl]", "[a.jsonl, b.jsonl]"),
    "amounts held out": ("500 samples, prose: 1%", "0.5k samples, prose: 1.0 %"),
    "a quantile from 0": ("{by: x, below: 0.5}", "{by: x, at_least: 0, below: 0.5}"),
    "an expression in a block": ("{by: y}", '{by: " y "}'),
    "evidence": ("temperature: 2", "temperature: 2\n    evidence: {mix: made up}"),
}


@pytest.mark.parametrize("case", SAME_NEW.values(), ids=SAME_NEW)
def test_same_with_later_keys(case: tuple[str, str]) -> None:
    old, new = case
    assert WITH_NEW.count(old) == 1
    assert form(WITH_NEW.replace(old, new)) == form(WITH_NEW)


DIFFERENT_NEW = {
    "sizes instead of weights": ("web: [captions, alt]", "web: {captions: 1, alt: 1}"),
    "a setting of a signal": ("{n: 3}", "{n: 4}"),
    "whom to prefer": ("[pages, alt]", "[alt, pages]"),
    "no n-grams": ("phash: 3}", "phash: 3, ngram: null}"),
    "an amount": ("prose: 1%", "prose: 2%"),
    "a temperature": ("temperature: 2", "temperature: 3"),
    "a share at the end": ("prose: 0.5}", "prose: 0.6}"),
    "a schedule": ("mix_schedule: cosine", "mix_schedule: linear"),
    "whether used samples may be used": ("reuse: true", "reuse: false"),
    "a class": ("{by: y}", "{by: z}"),
    "a step": ("step: 10", "step: 11"),
    "a column": ("{text: a.b}", "{text: a.c}"),
}


@pytest.mark.parametrize("case", DIFFERENT_NEW.values(), ids=DIFFERENT_NEW)
def test_different_with_later_keys(case: tuple[str, str]) -> None:
    old, new = case
    assert WITH_NEW.count(old) == 1
    assert form(WITH_NEW.replace(old, new)) != form(WITH_NEW)


def test_later_keys_can_be_read_back() -> None:
    assert form(form(WITH_NEW).decode()) == form(WITH_NEW)


def test_later_keys_at_their_defaults_leave_no_trace() -> None:
    """What a lock pins must not change because the language grew."""
    text = GOOD.replace("seed: 7", "seed: 7\ngroups: {}\nsignals: []\nheld_out: {}\nevidence: {seed: ours}")
    text = text.replace("mix: [chat, prose]", "mix: [chat, prose]\n    temperature: 1\n    reuse: false")
    text = text.replace("kind: ocr}", "kind: ocr, number_images: false, decode_images: true, evidence: {path: mine}}")
    assert form(text) == form(GOOD)
    assert blake3(form(GOOD)).hexdigest() == (
        "8bfd79e8d031c71eb6b97295f7936f83b04a290b76fd29438a9cac1c7304c645"  # before there were such keys
    )


def test_stages_keep_their_order() -> None:
    swapped = {**RICH, "stages": RICH["stages"][::-1]}
    assert form(json.dumps(swapped)) != PLAIN
    assert [s["name"] for s in canonical(convert(parse(json.dumps(swapped).encode(), "f")))["stages"]] == ["two", "one"]


def test_extends_and_overrides_leave_no_trace(tmp_path: Path, load_text: LoadText) -> None:
    (tmp_path / "base.yaml").write_text(GOOD.replace("seed: 7", "seed: 1").replace("batch: 8", "batch: 4"))
    child = "extends: base.yaml\nseed: 7\nstages:\n  - {name: align, train: {batch: 8}}\n"
    text = canonical_bytes(load_text(child, "stages.sft.train.batch=8").spec)
    assert text == form(GOOD)
    assert b"extends" not in text


def test_does_not_depend_on_where_the_spec_lies(tmp_path: Path) -> None:
    forms = set()
    for name in ("a/x.yaml", "b/c/y.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(GOOD)
        forms.add(canonical_bytes(load(path).spec))
    assert len(forms) == 1
    assert str(tmp_path).encode() not in forms.pop()


def test_block_scalars_end_in_no_line_break() -> None:
    folded = GOOD.replace(
        "  pages: {path: pages.tar, kind: ocr}",
        "  pages:\n    path: pages.tar\n    kind: ocr\n    where: >\n      a < 1",
    )
    plain = GOOD.replace("kind: ocr}", "kind: ocr, where: a < 1}")
    assert form(folded) == form(plain)


def test_the_form() -> None:
    found = canonical(convert(parse(GOOD.encode(), "f")))
    assert json.loads(canonical_bytes(convert(parse(GOOD.encode(), "f")))) == found  # a lock can hold it
    assert found["stages"][1] == {
        "budget": "1 epochs",
        "max_tiles": None,
        "mix": {
            "chat": {"max_epochs": 1.0, "weight": None, "where": None},
            "prose": {"max_epochs": 1.0, "weight": None, "where": None},
        },
        "name": "sft",
        "on_exhausted": "fail",
        "order": {"by": None, "direction": "ascending", "window": 100_000},
        "sequence_length": 4096,
        "train": {
            "batch": 8,
            "betas": [0.9, 0.999],
            "clip": 1.0,
            "eps": 1e-8,
            "loss": "token",
            "lr": {"language": 1e-5, "projector": 1e-5, "vision": 1e-5},
            "min_lr_ratio": 0.0,
            "schedule": "cosine",
            "warmup": "3%",
            "weight_decay": 0.01,
        },
        "unit": "tokens",
    }
    assert found["sources"]["prose"]["too_long"] == "split"
    assert found["sources"]["pages"]["too_long"] == "drop"


def test_the_cap_follows_a_budget_of_several_epochs() -> None:
    found = canonical(convert(parse(GOOD.replace("1 epoch", "2.5 epochs").encode(), "f")))
    assert found["stages"][1]["budget"] == "2.5 epochs"
    assert found["stages"][1]["mix"]["chat"]["max_epochs"] == 2.5


def test_canonical_quantities_can_be_read_back() -> None:
    """The form is itself a spec of the same meaning."""
    found = json.loads(PLAIN)
    assert form(json.dumps(found)) == PLAIN


@pytest.mark.parametrize("spec", SHIPPED, ids=lambda path: path.relative_to(SPECS).as_posix())
def test_the_form_is_a_spec_that_has_it_for_its_form(spec: Path) -> None:
    """What a lock pins can be built again without the file that it came from."""
    form = canonical(load(spec).spec)
    again = load_form(json.loads(json.dumps(form)), spec.parent, "a lock")
    assert canonical(again.spec) == form


def test_a_form_takes_overrides_and_tells_its_own_name(tmp_path: Path) -> None:
    form = canonical(convert(parse(json.dumps(RICH).encode(), "spec")))
    again = load_form(form, tmp_path, "the lock", ["sources.prose.path=elsewhere.jsonl", "stages.one.train.batch=16"])
    assert canonical(again.spec)["sources"]["prose"]["path"] == ["elsewhere.jsonl"]
    assert (again.base, again.spec.stages[0].train.batch) == (tmp_path, 16)
    with pytest.raises(SpecError, match="the lock"):
        load_form({**form, "sed": 1}, tmp_path, "the lock")
