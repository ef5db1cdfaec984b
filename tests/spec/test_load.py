"""From files to a typed spec: types, `extends`, `--set`, places."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.errors import SpecError
from mixc.spec.convert import convert
from mixc.spec.diagnostics import InvalidSpecError
from mixc.spec.load import LoadedSpec, load
from mixc.spec.schema import MinHash, MixEntry, Order, Signal, Source, Spec, Train
from mixc.spec.yaml import parse, plain
from tests.spec.conftest import GOOD, Expect, diagnose_text, shown, unmark

LoadText = Callable[..., LoadedSpec]


def test_good(load_text: LoadText, tmp_path: Path) -> None:
    loaded = load_text(GOOD)
    spec = loaded.spec
    assert (spec.mixture, spec.seed, spec.model, spec.tokenizer) == ("demo", 7, "sail-vl-tiny", "qwen2.5")
    assert spec.sources["chat"] == Source(path=["chat.jsonl", "more.json"], kind="chat")
    assert [stage.name for stage in spec.stages] == ["align", "sft"]
    assert spec.stages[0].mix == {"captions": 0.7, "pages": 0.3}
    assert spec.stages[1].mix == ["chat", "prose"]
    assert spec.stages[0].train == Train(lr={"projector": 2e-4}, batch=8)
    assert loaded.base == tmp_path
    assert loaded.files == (tmp_path / "spec.yaml",)


# One mistake each: (what of GOOD to replace, by what, the message, the mend). The place is between «».
WRONG: dict[str, tuple[str, str, str, str]] = {
    "misspelt key": ("model:", "«modle»:", "unknown key `modle` in the spec", "did you mean `model`?"),
    "misspelt inner key": ("kind: ocr", "kind: ocr, «imgae»: png", "unknown key `imgae` in sources.pages", "`image`"),
    "key of another mapping": (
        "    mix: [chat",
        "    «lr»: 3\n    mix: [chat",
        "unknown key `lr` in stages.sft",
        "`lr` is a key of stages.NAME.train",
    ),
    "misspelt key of another mapping": (
        "    mix: [chat",
        "    «bacth»: 3\n    mix: [chat",
        "unknown key `bacth` in stages.sft",
        "`batch` is a key of stages.NAME.train",
    ),
    "unknown module": ("lr: {vision", "lr: {«vison»", "unknown key `vison` in stages.sft.train.lr", "`vision`"),
    "missing key": ("seed: 7\n", "", "the spec lacks `seed`", "add it"),
    "missing inner keys": ("{path: pages.tar, kind: ocr}", "{}", "sources.pages lacks `path` and `kind`", "add them"),
    "text for a number": ("seed: 7", "seed: «seven»", '`seed` must be a whole number, got the text "seven"', ""),
    "quoted number": ("seed: 7", "seed: «'7'»", '`seed` must be a whole number, got the text "7"', "without quotes"),
    "underscores": ("seed: 7", "seed: «1_000»", '`seed` must be a whole number, got the text "1_000"', "without `_`"),
    "fraction for a whole number": ("batch: 8}\n  - n", "batch: «8.5»}\n  - n", "must be a whole number", ""),
    "truth for a number": ("seed: 7", "seed: «true»", "`seed` must be a whole number, got `true`", ""),
    "negative": ("seed: 7", "seed: «-7»", "`seed` must be at least 0 and at most 2^63 - 1", ""),
    "too large": ("seed: 7", "seed: «9223372036854775808»", "at most 2^63 - 1", ""),
    "number for text": ("text: caption", "text: «3»", "`sources.captions.text` must be text, got `3`", 'quote it: "3"'),
    "nothing": ("seed: 7", "«seed»:", "`seed` has no value", "write a whole number"),
    "null": ("seed: 7", "seed: «null»", "`seed` has no value", "write a whole number"),
    "no mapping": ("  pages: {path: pages.tar, kind: ocr}", "  «pages»:", "`sources.pages` has no value", "a mapping"),
    "unknown choice": ("kind: ocr", "kind: «ocrs»", "must be one of `caption`, `chat`, `ocr`, `text`", "`ocr`"),
    "yes": ("seed: 7", "seed: 7\ndedup: {exact: «yes»}", "must be true or false", "only `true` and `false`"),
    "list for a mapping": (
        "kind: ocr}",
        "kind: ocr}\n  x: «[1, 2]»",
        "`sources.x` must be a mapping, got a list of 2",
        "",
    ),
    "mapping in a list of texts": (
        "[chat.jsonl, more.json]",
        "[chat.jsonl, «{a: b}»]",
        "`sources.chat.path[1]` must be text, got a mapping",
        "",
    ),
    "bad name": ("mixture: demo", "mixture: «my demo»", "`my demo` cannot be a name", "use letters"),
    "name with a line break": ("mixture: demo", 'mixture: «"demo\\n"»', "`demo ` cannot be a name", "use letters"),
    "name that climbs": ("mixture: demo", "mixture: «../demo»", "`../demo` cannot be a name", "use letters"),
    "long name": ("mixture: demo", f"mixture: «{'x' * 101}»", "cannot be a name", "at most 100"),
    "bad source name": ("  pages:", "  «pa ges»:", "`pa ges` cannot be a name", "use letters"),
    "text share": ("pages: 0.3", 'pages: «"0.3"»', "must be a number or a mapping", "without quotes"),
    "infinite": ("projector: 2e-4", "projector: «.inf»", "must be a finite number, got `.inf`", ""),
    "not a number": ("projector: 2e-4", "projector: «.nan»", "must be a finite number, got `.nan`", ""),
    "overflow": ("projector: 2e-4", "projector: «2e999»", "must be a finite number, got `2e999`", ""),
    "zero rate": ("projector: 2e-4", "projector: «0»", "must be above 0, got `0`", "leave a module out to freeze it"),
    "zero batch": ("batch: 8}\n  - n", "batch: «0»}\n  - n", "`stages.align.train.batch` must be at least 1", ""),
    "short sequence": (
        "sequence_length: 4096\n    train: {lr: {v",
        "sequence_length: «8»\n    train: {lr: {v",
        "`stages.sft.sequence_length` must be at least 16 and at most 1,048,576, got `8`",
        "",
    ),
    "fraction of warm-up": ("batch: 8}\n  - n", "batch: 8, warmup: «0.03»}\n  - n", "must be text or a whole", "`3%`"),
    "fractional budget": ("budget: 1 epoch", "budget: «1.5»", "must be text or a whole number", "`1.5 epochs`"),
    "dots for a mapping": (
        "    mix: [chat",
        "    «order.window»: 10k\n    mix: [chat",
        "unknown key `order.window` in stages.sft",
        "write `order: {window: 10k}`",
    ),
    "dots at the top": (
        "seed: 7",
        "seed: 7\n«dedup.minhash.threshold»: 0.8",
        "unknown key",
        "write `dedup: {minhash: {threshold: 0.8}}`",
    ),
    "dots for a mapping that is there": (
        "batch: 8}\n  - n",
        "batch: 8}\n    «train.lr.vision»: 1e-5\n  - n",
        "unknown key `train.lr.vision` in stages.align",
        "write `lr: {vision: 1e-5}` in the `train` that is there",
    ),
    "dots after no key": ("seed: 7", "seed: 7\n«nothing.seed»: 0.8", "unknown key `nothing.seed`", "there is"),
    "one beta": (
        "batch: 8}\n  - n",
        "batch: 8, betas: «[0.9]»}\n  - n",
        "must be a list of 2 numbers, got a list of 1",
        "",
    ),
    "misspelt shuffle": (
        "    mix: [chat",
        "    order: «shufle»\n    mix: [chat",
        "`stages.sft.order` must be `shuffle` or a mapping",
        "",
    ),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_wrong(case: tuple[str, str, str, str], tmp_path: Path) -> None:
    old, new, message, mend = case
    assert GOOD.count(old) == 1
    marked = unmark(GOOD.replace(old, new))
    found = diagnose_text(tmp_path, marked.text)
    errors = [d for d in found if message in d.message]
    assert len(errors) == 1, [d.render() for d in found]
    (error,) = errors
    assert mend in error.mend
    if marked.marks:
        line, column, text = shown(error)
        ((wanted_line, wanted_column, wanted),) = marked.marks
        assert (line, column) == (wanted_line, wanted_column)
        assert text == wanted


def test_missing_keys_point_to_what_lacks_them(expect: Expect) -> None:
    expect(
        GOOD.replace("  pages: {path: pages.tar, kind: ocr}", "  «pages»: {kind: ocr}"),
        "sources.pages lacks `path`",
    )
    expect(GOOD.replace("  - name: sft\n    budget: 1 epoch\n", "  - «name»: sft\n"), "stages.sft lacks `budget`")


def test_all_mistakes_together_in_order(tmp_path: Path) -> None:
    text = GOOD.replace("seed: 7", "seed: x").replace("kind: ocr", "kind: oc").replace("name: sft", "nam: sft")
    found = diagnose_text(tmp_path, text)
    assert [d.place.line for d in found if d.place] == [2, 7, 17, 17]
    assert "stages[1] lacks `name`" in found[2].message + found[3].message


@pytest.mark.parametrize(("text", "what"), [("[1]", "a list"), ("just text", "text"), ("3", "text")])
def test_not_a_mapping(text: str, what: str, load_text: LoadText) -> None:
    with pytest.raises(SpecError, match=f"a spec is a mapping, this is {what}"):
        load_text(text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(GOOD)
    with pytest.raises(SpecError, match="there is no such file") as caught:
        load(tmp_path / "spce.yaml")
    assert caught.value.mend == "did you mean `spec.yaml`?"
    with pytest.raises(SpecError, match="this is a folder"):
        load(tmp_path)
    with pytest.raises(SpecError, match="no such file"):
        load(tmp_path / "nowhere" / "spec.yaml")
    with pytest.raises(SpecError, match="cannot be a file's name"):
        load(tmp_path / "a\0b")
    with pytest.raises(SpecError, match="the file cannot be read: File name too long"):
        load(tmp_path / ("a" * 300))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="not a regular file"):
        load(tmp_path / "pipe")
    (tmp_path / "large.yaml").write_bytes(b"#" * ((1 << 20) + 2))
    with pytest.raises(SpecError, match="at most 1,048,576"):
        load(tmp_path / "large.yaml")


# Places


def test_locate(load_text: LoadText, tmp_path: Path) -> None:
    loaded = load_text(GOOD)
    where = {
        "seed": "2:7",
        "sources": "5:1",
        "sources.captions": "6:3",
        "sources.captions.kind": "6:48",
        "sources.captions.where": "6:3",  # not written: what would hold it
        "sources.chat.path[1]": "8:29",
        "stages[0].mix.captions": "14:21",
        "stages.align.mix.captions": "14:21",
        "stages.sft.mix.prose": "19:17",
        "stages[1].train.lr.vision": "21:26",
        "stages.sft.unit": "17:5",
        "stages.sft": "17:5",
        "dedup.exact": "1:1",
        "nothing.at.all": "1:1",
        "stages[9].name": "11:1",
    }
    assert {path: loaded.locate(path).removeprefix(f"{tmp_path}/spec.yaml:") for path in where} == where
    assert str(loaded.place(("stages", 0, "mix", "captions"))) == loaded.locate("stages[0].mix.captions")
    assert str(loaded.key_place(("sources", "captions", "kind"))).endswith(":6:42")


def test_places_inside_an_expression(load_text: LoadText) -> None:
    text = GOOD.replace("text: caption}", "text: caption, where: 'a < 1 and bcd > 2'}")
    place = load_text(text).place(("sources", "captions", "where"), (10, 13))
    assert place.source[place.column - 1 : place.column - 1 + place.length] == "bcd"


def test_names_with_dots(load_text: LoadText) -> None:
    text = GOOD.replace("prose", "fine.web.en")
    loaded = load_text(text, "sources.fine.web.en.where=a < 1")
    assert loaded.spec.sources["fine.web.en"].where == "a < 1"
    assert loaded.locate("sources.fine.web.en.path").endswith(":9:23")


# --set


def test_overrides(load_text: LoadText) -> None:
    spec = load_text(
        GOOD,
        "seed=9",
        "stages.sft.train.batch=64",
        "stages.align.mix={captions: 1, prose: {weight: 2, max_epochs: 3}}",
        "sources.prose.where=language = 'en'",
        "dedup.exact=true",
        "stages[1].order.by=complexity",
        "stages.sft.order.window=10k",
        "sources.chat.path=[x.jsonl]",
        "sources.captions.text=",
        "sources.extra={path: e.jsonl, kind: text}",
        "stages.sft.budget=2 epochs",
    ).spec
    align, sft = spec.stages
    assert spec.seed == 9
    assert sft.train.batch == 64
    assert align.mix == {"captions": 1.0, "prose": MixEntry(weight=2.0, max_epochs=3.0)}
    assert spec.sources["prose"].where == "language = 'en'"
    assert spec.dedup.exact is True
    assert sft.order == Order(by="complexity", window="10k")
    assert spec.sources["chat"].path == ["x.jsonl"]
    assert spec.sources["captions"].text is None
    assert spec.sources["extra"].kind == "text"
    assert sft.budget == "2 epochs"


def test_overrides_of_maps_that_are_not_there_yet(load_text: LoadText) -> None:
    spec = load_text(
        GOOD,
        "groups.web.captions=2",
        "groups.web.pages=1",
        "groups.all=[chat, prose]",
        "held_out.pages=1%",
        "signals=[language, {name: mine, function: a.b:c}]",
        "signals[1].settings.n=3",
        "dedup.minhash.threshold=0.7",
        "stages.align.mix_end={captions: 0.1, pages: 0.9}",
        "stages.align.mix_end.pages=0.8",
        "stages.sft.temperature=2",
        "stages.align.evidence.budget=a guess",
    ).spec
    align, sft = spec.stages
    assert spec.groups == {"web": {"captions": 2.0, "pages": 1.0}, "all": ["chat", "prose"]}
    assert spec.held_out == {"pages": "1%"}
    assert spec.signals == ["language", Signal(name="mine", function="a.b:c", settings={"n": 3})]
    assert spec.dedup.minhash == MinHash(threshold=0.7)
    assert align.mix_end == {"captions": 0.1, "pages": 0.8}
    assert sft.temperature == 2
    assert align.evidence == {"budget": "a guess"}


def test_extends_merges_groups_and_what_is_held_out(tmp_path: Path) -> None:
    base = GOOD + "groups: {web: {captions: 2, pages: 1}, all: [chat]}\nheld_out: {pages: 1%, chat: 5 samples}\n"
    over = "groups: {web: {pages: 3}, all: [prose], new: [web]}\nheld_out: {chat: null, prose: 2%}\n"
    write(tmp_path, base_yaml=base, spec_yaml=f"extends: base.yaml\n{over}")
    spec = load(tmp_path / "spec.yaml").spec
    assert spec.groups == {"web": {"captions": 2.0, "pages": 3.0}, "all": ["prose"], "new": ["web"]}
    assert spec.held_out == {"pages": "1%", "prose": "2%"}


@pytest.mark.parametrize(
    ("override", "message", "mend", "column"),
    [
        ("seed", "--set needs `key=value`", "--set stages.sft", 1),
        ("=3", "--set needs `key=value`", "", 1),
        ("seed=x", "`seed` must be a whole number", "", 6),
        ("stages.sft.bacth=3", "unknown key `bacth` in stages.sft", "`batch` is a key of stages.NAME.train", 1),
        ("stages.stf.budget=3", "no `stf` in this list", "did you mean `sft`?", 1),
        ("stages.sft.mix.caption=3", "names no item", "set the whole list", 1),
        ("mixture.name=x", "cannot be set", "set the whole value", 1),
        ("extends=x.yaml", "`extends` cannot be set", "write a spec", 1),
        ("seed=[1", "not valid YAML", "", 8),
        ("seed=!!int 3", "the tag `!!int`", "", 6),
        ("seed=1\x1b", "control character", "", 1),
        ("a." * 5000 + "b=1", "with a key of a spec", "", 1),
        ("...=1", "with a key of a spec", "", 1),
        (f"seed={'9' * 240}", "at most 2^63 - 1", "", 6),
        ("seed=", "the spec lacks `seed`", "", None),
    ],
)
def test_bad_overrides(load_text: LoadText, override: str, message: str, mend: str, column: int | None) -> None:
    with pytest.raises(InvalidSpecError) as caught:
        load_text(GOOD, override)
    (diagnostic,) = caught.value.diagnostics
    assert message in diagnostic.message
    assert mend in diagnostic.mend
    if column:
        assert diagnostic.place is not None
        assert (diagnostic.place.file, diagnostic.place.column) == ("--set", column)


# extends


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_yaml", ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_extends_merges(tmp_path: Path) -> None:
    write(
        tmp_path,
        base_yaml=GOOD,
        spec_yaml="""\
extends: base.yaml
mixture: more
sources:
  captions: {where: a < 1, text: null}
  extra: {path: e.jsonl, kind: text}
stages:
  - name: sft
    mix: [chat]
    train: {lr: {vision: null}, batch: 16}
  - name: align
    mix: {captions: 0.5, pages: null, extra: 0.5}
  - name: last
    budget: 10 samples
    mix: [extra]
    sequence_length: 64
    train: {lr: {language: 1e-5}, batch: 1}
""",
    )
    loaded = load(tmp_path / "spec.yaml")
    spec = loaded.spec
    assert spec.extends is None
    assert spec.mixture == "more"
    assert spec.seed == 7
    assert spec.sources["captions"] == Source(path="captions/*.parquet", kind="caption", where="a < 1")
    assert sorted(spec.sources) == ["captions", "chat", "extra", "pages", "prose"]
    assert [stage.name for stage in spec.stages] == ["align", "sft", "last"]  # the base's order, then new ones
    assert spec.stages[0].mix == {"captions": 0.5, "extra": 0.5}
    assert spec.stages[1].mix == ["chat"]
    assert spec.stages[1].train == Train(lr={"projector": 1e-5, "language": 1e-5}, batch=16)
    assert spec.stages[1].budget == "1 epoch"
    assert loaded.files == (tmp_path / "spec.yaml", tmp_path / "base.yaml")
    # each value's place is in the file that wrote it
    assert loaded.locate("seed") == f"{tmp_path}/base.yaml:2:7"
    assert loaded.locate("stages.sft.train.batch") == f"{tmp_path}/spec.yaml:9:40"
    assert loaded.locate("stages.sft.train.lr.projector").startswith(f"{tmp_path}/base.yaml:21:")


def test_null_as_a_lists_first_item_leaves_the_bases_items_out(tmp_path: Path) -> None:
    item = "{name: look, budget: 1 epoch, mix: [pages], sequence_length: 64, train: {lr: {projector: 1e-3}, batch: 1}}"
    write(tmp_path, base_yaml=GOOD, spec_yaml=f"extends: base.yaml\nstages:\n  - null\n  - {item}\n")
    assert [stage.name for stage in load(tmp_path / "spec.yaml").spec.stages] == ["look"]
    write(tmp_path, spec_yaml=f"extends: base.yaml\nstages:\n  - {item}\n  - null\n")
    with pytest.raises(InvalidSpecError, match=r"`stages\[1\]` has no value"):
        load(tmp_path / "spec.yaml")


def test_extends_in_a_chain(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_yaml=GOOD,
        b_yaml="extends: a.yaml\nseed: 8\nmixture: b\n",
        c_yaml="extends: b.yaml\nmixture: c\n",
    )
    spec = load(tmp_path / "c.yaml", ["model=sail-vl-2b"]).spec
    assert (spec.mixture, spec.seed, spec.model) == ("c", 8, "sail-vl-2b")


def test_paths_are_relative_to_the_file_that_wrote_them(tmp_path: Path) -> None:
    base = GOOD.replace("captions/*.parquet", "../data/c.parquet").replace(
        "more.json]", '"s3://bucket/x.jsonl", /abs/y.jsonl], image_root: img'
    )
    base = base.replace("model: sail-vl-tiny", "model: sail-vl-tiny\ntokenizer: ./tok")
    base += (
        "decontaminate: {against: [eval/*.jsonl, /abs/e.jsonl]}\ncontinue_from: {build: ../old, stage: a, step: 1}\n"
    )
    write(
        tmp_path,
        recipes__base__base_yaml=base,
        recipes__spec_yaml="extends: base/base.yaml\nsources: {pages: {path: here.tar}}\n",
        spec_yaml="extends: recipes/spec.yaml\n",
    )
    spec = load(tmp_path / "spec.yaml").spec
    assert spec.sources["captions"].path == "recipes/data/c.parquet"
    assert spec.sources["pages"].path == "recipes/here.tar"
    assert spec.sources["chat"].path == ["recipes/base/chat.jsonl", "s3://bucket/x.jsonl", "/abs/y.jsonl"]
    assert spec.sources["chat"].image_root == "recipes/base/img"
    assert spec.tokenizer == "recipes/base/tok"
    assert spec.decontaminate is not None
    assert spec.decontaminate.against == ["recipes/base/eval/*.jsonl", "/abs/e.jsonl"]
    assert spec.continue_from is not None
    assert spec.continue_from.build == "recipes/old"
    assert load(tmp_path / "recipes/base/base.yaml").spec.tokenizer == "./tok"
    # a name is no path
    write(tmp_path, plain__base_yaml=GOOD, two_yaml="extends: plain/base.yaml\n")
    assert load(tmp_path / "two.yaml").spec.tokenizer == "qwen2.5"


def test_dots_beyond_a_link_are_left_to_the_file_system(tmp_path: Path) -> None:
    write(tmp_path, real__inner__base_yaml=GOOD.replace("pages.tar", "../pages.tar"))
    (tmp_path / "spec.yaml").write_text("extends: link/base.yaml\n")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "inner")
    (tmp_path / "real" / "pages.tar").write_text("found")
    path = load(tmp_path / "spec.yaml").spec.sources["pages"].path
    assert isinstance(path, str)
    assert (tmp_path / path).read_text() == "found"


def test_a_linked_spec_names_data_beside_the_link(tmp_path: Path) -> None:
    write(tmp_path, real__spec_yaml=GOOD)
    (tmp_path / "spec.yaml").symlink_to(tmp_path / "real" / "spec.yaml")
    assert load(tmp_path / "spec.yaml").base == tmp_path


def test_base_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, x__spec_yaml=GOOD)
    monkeypatch.chdir(tmp_path)
    loaded = load("x/spec.yaml")
    assert loaded.base == tmp_path / "x"
    assert loaded.locate("seed") == "x/spec.yaml:2:7"


@pytest.mark.parametrize(
    ("files", "message", "where"),
    [
        ({"spec_yaml": "extends: spec.yaml\n"}, "cannot extend itself", "spec.yaml:1:10"),
        ({"spec_yaml": "extends: b.yaml\n", "b_yaml": "extends: ./spec.yaml\n"}, "cannot extend itself", "b.yaml:1:10"),
        ({"spec_yaml": "seed: 1\nextends: gone.yaml\n"}, "there is no such file", "spec.yaml:2:10"),
        ({"spec_yaml": "extends: .\n"}, "this is a folder", "spec.yaml:1:10"),
        ({"spec_yaml": "extends: s3://b/x.yaml\n"}, "must name a local file", "spec.yaml:1:10"),
        ({"spec_yaml": "extends: [a, b]\n"}, "must be the path of a spec", "spec.yaml:1:10"),
        ({"spec_yaml": "extends: ''\n"}, "must be the path of a spec", "spec.yaml:1:10"),
        ({"spec_yaml": "extends: b.yaml\n", "b_yaml": "a: [\n"}, "not valid YAML", "b.yaml:2:1"),
        ({"spec_yaml": "extends: b.yaml\n", "b_yaml": GOOD + "x: 1\n"}, "unknown key `x`", "b.yaml:22:1"),
    ],
)
def test_bad_extends(tmp_path: Path, files: dict[str, str], message: str, where: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(SpecError) as caught:
        load(tmp_path / "spec.yaml")
    assert message in caught.value.what
    assert caught.value.where == f"{tmp_path}/{where}"


def test_long_chain(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i}.yaml").write_text(f"extends: {i + 1}.yaml\n")
    with pytest.raises(SpecError, match="specs extend each other"):
        load(tmp_path / "0.yaml")


def test_stage_given_twice_is_not_merged_into_one(tmp_path: Path) -> None:
    write(tmp_path, base_yaml=GOOD, spec_yaml="extends: base.yaml\nstages: [{name: sft, unit: samples}, {name: sft}]\n")
    with pytest.raises(SpecError, match=r"stages\.sft lacks"):
        load(tmp_path / "spec.yaml")


# Anything at all

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["caption", "1 epoch", "shuffle", "x", "", "a b", "%", "4B tokens", "../..", "\x7f"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "mixture", "lr", "vision", "path", "kind", "mix", "weight", "by"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)
KEYS = ["mixture", "seed", "model", "sources", "stages", "tokenizer", "tiles", "dedup", "max_reject_rate", "extra"]


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5), st.sampled_from(["sources.captions", "stages", ""]))
@settings(max_examples=300, deadline=None)
def test_any_values_are_a_spec_or_refused(values: dict[str, Any], where: str) -> None:
    """What the checker passes, msgspec takes; and the reverse."""
    good = plain(parse(GOOD.encode(), "f"))
    if where == "sources.captions":
        good["sources"]["captions"] = values
    elif where == "stages":
        good["stages"][0] |= values
    else:
        good |= values
    text = dump(good)
    try:
        node = parse(text.encode(), "f")
    except SpecError:
        return  # a control character
    try:
        taken: Spec | None = convert(node)
    except SpecError as error:
        assert all(d.place for d in error.diagnostics)  # type: ignore[attr-defined]
        taken = None
    try:
        expected: Spec | None = msgspec.convert(plain(node), Spec)
    except msgspec.ValidationError:
        expected = None
    if taken is not None:
        assert taken == expected
    elif expected is not None:
        assert "inf" in text or "nan" in text or "\\n" in text  # finite numbers only: stricter than msgspec


def dump(value: Any) -> str:
    """JSON, with YAML's names for what JSON has none for."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {dump(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dump, value)) + "]"
    if isinstance(value, float):
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(value), repr(value))
    return json.dumps(value, ensure_ascii=False)


@given(st.text(max_size=40), st.text(max_size=20))
@settings(max_examples=150, deadline=None)
def test_any_override_is_applied_or_refused(tmp_path_factory: pytest.TempPathFactory, path: str, value: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    file = folder / "override.yaml"
    file.write_text(GOOD)
    for override in (f"{path}={value}", f"stages.sft.{path}={value}", path):
        try:
            load(file, [override])
        except SpecError as error:
            assert str(error)


def test_import_is_light() -> None:
    code = "import sys, mixc.spec.load, mixc.spec.check, mixc.spec.canonical; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = {name.partition(".")[0] for name in done.stdout.split()}
    assert modules & {"duckdb", "pyarrow", "numpy", "datatrove", "torch", "tokenizers", "rich", "typer"} == set()
