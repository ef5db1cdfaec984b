"""However a spec is written, its canonical form is one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.spec.canonical import canonical, canonical_bytes
from mixc.spec.convert import convert
from mixc.spec.load import LoadedSpec, load
from mixc.spec.yaml import parse
from tests.spec.conftest import GOOD

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
