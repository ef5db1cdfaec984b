"""Explain is the inverse of the plan, on a compiled build: from places to samples to places, and down to the sources' rows."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.errors import BuildError
from mixc.report.explain import (
    Row,
    SampleStory,
    Use,
    explain_file,
    explain_pack,
    explain_row,
    explain_sample,
    explain_step,
)
from mixc.report.inspect import Inspector
from mixc.report.reasons import lot
from shards.errors import ShardError
from tests.report.conftest import Small

pytestmark = pytest.mark.slow

PLAN = (
    "pack",
    "place",
    "step",
    "source",
    "row",
    "epoch",
    "piece",
    "tokens",
    "supervised_tokens",
    "images",
    "tiles",
    "weight",
)


def as_plan(use: Use, small: Small) -> tuple:
    return (small.stages.index(use.stage), use.id, *(getattr(use, name) for name in PLAN))


def plan(small: Small) -> list[tuple]:
    return [
        (row["stage"], row["id"].hex, *(row[name] for name in PLAN)) for row in small.table("plan/placements.parquet")
    ]


@pytest.fixture(scope="session")
def steps(small: Small) -> list[list[Use]]:
    """Every step of every stage, explained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXC_CACHE", str(small.cache))
        return [explain_step(small.build, s.name, n) for s in small.manifest.stages for n in range(s.steps)]


def test_the_mixture_has_something_for_every_rule(small: Small) -> None:
    dropped = {row["rule"] for row in small.table("plan/drops.parquet")}
    assert dropped >= {"where", "dedup_exact", "held_out", "unused_source", "stage_where", "too_long", "budget"}
    placed = small.table("plan/placements.parquet")
    assert max(row["piece"] for row in placed) > 1 and max(row["epoch"] for row in placed) > 1


def test_all_steps_together_are_the_plan(small: Small, steps: list[list[Use]]) -> None:
    assert [as_plan(use, small) for step in steps for use in step] == plan(small)


def test_all_packs_together_are_the_plan(small: Small) -> None:
    packs = [explain_pack(small.build, s.name, n) for s in small.manifest.stages for n in range(s.packs)]
    assert [as_plan(use, small) for pack in packs for use in pack] == plan(small)


@settings(max_examples=25)
@given(data=st.data())
def test_from_samples_to_places_and_back(small: Small, steps: list[list[Use]], data: st.DataObject) -> None:
    ids = sorted({row["id"].hex for name in ("placements", "drops") for row in small.table(f"plan/{name}.parquet")})
    id = data.draw(st.sampled_from(ids))
    shortest = next(n for n in range(1, 33) if sum(other.startswith(id[:n]) for other in ids) == 1)
    story = explain_sample(small.build, id[: data.draw(st.integers(shortest, 32))])
    assert story.id == id
    assert [as_plan(use, small) for use in story.uses] == [row for row in plan(small) if row[1] == id]
    assert bool(story.uses) != bool(story.drops)
    for use in story.uses:
        number = sum(s.steps for s in small.manifest.stages[: small.stages.index(use.stage)]) + use.step
        assert use in steps[number]
        assert use in explain_pack(small.build, use.stage, use.pack)
    for each in [*story.uses, *story.drops]:
        assert explain_row(small.build, each.path, each.row) == story
    if shortest > 1:
        with pytest.raises(BuildError, match="several samples begin with"):
            explain_sample(small.build, id[: shortest - 1])


def test_every_row_that_is_named_holds_its_sample(small: Small, steps: list[list[Use]]) -> None:
    """What a file has at a row, against what the packs have of the sample that is said to come from there."""
    inspector = Inspector(small.build)
    trained: dict[tuple, dict[int, str]] = defaultdict(dict)
    where = {}
    for use in (use for step in steps for use in step):
        (segment,) = inspector.pack(use.stage, use.pack, only=use.place).segments
        assert (segment.id, segment.source, segment.tokens) == (use.id, use.source, use.tokens)
        ids = inspector.build.stage(use.stage).pack(use.pack)
        start = int(ids.segments["start"][use.place])
        trained[use.stage, use.id, use.epoch][use.piece] = ids.tokens[start : start + use.tokens]
        where[use.stage, use.id, use.epoch] = use
    for key, pieces in trained.items():
        use = where[key]
        line = json.loads(Path(use.path).read_text().split("\n")[use.row])
        tokens = [token for piece in sorted(pieces) for token in pieces[piece].tolist()]
        text = inspector._tokenizer.decode(tokens)
        if use.source != "talk":
            assert text == unicodedata.normalize("NFC", line["text"]) + "<|endoftext|>"
        else:
            assert text.endswith(line["messages"][1]["content"] + "<|im_end|>")


def test_a_drop_ends_with_its_rule(small: Small) -> None:
    for row in small.table("plan/drops.parquet"):
        story = explain_sample(small.build, row["id"].hex)
        (drop,) = story.drops
        assert (drop.rule, drop.detail, drop.source, drop.row) == (
            row["rule"],
            row["detail"] or "",
            row["source"],
            row["row"],
        )
        assert drop.why[-1].rule == drop.rule and Counter(r.rule for r in drop.why)[drop.rule] == 1
        if drop.rule == "where":
            line = json.loads(Path(drop.path).read_text().split("\n")[drop.row])
            assert f"score is {line['score']:.6g}" in drop.why[-1].text and line["score"] < 0.3


def test_winners_and_losers_name_each_other(small: Small) -> None:
    losers = [row for row in small.table("plan/drops.parquet") if row["rule"] == "dedup_exact"]
    for row in losers:
        winner = row["detail"].split(" ")[1].replace("-", "")
        assert (
            f"{winner[:12]} of {row['detail'].split(' ')[0]} stands for it"
            in explain_sample(small.build, row["id"].hex).drops[0].why[-1].text
        )
        story = explain_sample(small.build, winner)
        for each in story.uses or story.drops:
            told = next(reason.text for reason in each.why if reason.rule == "dedup_exact")
            assert f"{row['id'].hex[:12]} of {row['source']}" in told


def test_lots_decide_what_a_budget_takes(small: Small) -> None:
    """All that is used of a source in its only round has lower lots than all that its budget left out."""
    used = {row["id"].hex for row in small.table("plan/placements.parquet") if row["source"] == "notes"}
    out = {row["id"].hex for row in small.table("plan/drops.parquet") if row["source"] == "notes"}
    assert used and out
    assert max(lot(7, "read", 0, id) for id in used) < min(lot(7, "read", 0, id) for id in out)
    told = explain_sample(small.build, max(used, key=lambda id: lot(7, "read", 0, id))).uses[0].why
    assert next(r.text for r in told if r.rule == "epoch").startswith(
        f"0: lot {max(lot(7, 'read', 0, id) for id in used):.4f}"
    )


def test_every_stage_without_a_sample_says_what_keeps_it_out(small: Small, tmp_path: Path) -> None:
    """Against the rules themselves, evaluated on the sources' lines: `speak` takes of prose the upper four fifths by score, and of
    talk what is below level 3; `read` mixes no talk. The rest is the budget's."""
    ids = {row["id"].hex for name in ("drops", "placements") for row in small.table(f"plan/{name}.parquet")}
    stories = {id: explain_sample(small.build, id) for id in sorted(ids)}
    judged = ("stage_where", "quantile", "too_long", "budget")
    scores: dict[str, float] = {}
    expected: dict[tuple[str, str], str] = {}
    for id, story in stories.items():
        own = [*story.uses, *story.drops][0]
        if story.drops and story.drops[0].rule not in judged:
            assert story.not_in == []
            continue
        used = {use.stage for use in story.uses}
        assert [each.stage for each in story.not_in] == [name for name in small.stages if name not in used]
        line = json.loads(Path(own.path).read_text().split("\n")[own.row])
        if own.source == "prose":
            scores[id] = line["score"]
        expected[id, "read"] = "not_mixed" if own.source == "talk" else "budget"
        expected[id, "speak"] = "budget" if own.source in ("prose", "talk") else "not_mixed"
        if own.source == "talk":
            wide = story.drops and story.drops[0].rule == "too_long"
            expected[id, "speak"] = "stage_where" if line["level"] >= 3 else "too_long" if wide else "budget"
    for id in sorted(scores, key=lambda id: scores[id])[: len(scores) // 5]:
        expected[id, "speak"] = "quantile"
    found = {(id, each.stage): each.rule for id, story in stories.items() for each in story.not_in}
    assert found == {key: expected[key] for key in found}
    assert set(found.values()) >= {"not_mixed", "stage_where", "quantile", "budget"}
    lowest = stories[min(scores, key=lambda id: scores[id])].not_in[-1]
    assert lowest.text == f"not in ranks 0.2 to 1 by `score` (score is {min(scores.values()):.6g})"

    build = tmp_path / "build"
    shutil.copytree(small.build, build)
    (build / "plan/kept_out.parquet").unlink()
    possible = {"quantile": "quantile or budget", "stage_where": "stage_where or "}
    for id, story in list(stories.items())[::7]:
        earlier = explain_sample(build, id)
        assert (earlier.uses, earlier.drops) == (story.uses, story.drops)
        for each, old in zip(story.not_in, earlier.not_in, strict=True):
            assert old.rule == each.rule or (old.rule.startswith(possible.get(each.rule, "")) and " or " in old.rule)


def test_rules_are_told_in_the_order_in_which_they_are_met(small: Small, steps: list[list[Use]]) -> None:
    order = ["where", "dedup_exact", "held_out", "stage_where", "quantile", "too_long", "share", "epoch", "order"]
    for use in (use for step in steps for use in step):
        rules = [reason.rule for reason in use.why]
        assert rules == [rule for rule in order if rule in rules]
        assert ("stage_where" in rules, "quantile" in rules) == (
            use.source == "talk",
            use.stage == "speak" and use.source == "prose",
        )
        share = next(reason.text for reason in use.why if reason.rule == "share")
        assert ("through words" in share) == (use.stage == "read")
        split = any(reason.rule == "too_long" and "split" in reason.text for reason in use.why)
        pieces = sum(u.id == use.id and u.stage == use.stage and u.epoch == use.epoch for step in steps for u in step)
        assert split == (pieces > 1)


def test_without_the_cache_only_values_are_missing(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cache = explain_step(small.build, "speak", 0)
    monkeypatch.setenv("MIXC_CACHE", str(tmp_path))
    without = explain_step(small.build, "speak", 0)
    assert [as_plan(use, small) for use in without] == [as_plan(use, small) for use in with_cache]
    texts = [" ".join(reason.text for use in uses for reason in use.why) for uses in (with_cache, without)]
    assert "level is" in texts[0] and "level is" not in texts[1]


@pytest.mark.parametrize(
    "name", ["prose/a.jsonl", "prose/b.jsonl", "letters.jsonl", "notes.jsonl", "spare.jsonl", "talk.jsonl"]
)
def test_a_file_is_counted_and_every_row_told(small: Small, name: str) -> None:
    path = small.folder / name
    story = explain_file(small.build, name, limit=None)
    assert story == explain_file(small.build, str(path), limit=None) and story.path == str(path)
    placed = [row for row in small.table("plan/placements.parquet") if _path(small, row) == str(path)]
    dropped = [row for row in small.table("plan/drops.parquet") if _path(small, row) == str(path)]
    assert story.placements == len(placed) and story.used == len({row["id"] for row in placed})
    assert story.drops == Counter(row["rule"] for row in dropped)
    assert story.samples == story.used + len(dropped)
    assert story.rejects == ({"broken_row": 1} if name.startswith("prose") else {})
    assert sum(stage.tokens for stage in story.stages) == sum(row["tokens"] for row in placed)
    for stage in story.stages:
        own = [row for row in placed if small.stages[row["stage"]] == stage.stage]
        assert stage.epochs == max(Counter((row["id"], row["piece"]) for row in own).values())
        assert (stage.first_step, stage.last_step) == (min(r["step"] for r in own), max(r["step"] for r in own))
    lines = path.read_text().rstrip("\n").split("\n")
    assert [row.row for row in story.rows] == list(range(len(lines)))
    for row in story.rows:
        found = explain_row(small.build, name, row.row)
        if row.rule == "reject":
            assert found == row and isinstance(found, Row)
        else:
            assert isinstance(found, SampleStory) and len(found.uses) == row.uses and found.id == row.id
    assert explain_file(small.build, name, limit=3).rows == story.rows[:3]


def _path(small: Small, row: dict) -> str:
    return next(f["path"] for f in small.table("plan/fragments.parquet") if f["fragment"] == row["fragment"])


def test_what_is_not_there_is_said_plainly(small: Small, tmp_path: Path) -> None:
    wrong = {
        "no file of this build": lambda: explain_file(small.build, "nothing/a.jsonl", limit=1),
        "did you mean letters.jsonl": lambda: explain_file(small.build, "leters.jsonl", limit=1),
        "row 99": lambda: explain_row(small.build, "talk.jsonl", 99),
        "no sample": lambda: explain_sample(small.build, "0" * 32),
        "not a sample's id": lambda: explain_sample(small.build, "xyz"),
        "steps 0 to": lambda: explain_step(small.build, "read", 10**6),
        "packs 0 to": lambda: explain_pack(small.build, "read", 10**6),
        "its stages: read, speak": lambda: explain_step(small.build, "none", 0),
    }
    for said, ask in wrong.items():
        with pytest.raises(BuildError) as caught:
            ask()
        assert said in str(caught.value)
    with pytest.raises(ShardError):
        explain_step(tmp_path, "read", 0)


def test_a_plan_that_was_damaged_is_said_plainly(small: Small, tmp_path: Path) -> None:
    build = tmp_path / "build"
    shutil.copytree(small.build, build)
    (build / "plan/placements.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(BuildError, match="plan of this build cannot be read"):
        explain_step(build, "read", 0)
