"""Edits to a real mixture, one by one: the diff says the true cause first and no false one, and the first step that it names is
the first at which the two builds' packs differ, which is found here by reading both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mixc.diff.difference import Difference
from mixc.diff.run import diff
from shards.build import Build
from tests.diff.conftest import Project, compiled, read_lines, retype, write_lines

Spec = dict[str, Any]

EQUAL = "equal"


@dataclass(frozen=True)
class Edit:
    name: str
    make: Callable[[Spec, Path], None]
    causes: tuple[str, ...]
    """What each cause begins with, in order: all of them."""
    no_effect: tuple[str, ...] = ()


EDITS: list[Edit] = []


def edit(name: str, *causes: str, no_effect: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    def add(make: Callable[[Spec, Path], None]) -> Callable[[Spec, Path], None]:
        EDITS.append(Edit(name, make, causes, no_effect))
        return make

    return add


@edit("threshold", "threshold of source photos: quality >= 0.7 -> quality >= 0.9")
def _(spec: Spec, data: Path) -> None:
    spec["sources"]["photos"]["where"] = "quality >= 0.9"


@edit("threshold_without_effect", no_effect=("threshold of source prose: characters >= 200 -> characters >= 201",))
def _(spec: Spec, data: Path) -> None:
    spec["sources"]["prose"]["where"] = "characters >= 201"


@edit("stage_threshold", "threshold of chats in stage sft: complexity <= 2 -> complexity <= 1")
def _(spec: Spec, data: Path) -> None:
    spec["stages"][1]["mix"]["chats"]["where"] = "complexity <= 1"


@edit("weight", "weight of photos in stage align: 0.5 -> 0.7")
def _(spec: Spec, data: Path) -> None:
    spec["stages"][0]["mix"]["photos"] = 0.7


@edit(
    "scaled_weights",
    no_effect=(
        "weight of news in stage align: 0.1 -> 1",
        "weight of photos in stage align: 0.5 -> 5",
        "weight of prose in stage align: 0.4 -> 4",
    ),
)
def _(spec: Spec, data: Path) -> None:
    spec["stages"][0]["mix"] = {"photos": 5, "prose": 4, "news": 1}


@edit("seed", "seed: 7 -> 8")
def _(spec: Spec, data: Path) -> None:
    spec["seed"] = 8


@edit("order", "order of stage sft: shuffled in windows of 100000 -> by tokens, ascending, in windows of 8")
def _(spec: Spec, data: Path) -> None:
    spec["stages"][1]["order"] = {"by": "tokens", "window": 8}


@edit("cap", "cap of chats in stage sft: 2 epochs -> 3 epochs")
def _(spec: Spec, data: Path) -> None:
    spec["stages"][1]["mix"]["chats"]["max_epochs"] = 3


@edit("renamed_file", no_effect=("file of source photos renamed: data/photos/first.parquet -> data/photos/x.parquet",))
def _(spec: Spec, data: Path) -> None:
    (data / "photos/first.parquet").rename(data / "photos/x.parquet")


@edit(
    "other_path", no_effect=("files of source news: data/news.jsonl -> data/other.jsonl", "file of source news renamed")
)
def _(spec: Spec, data: Path) -> None:
    (data / "news.jsonl").rename(data / "other.jsonl")
    spec["sources"]["news"]["path"] = "data/other.jsonl"


@edit(
    "compressed_lines", no_effect=("files of source prose written anew, with the same rows (1 file added, 1 removed)",)
)
def _(spec: Spec, data: Path) -> None:
    write_lines(data / "prose/english.jsonl.zst", read_lines(data / "prose/english.jsonl"))
    (data / "prose/english.jsonl").unlink()


@edit("other_codec", no_effect=("files of source photos written anew, with the same rows (1 file changed)",))
def _(spec: Spec, data: Path) -> None:
    retype(data / "photos/second.parquet", lambda table: table, compression="zstd", row_group_size=3)


@edit("reordered_rows", no_effect=("files of source chats written anew, with the same rows (1 file changed)",))
def _(spec: Spec, data: Path) -> None:
    rows = read_lines(data / "chats.jsonl")
    write_lines(data / "chats.jsonl", rows[5:] + rows[:5])


@edit("split_file", no_effect=("files of source prose written anew, with the same rows (2 files added, 1 removed)",))
def _(spec: Spec, data: Path) -> None:
    rows = read_lines(data / "prose/german.jsonl")
    write_lines(data / "prose/german-1.jsonl", rows[:5])
    write_lines(data / "prose/german-2.jsonl", rows[5:])
    (data / "prose/german.jsonl").unlink()


@edit("changed_caption", "content of source photos: 1 row changed")
def _(spec: Spec, data: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        captions = table["caption"].to_pylist()
        captions[0] += " A changed caption."
        return table.set_column(table.schema.get_field_index("caption"), "caption", [captions])

    retype(data / "photos/first.parquet", change)


@edit("added_row", "content of source news: 1 row added")
def _(spec: Spec, data: Path) -> None:
    rows = read_lines(data / "news.jsonl")
    write_lines(data / "news.jsonl", [{"text": "A page that was not here before. " * 20}, *rows])


@edit("removed_row", "content of source chats: 1 row removed")
def _(spec: Spec, data: Path) -> None:
    write_lines(data / "chats.jsonl", read_lines(data / "chats.jsonl")[:3] + read_lines(data / "chats.jsonl")[4:])


@edit("changed_column", "columns of source photos: other values in the same samples (1 file changed)")
def _(spec: Spec, data: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        worse = pc.subtract(table["quality"], 0.3)
        return table.set_column(table.schema.get_field_index("quality"), "quality", worse)

    retype(data / "photos/first.parquet", change)


@edit("new_source", "source added: more, to align (0.2)")
def _(spec: Spec, data: Path) -> None:
    write_lines(data / "more.jsonl", [{"text": f"Page {n} of a source that is new. " * 12} for n in range(16)])
    spec["sources"]["more"] = {"path": "data/more.jsonl", "kind": "text"}
    spec["stages"][0]["mix"]["more"] = 0.2


@edit("removed_source", "source removed: news, from align (0.1)")
def _(spec: Spec, data: Path) -> None:
    del spec["sources"]["news"], spec["stages"][0]["mix"]["news"]


@edit("renamed_source", "source renamed: news -> manuals")
def _(spec: Spec, data: Path) -> None:
    spec["sources"]["manuals"] = spec["sources"].pop("news")
    spec["stages"][0]["mix"]["manuals"] = spec["stages"][0]["mix"].pop("news")


@edit("left_the_mix", "news leaves the mix of stage align (0.1)")
def _(spec: Spec, data: Path) -> None:
    del spec["stages"][0]["mix"]["news"]


@edit("template", "chat template of source chats: none -> chatml")
def _(spec: Spec, data: Path) -> None:
    spec["sources"]["chats"]["template"] = "chatml"


@edit("prompt", "prompt of source photos: none -> What is this?")
def _(spec: Spec, data: Path) -> None:
    spec["sources"]["photos"]["prompt"] = "What is this?"


@edit("tokenizer", "tokenizer: qwen2.5 -> data/tokenizer.json")
def _(spec: Spec, data: Path) -> None:
    """Without the rarest merges, so that many samples have the tokens that they had."""
    from mixc.measure.qwen import definition

    form = msgspec.json.decode(definition())
    form["model"]["merges"] = form["model"]["merges"][:100_000]
    (data / "tokenizer.json").write_bytes(msgspec.json.encode(form))
    spec["tokenizer"] = "data/tokenizer.json"


@edit("tiles", "most tiles of an image: 2 -> 4")
def _(spec: Spec, data: Path) -> None:
    spec["tiles"]["max"] = 4


@edit("dedup_switch", "near-duplicate text: from 0.75 on (5-grams, 128 permutations) -> off")
def _(spec: Spec, data: Path) -> None:
    del spec["dedup"]["minhash"]


@edit("dedup_exact", "exact deduplication: on -> off")
def _(spec: Spec, data: Path) -> None:
    """What is equal is nearly equal too, but of equal samples another stays."""
    spec["dedup"]["exact"] = False


@edit("dedup_threshold", "threshold of near-duplicate text: 0.75 -> 0.95")
def _(spec: Spec, data: Path) -> None:
    spec["dedup"]["minhash"]["threshold"] = 0.95


@edit("held_out", "held out of source prose: none -> 20%")
def _(spec: Spec, data: Path) -> None:
    spec["held_out"] = {"prose": "20%"}


@edit("budget", "budget of stage align: 9000 tokens -> 7000 tokens")
def _(spec: Spec, data: Path) -> None:
    spec["stages"][0]["budget"] = "7k tokens"


@edit("inserted_stage", "stage inserted: middle, after align")
def _(spec: Spec, data: Path) -> None:
    stage = {**spec["stages"][0], "name": "middle", "budget": "4k tokens", "mix": {"prose": 1}, "reuse": True}
    spec["stages"].insert(1, stage)


@edit("removed_stage", "stage removed: sft, after align")
def _(spec: Spec, data: Path) -> None:
    spec["stages"].pop()


@edit("renamed_stage", "stage renamed: sft -> tuning")
def _(spec: Spec, data: Path) -> None:
    spec["stages"][1]["name"] = "tuning"


@edit(
    "swapped_stages",
    "order of the stages: align, sft -> sft, align",
    no_effect=("reuse of earlier samples of stage align: off -> on",),
)
def _(spec: Spec, data: Path) -> None:
    spec["stages"].reverse()
    spec["stages"][1]["reuse"] = True


@edit("batch", "batch of stage align: 2 -> 3")
def _(spec: Spec, data: Path) -> None:
    spec["stages"][0]["train"]["batch"] = 3


@edit("sequence_length", "sequence length of stage sft: 1024 -> 1536")
def _(spec: Spec, data: Path) -> None:
    spec["stages"][1]["sequence_length"] = 1536


@edit("learning_rate", "learning rate of language in stage sft: 0.0001 -> 0.0002")
def _(spec: Spec, data: Path) -> None:
    spec["stages"][1]["train"]["lr"]["language"] = 2e-4


@edit("loss", "loss weighting of stage sft: token -> square")
def _(spec: Spec, data: Path) -> None:
    spec["stages"][1]["train"]["loss"] = "square"


@edit("comments_and_defaults")
def _(spec: Spec, data: Path) -> None:
    spec["comment"] = "# Says the same in other words.\n"
    spec["stages"][0]["unit"] = "tokens"
    spec["stages"][0]["train"]["clip"] = 1.0
    spec["stages"][0]["budget"] = 9000
    spec["sources"] = dict(reversed(spec["sources"].items()))
    spec["max_reject_rate"] = 0.1


@edit("name_and_limits", no_effect=("name of the mixture: edits -> other", "limit of unusable rows: 0.1 -> 0.2"))
def _(spec: Spec, data: Path) -> None:
    spec["mixture"], spec["max_reject_rate"] = "other", 0.2


@edit(
    "two_edits_and_a_third",
    "threshold of source photos: quality >= 0.7 -> quality >= 0.9",
    "learning rate of projector in stage align: 0.001 -> 0.002",
    no_effect=("threshold of source prose: characters >= 200 -> characters >= 201",),
)
def _(spec: Spec, data: Path) -> None:
    spec["sources"]["photos"]["where"] = "quality >= 0.9"
    spec["sources"]["prose"]["where"] = "characters >= 201"
    spec["stages"][0]["train"]["lr"]["projector"] = 2e-3


def read_first_difference(a: Path, b: Path) -> tuple[str, int, int] | None:
    """Stage, step and pack at which two trainings part, by the bytes of their packs. A stage that only one has, or that stands in
    another place, parts at its first."""
    left, right = Build.open(a), Build.open(b)
    for before, after in zip(left.manifest.stages, right.manifest.stages, strict=False):
        if before.name != after.name:
            known = {stage.name for stage in left.manifest.stages}
            return (before.name if after.name in known else after.name), 0, 0
        for step in range(max(before.steps, after.steps)):
            if step >= min(before.steps, after.steps):
                return before.name, step, step * before.batch
            packs = [
                [
                    side.stage(entry.name).pack_bytes(pack)
                    for pack in range(step * entry.batch, (step + 1) * entry.batch)
                ]
                for side, entry in ((left, before), (right, after))
            ]
            if packs[0] != packs[1]:
                place = next((n for n, (x, y) in enumerate(zip(*packs, strict=False)) if x != y), min(map(len, packs)))
                return before.name, step, step * before.batch + place
    names = [[stage.name for stage in build.manifest.stages] for build in (left, right)]
    longer = max(names, key=len)
    return (longer[min(map(len, names))], 0, 0) if len(names[0]) != len(names[1]) else None


def told_first_difference(found: Difference) -> tuple[str, int, int] | None:
    assert found.order is not None
    first = found.order.first_difference
    return None if first is None else (first.stage, first.step, first.pack)


def check(found: Difference, wanted: Edit) -> None:
    assert [
        text[: len(begin)] for text, begin in zip((c.text for c in found.causes), wanted.causes, strict=True)
    ] == list(wanted.causes)
    told = [cause.text for cause in found.no_effect]
    assert [text[: len(begin)] for text, begin in zip(told, wanted.no_effect, strict=True)] == list(wanted.no_effect)
    assert not found.possible
    assert found.equal == (not wanted.causes)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", sorted(EDITS, key=lambda e: e.name), ids=lambda e: e.name)
def test_an_edit_is_the_cause_and_its_first_step_is_named(wanted: Edit, base: Project, tmp_path: Path) -> None:
    edited = compiled(tmp_path, wanted.make)
    found = diff(base.build, edited.build)
    check(found, wanted)
    roots = [Build.open(project.build).manifest.root for project in (base, edited)]
    assert found.equal == (roots[0] == roots[1])
    names = {"tuning": "sft"}
    there = read_first_difference(base.build, edited.build)
    assert told_first_difference(found) == (there and (names.get(there[0], there[0]), *there[1:]))
    if wanted.name in ("learning_rate", "name_and_limits") or not wanted.causes:
        assert there is None

    planned = diff(base.spec, edited.spec)  # knows no pack, and says the same
    check(planned, wanted)
    assert told_first_difference(planned) == told_first_difference(found)
    mirrored = diff(edited.build, base.build)
    assert mirrored.equal == found.equal and len(mirrored.causes) == len(found.causes)
    assert found.samples is not None and mirrored.samples is not None
    assert (mirrored.samples.added_by_rule, mirrored.samples.removed_by_rule) == (
        found.samples.removed_by_rule,
        found.samples.added_by_rule,
    )
    assert (mirrored.samples.more, mirrored.samples.less) == (found.samples.less, found.samples.more)


@pytest.mark.slow
def test_a_library_is_a_cause_only_where_nothing_else_is(base: Project, tmp_path: Path) -> None:
    """The lock of a build is edited: its results stay, so the version changes nothing. Where the results are other ones though no
    input differs, it is the cause."""
    other = tmp_path / "other"
    shutil.copytree(base.build, other)
    lock = json.loads((other / "mixture.lock").read_text())
    lock["versions"]["fastokens"] = "0.0.1"
    (other / "mixture.lock").write_text(json.dumps(lock))
    found = diff(other, base.build)
    assert found.equal and not found.causes
    assert [cause.text for cause in found.no_effect] == [f"library fastokens: 0.0.1 -> {found.no_effect[0].b}"]
