"""What a well-typed spec can still get wrong. Each has one mark «» where it must be shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mixc.spec.check import IMAGE_PLACEHOLDER, check, diagnose, mix_entries
from mixc.spec.diagnostics import InvalidSpecError
from mixc.spec.load import LoadedSpec
from mixc.spec.schema import MixEntry
from tests.spec.conftest import GOOD, MODELS, Expect, diagnose_text, shown, unmark

ALIGN = "    mix: {captions: 0.7, pages: 0.3}\n"
SFT = "    mix: [chat, prose]\n"
PAGES = "  pages: {path: pages.tar, kind: ocr}\n"
PROSE = '  prose: {path: "prose/*.jsonl.zst", kind: text}\n'
CHAT = "  chat: {path: [chat.jsonl, more.json], kind: chat}\n"

ERRORS: dict[str, tuple[str, str, str, str]] = {
    "unknown model": (
        "model: sail-vl-tiny",
        "model: «sail-vl-tyni»",
        "there is no model `sail-vl-tyni`",
        "did you mean `sail-vl-tiny`?",
    ),
    "empty tokenizer": ("seed: 7", "seed: 7\ntokenizer: «''»", "`tokenizer` is empty", "qwen2.5"),
    # sources
    "no path": (PAGES, "  pages: {«path»: [], kind: ocr}\n", "the source has no path", "name a file or a glob"),
    "empty path": (PAGES, "  pages: {path: «' '», kind: ocr}\n", "the path is empty", "name a file or a glob"),
    "empty path in a list": (PAGES, "  pages: {path: [a, «''»], kind: ocr}\n", "the path is empty", "name"),
    "path twice": (PAGES, "  pages: {path: [a.tar, «a.tar»], kind: ocr}\n", "`a.tar` is given twice", "keep one"),
    "messages in text": (
        PROSE,
        "  prose: {path: x, kind: text, «messages»: m}\n",
        "`messages` has no meaning for kind text",
        "remove it, or change `kind`",
    ),
    "text in chat": (CHAT, "  chat: {path: x, kind: chat, «text»: m}\n", "`text` has no meaning for kind chat", ""),
    "image in text": (PROSE, "  prose: {path: x, kind: text, «image»: m}\n", "no meaning for kind text", ""),
    "image_root in text": (PROSE, "  prose: {path: x, kind: text, «image_root»: m}\n", "no meaning for kind text", ""),
    "prompt in chat": (CHAT, "  chat: {path: x, kind: chat, «prompt»: m}\n", "no meaning for kind chat", ""),
    "empty column": (PAGES, "  pages: {path: x, kind: ocr, image: «''»}\n", "`image` is empty", "default"),
    "pages split": (PAGES, "  pages: {path: x, kind: ocr, too_long: «split»}\n", "kind ocr cannot be split", "`drop`"),
    "image in a prompt": (
        PAGES,
        '  pages: {path: x, kind: ocr, prompt: "Read «<image>» now"}\n',
        "a prompt must not hold `<image>`",
        "remove it",
    ),
    # expressions
    "bad where": (
        PROSE,
        "  prose: {path: x, kind: text, where: \"lang = 'en' and «read_csv('x')» > 1\"}\n",
        "the function `read_csv` cannot be used",
        "docs/spec.md lists the functions",
    ),
    "second statement": (
        PROSE,
        "  prose: {path: x, kind: text, where: true«; drop table t»}\n",
        "a second statement",
        "end it before `;`",
    ),
    "climbs out of its brackets": (PROSE, "  prose: {path: x, kind: text, where: a«)» or (b}\n", "not a DuckDB", ""),
    "empty where": (PROSE, "  prose: {path: x, kind: text, where: «''»}\n", "the expression is empty", ""),
    "bad stage where": (
        SFT,
        "    mix: {chat: {weight: 1, where: '«count(*)» > 1'}, prose: 1}\n",
        "the aggregate function `count(*)`",
        "one row",
    ),
    "bad where in a block": (
        PROSE,
        "  prose:\n    path: x\n    kind: text\n    where: >\n      a > 1\n      and «random()» < 0.5\n",
        "the function `random`",
        "",
    ),
    "bad order": (SFT, SFT + "    order: {by: «now()»}\n", "the function `now`", ""),
    # mixes
    "share for no source": (
        ALIGN,
        "    mix: {captions: 0.7, pages: 0.3, «pagse»: 0.1}\n",
        "a share for `pagse`, which is no source",
        "did you mean `pages`?",
    ),
    "listed source that is none": (SFT, "    mix: [chat, prose, «porse»]\n", "a share for `porse`", "`prose`"),
    "source listed twice": (SFT, "    mix: [chat, prose, «chat»]\n", "`chat` is given twice", "keep one"),
    "zero share": (ALIGN, "    mix: {captions: 0.7, pages: «0»}\n", "must be above 0, got 0", "leave the source out"),
    "negative share": (ALIGN, "    mix: {captions: 0.7, pages: «-1»}\n", "must be above 0, got -1", ""),
    "shares for some": (
        ALIGN,
        "    mix: {captions: 0.7, «pages»: {max_epochs: 2}}\n",
        "`pages` has no weight, but other sources of the stage have",
        "give it a weight",
    ),
    "images of text": (SFT, SFT.replace("prose", "«prose»") + "    unit: images\n", "`prose` has no images", "unit"),
    # stages
    "two stages of a name": ("  - name: sft", "  - name: «align»", "two stages are called `align`", "rename one"),
    "stages alike": ("  - name: sft", "  - name: «Align»", "must not differ only in case from `align`", "rename one"),
    "unknown unit": ("budget: 1 epoch", "budget: «1 epok»", "no known unit", "did you mean `epochs`?"),
    "no budget": ("budget: 1 epoch", "budget: «0»", "a budget must be above 0", ""),
    "epochs beyond caps": (
        "budget: 1 epoch\n    mix: [chat, prose]",
        "budget: «3 epochs»\n    mix: {chat: {max_epochs: 2}, prose: {max_epochs: 1.5}}",
        "the budget is 3 epochs, and no source may be used so often",
        "raise max_epochs",
    ),
    "bad window": (SFT, SFT + "    order: {by: a, window: «0»}\n", "at least 1, got `0`", ""),
    "direction of a shuffle": (SFT, SFT + "    order: {«direction»: descending}\n", "a direction without `by`", ""),
    "nothing trained": ("lr: {projector: 2e-4}", "«lr»: {}", "no module has a learning rate", "give one to vision"),
    "long warm-up": ("2e-4}, batch: 8", "2e-4}, batch: 8, warmup: «101%»", "longer than its stage", "at most 100%"),
    "beta of one": ("2e-4}, batch: 8", "2e-4}, batch: 8, betas: [0.9, «1.0»]", "below 1, got 1", ""),
    "zero eps": ("2e-4}, batch: 8", "2e-4}, batch: 8, eps: «0»", "`eps` must be above 0", ""),
    "no room for an image": (
        ALIGN + "    sequence_length: 4096",
        ALIGN + "    sequence_length: «200»",
        "no image fits into 200 tokens",
        "at least 258",
    ),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_error(case: tuple[str, str, str, str], expect: Expect) -> None:
    old, new, message, mend = case
    assert GOOD.count(old) == 1
    expect(GOOD.replace(old, new), message, mend=mend)


WARNINGS: dict[str, tuple[str, str, str]] = {
    "unused source": (PAGES, PAGES + "  «spare»: {path: x, kind: ocr}\n", "no stage uses the source `spare`"),
    "small budget": ("budget: 1 epoch", "budget: «7 samples»", "cannot fill one step of 8 packs"),
    "huge rate": ("projector: 2e-4", "projector: «2e4»", "a learning rate of 20000"),
    "unreachable tiles": (ALIGN, ALIGN + "    max_tiles: «17»\n", "17 tiles never fit into 4,096 tokens"),
}


@pytest.mark.parametrize("case", WARNINGS.values(), ids=WARNINGS)
def test_warning(case: tuple[str, str, str], expect: Expect, load_text: Callable[[str], LoadedSpec]) -> None:
    old, new, message = case
    text = GOOD.replace(old, new)
    expect(text, message, severity="warning")
    (warning,) = check(load_text(unmark(text).text), models=MODELS, tokens_per_tile=MODELS)
    assert message in warning
    assert "\n" not in warning
    assert "spec.yaml:" in warning


def test_good(load_text: Callable[[str], LoadedSpec]) -> None:
    assert check(load_text(GOOD), models=MODELS, tokens_per_tile=MODELS) == []
    assert check(load_text(GOOD.replace("sail-vl-tiny", "any")), models=None) == []


def test_nothing_at_all(tmp_path: Path) -> None:
    found = diagnose_text(tmp_path, "mixture: a\nseed: 1\nmodel: sail-vl-2b\nsources: {}\nstages: []\n")
    assert [(d.message, d.severity) for d in found] == [
        ("there is no source", "error"),
        ("there is no stage", "error"),
    ]
    found = diagnose_text(tmp_path, GOOD.replace(ALIGN, "    mix: {}\n").replace(SFT, "    mix: []\n"))
    assert [d.message for d in found if d.severity == "error"] == ["the mix is empty"] * 2


def test_source_names_that_differ_only_in_case(tmp_path: Path) -> None:
    text = GOOD.replace(PAGES, PAGES + "  Pages: {path: x, kind: ocr}\n").replace(
        "pages: 0.3", "pages: 0.2, Pages: 0.1"
    )
    (error,) = diagnose_text(tmp_path, text)
    assert "the name `Pages` must not differ only in case from `pages`" in error.message
    assert shown(error) == (8, 3, "Pages")
    assert error.why.endswith("spec.yaml:7:3")


def test_all_together_in_order(load_text: Callable[[str], LoadedSpec]) -> None:
    text = GOOD.replace(ALIGN, "    mix: {captoins: 0.7, pages: 0}\n").replace(SFT, "    mix: [chat, porse]\n")
    with pytest.raises(InvalidSpecError) as caught:
        check(load_text(text), models=MODELS)
    places = [shown(d) for d in caught.value.diagnostics]
    assert places == sorted(places)
    messages = str(caught.value)
    for part in ("`captoins`", "must be above 0", "`porse`", "no stage uses the source `captions`", "3 errors and"):
        assert part in messages


@pytest.mark.parametrize(
    "stage",
    [
        "budget: 3 epochs\n    mix: [chat, prose]",  # the cap follows the budget
        "budget: 3 epochs\n    mix: {chat: {max_epochs: 4}, prose: {max_epochs: 1}}",
        "budget: 3 epochs\n    mix: {chat: {max_epochs: 3}, prose: {max_epochs: 1}}",
        "budget: 3 epochs\n    on_exhausted: repeat\n    mix: {chat: {max_epochs: 1}, prose: {max_epochs: 1}}",
        "budget: 8 images\n    unit: images\n    mix: [chat]",
        "budget: 100 images\n    mix: [chat, prose]",
    ],
)
def test_budgets_that_may_work(stage: str, tmp_path: Path) -> None:
    text = GOOD.replace("budget: 1 epoch\n    mix: [chat, prose]", stage)
    assert [d for d in diagnose_text(tmp_path, text) if d.severity == "error"] == []


def test_mix_entries() -> None:
    assert mix_entries(["b", "a"]) == {"a": MixEntry(), "b": MixEntry()}
    mixed = mix_entries({"b": 2, "a": MixEntry(weight=1.0, max_epochs=3)})
    assert mixed == {"a": MixEntry(weight=1.0, max_epochs=3), "b": MixEntry(weight=2.0)}
    assert list(mixed) == ["a", "b"]


def test_the_placeholder_is_the_one_of_the_sources() -> None:
    from mixc.sources.sample import IMAGE_PLACEHOLDER as THEIRS

    assert IMAGE_PLACEHOLDER == THEIRS


def test_diagnose_raises_nothing(load_text: Callable[[str], LoadedSpec]) -> None:
    assert diagnose(load_text(GOOD.replace("model: sail-vl-tiny", "model: x")), models=[])[0].mend == ""
