"""What a well-typed spec can still get wrong. Each has one mark «» where it must be shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mixc.spec.check import IMAGE_PLACEHOLDER, check, diagnose, mix_entries
from mixc.spec.diagnostics import InvalidSpecError
from mixc.spec.load import LoadedSpec
from mixc.spec.schema import MixEntry
from tests.spec.conftest import GOOD, MODELS, SIGNALS, Expect, diagnose_text, shown, unmark

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
    "undecoded text": (
        PROSE,
        "  prose: {path: x, kind: text, «decode_images»: false}\n",
        "`decode_images: false` cannot be had here",
        "remove it",
    ),
    "undecoded and hashed": (
        PAGES + CHAT + PROSE,
        "  pages: {path: x, kind: ocr, «decode_images»: false}\n" + CHAT + PROSE + "dedup: {image: {}}\n",
        "`decode_images: false` cannot be had here",
        "remove it",
    ),
    "undecoded and compared": (
        PAGES + CHAT + PROSE,
        "  pages: {path: x, kind: ocr, «decode_images»: false}\n"
        + CHAT
        + PROSE
        + "decontaminate: {against: x, phash: 4}\n",
        "`decode_images: false` cannot be had here",
        "remove it",
    ),
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
    "sizes and a share at the end": (
        SFT,
        SFT + "    «mix_end»: {chat: 1, prose: 1}\n",
        "needs weights in `mix`",
        "weight",
    ),
    "another name at the end": (
        ALIGN,
        ALIGN + "    mix_end: {captions: 1, pages: 1, «paegs»: 1}\n",
        "`paegs` is in `mix_end` but not in `mix`",
        "a share may start at 0",
    ),
    "a share missing at the end": (
        ALIGN,
        ALIGN + "    «mix_end»: {captions: 1}\n",
        "`mix_end` has no share for `pages`",
        "0 if it is to end",
    ),
    "nothing at the end": (
        ALIGN,
        ALIGN + "    «mix_end»: {captions: 0, pages: 0}\n",
        "every share of `mix_end` is 0",
        "",
    ),
    "nothing at both ends": (
        ALIGN,
        "    mix: {captions: 0.7, pages: «0»}\n    mix_end: {captions: 1, pages: 0}\n",
        "the share of `pages` must be above 0, got 0",
        "in `mix_end`",
    ),
    "negative share at the end": (
        ALIGN,
        ALIGN + "    mix_end: {captions: «-1», pages: 1}\n",
        "`stages.align.mix_end.captions` must be at least 0",
        "",
    ),
    "a schedule to nowhere": (ALIGN, ALIGN + "    «mix_schedule»: cosine\n", "without `mix_end` has no meaning", ""),
    "a cold mix": (ALIGN, ALIGN + "    temperature: «0.5»\n", "`stages.align.temperature` must be at least 1", ""),
    "no rank": (
        SFT,
        "    mix: {chat: {«quantile»: {by: a, at_least: 0.5, below: 0.5}}, prose: {}}\n",
        "no rank is at least 0.5 and below 0.5",
        "the smaller",
    ),
    "bad rank": (SFT, "    mix: {chat: {quantile: {by: «now()»}}, prose: {}}\n", "the function `now`", ""),
    "bad class": (SFT, "    mix: {chat: {balance: {by: «count(*)»}}, prose: {}}\n", "the aggregate function", ""),
    # signals, dedup, decontamination, what is held out
    "unknown signal": ("seed: 7", "seed: 7\nsignals: [«langage»]", "there is no signal `langage`", "`language`"),
    "signal twice": ("seed: 7", "seed: 7\nsignals: [language, {name: «language»}]", "`language` is given twice", ""),
    "signal of every sample": ("seed: 7", "seed: 7\nsignals: [«tokens»]", "every sample has the signal `tokens`", ""),
    "own signal without a function": (
        "seed: 7",
        "seed: 7\nsignals: [{name: «mine», settings: {a: 1}}]",
        "there is no signal `mine`",
        "one of your own needs `function`",
    ),
    "own signal with a known name": (
        "seed: 7",
        "seed: 7\nsignals: [{name: «language», function: a:b}]",
        "`language` is a signal of mixc",
        "another name",
    ),
    "no function": (
        "seed: 7",
        "seed: 7\nsignals: [{name: mine, function: «a.b.c»}]",
        "`a.b.c` is not the place of a function",
        "`package.module:function`",
    ),
    "no name for a signal": ("seed: 7", "seed: 7\nsignals: [{name: «My-Signal»}]", "cannot be a name", "small letters"),
    "preference for no source": (
        "seed: 7",
        "seed: 7\ndedup: {exact: true, prefer: [prose, «pagse»]}",
        "a preference for `pagse`, which is no source",
        "`pages`",
    ),
    "preference twice": ("seed: 7", "seed: 7\ndedup: {exact: true, prefer: [prose, «prose»]}", "is given twice", ""),
    "decontaminate by nothing": (
        "seed: 7",
        "seed: 7\n«decontaminate»: {against: x, ngram: null}",
        "looks at neither texts nor images",
        "set ngram",
    ),
    "nothing to decontaminate against": (
        "seed: 7",
        "seed: 7\ndecontaminate: {«against»: []}",
        "nothing to decontaminate against",
        "a file",
    ),
    "empty benchmark": ("seed: 7", "seed: 7\ndecontaminate: {against: [a, «''»]}", "the path is empty", ""),
    "hold out of no source": (
        "seed: 7",
        "seed: 7\nheld_out: {«pagse»: 1%}",
        "`pagse` in `held_out` is no source",
        "`pages`",
    ),
    "hold out all": (
        "seed: 7",
        "seed: 7\nheld_out: {pages: «100%»}",
        "above 0% and below 100%",
        "leave the source out",
    ),
    "hold out a number": ("seed: 7", "seed: 7\nheld_out: {pages: «500»}", "must be text", "`500 samples`"),
    "take what is not held out": (
        SFT,
        "    mix: {chat: {held_out: «true»}, prose: {}}\n",
        "nothing is held out of `chat`",
        "write `held_out: {chat: 1%}` in the spec that is trained from",
    ),
    "train on what is held out": (
        "stages:",
        "held_out: {pages: 1%}\nstages:\n  - name: look\n    budget: 1 epoch\n    mix: {pages: {held_out: «true»}}\n"
        "    sequence_length: 4096\n    train: {lr: {projector: 1e-3}, batch: 8}",
        "takes what is held out of `pages`, and stage `align` takes the rest",
        "`- null`",
    ),
    "no build to go on from": (
        "seed: 7",
        "seed: 7\ncontinue_from: {build: «''», stage: a, step: 1}",
        "the build is empty",
        "folder",
    ),
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


GROUPS = "groups: {g: [pages], h: {pages: 1, prose: 3}}\n"

GROUP_ERRORS: dict[str, tuple[str, str, str, str]] = {
    "empty group": ("stages:", "groups: {«g»: []}\nstages:", "the group `g` is empty", "at least one"),
    "no source in a group": (
        "stages:",
        "groups: {g: [pages, «porse»]}\nstages:",
        "`porse` in group `g` is no source or group",
        "did you mean `prose`?",
    ),
    "no source in a weighted group": (
        "stages:",
        "groups: {g: {pages: 1, «porse»: 2}}\nstages:",
        "`porse` in group `g` is no source or group",
        "`prose`",
    ),
    "no weight in a group": (
        "stages:",
        "groups: {g: {pages: «0»}}\nstages:",
        "`groups.g.pages` must be above 0",
        "",
    ),
    "a group called as a source": (
        "stages:",
        "groups: {«Pages»: [prose]}\nstages:",
        "the group `Pages` has the name of a source",
        "rename one",
    ),
    "groups alike": (
        "stages:",
        "groups: {g: [pages], «G»: [prose]}\nstages:",
        "differ only in case from `g`",
        "rename",
    ),
    "member twice": ("stages:", "groups: {g: [pages, «pages»]}\nstages:", "`pages` is given twice", "keep one"),
    "a group in itself": ("stages:", "groups: {«g»: [pages, g]}\nstages:", "the group `g` holds itself", "take one"),
    "groups in a circle": (
        "stages:",
        "groups: {h: [g], «g»: [i, pages], i: [h]}\nstages:",
        "the group `g` holds itself",
        "take one group out",
    ),
    "two ways to a member": (
        "stages:",
        "groups: {«g»: {pages: 1, h: 1}, h: [pages]}\nstages:",
        "`pages` has two places in group `g`",
        "take it out of one",
    ),
    "a source and its group": (
        ALIGN,
        "    mix: {g: 1, captions: 1, «pages»: 0.3}\n",
        "`pages` has two places in the mix",
        "take it out of one",
    ),
    "two groups of one source": (
        ALIGN,
        "    mix: {captions: 1, g: 1, «h»: 1}\n",
        "`pages` has two places in the mix",
        "",
    ),
    "share for no source or group": (
        ALIGN,
        "    mix: {captions: 0.7, g: 1, «gg»: 1}\n",
        "a share for `gg`, which is no source or group",
        "did you mean `g`?",
    ),
    "images of a group with text": (
        SFT,
        "    mix: {chat: 1, «h»: 1}\n    unit: images\n",
        "`prose` has no images",
        "unit",
    ),
}


@pytest.mark.parametrize("case", GROUP_ERRORS.values(), ids=GROUP_ERRORS)
def test_error_with_groups(case: tuple[str, str, str, str], tmp_path: Path) -> None:
    """Beside warnings of groups and sources that are not used."""
    old, new, message, mend = case
    good = GOOD if "groups:" in new else GROUPS + GOOD
    assert good.count(old) == 1
    marked = unmark(good.replace(old, new))
    (error,) = [d for d in diagnose_text(tmp_path, marked.text) if d.severity == "error"]
    assert message in error.message
    assert mend in error.mend
    assert [shown(error)] == marked.marks


WARNINGS: dict[str, tuple[str, str, str]] = {
    "unused source": (PAGES, PAGES + "  «spare»: {path: x, kind: ocr}\n", "no stage uses the source `spare`"),
    "unused group": ("stages:", "groups: {«g»: [pages]}\nstages:", "no stage uses the group `g`"),
    "preference without a reason": ("seed: 7", "seed: 7\ndedup: {«prefer»: [pages]}", "`prefer` has no effect"),
    "small budget": ("budget: 1 epoch", "budget: «7 samples»", "cannot fill one step of 8 packs"),
    "huge rate": ("projector: 2e-4", "projector: «2e4»", "a learning rate of 20000"),
    "unreachable tiles": (ALIGN, ALIGN + "    max_tiles: «17»\n", "17 tiles never fit into 4,096 tokens"),
}


@pytest.mark.parametrize("case", WARNINGS.values(), ids=WARNINGS)
def test_warning(case: tuple[str, str, str], expect: Expect, load_text: Callable[[str], LoadedSpec]) -> None:
    old, new, message = case
    text = GOOD.replace(old, new)
    expect(text, message, severity="warning")
    (warning,) = check(load_text(unmark(text).text), models=MODELS, tokens_per_tile=MODELS, signals=SIGNALS)
    assert message in warning
    assert "\n" not in warning
    assert "spec.yaml:" in warning


def test_good(load_text: Callable[[str], LoadedSpec]) -> None:
    assert check(load_text(GOOD), models=MODELS, tokens_per_tile=MODELS) == []
    assert check(load_text(GOOD.replace("sail-vl-tiny", "any")), models=None) == []


def test_good_with_groups(load_text: Callable[[str], LoadedSpec]) -> None:
    text = GOOD.replace("seed: 7", "seed: 7\nsignals: [language, {name: mine, function: a.b:c}]\nheld_out: {pages: 1%}")
    text = text.replace("stages:", "groups: {images: {web: 3, pages: 1}, web: [captions]}\nstages:")
    text = text.replace(
        ALIGN, "    mix: {images: 1, prose: 0}\n    mix_end: {images: 0, prose: 1}\n    temperature: 2\n"
    )
    assert check(load_text(text), models=MODELS, tokens_per_tile=MODELS, signals=SIGNALS) == []
    # without the names there are, a signal may be one of them
    unknown = text.replace("[language,", "[no_such,")
    assert check(load_text(unknown), models=MODELS, tokens_per_tile=MODELS) == []


def test_groups_that_are_tangled_beyond_measure(load_text: Callable[[str], LoadedSpec]) -> None:
    """2^30 routes, and a chain longer than any recursion: refused soon, in words."""
    tangle = "".join(f"  g{i}: [g{i + 1}, h{i + 1}]\n  h{i}: [g{i + 1}, h{i + 1}]\n" for i in range(30))
    tangle += "  g30: [pages]\n  h30: [prose]\n"
    chain = "".join(f"  c{i}: [c{i + 1}]\n" for i in range(3000)) + "  c3000: [pages]\n"
    for groups, message in ((tangle, "two places"), (chain, "more than 32 deep")):
        with pytest.raises(InvalidSpecError) as caught:
            check(load_text(GOOD.replace("stages:", f"groups:\n{groups}stages:")), models=MODELS)
        assert any(message in d.message for d in caught.value.diagnostics)


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
