"""diff, inspect, explain, verify, report and lock on the compiled demo."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.compile.conftest import REPO, copy_demo, root

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def other(make_mixc, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with one weight changed, compiled."""
    build = tmp_path_factory.mktemp("other") / "build"
    make_mixc()("compile", REPO / "specs/demo-b.yaml", "-o", build)
    return build


SIDES = ("a", "b", "unknown", "distributions")
"""Of a diff, what hangs on how its sides are known: a build without its objects in the cache tells no signals."""


def placements(build: Path) -> list[dict]:
    return pq.read_table(build / "plan/placements.parquet").to_pylist()


def test_a_build_equals_itself_and_its_spec(mixc, demo: Path) -> None:
    for other in (demo, REPO / "specs/demo.yaml"):
        found = mixc.json("diff", demo, other, check=0)
        assert found["equal"] and not found["spec"] and not found["settings"] and not found["sources"]
        assert found["order"]["first_difference"] is None
        assert found["samples"]["added"] == found["samples"]["removed"] == found["samples"]["moved"] == 0
    assert "equal" in mixc("diff", demo, demo).stdout


def test_one_changed_weight_is_named_with_all_its_effects(mixc, demo: Path, other: Path) -> None:
    """Every figure of the diff is counted again here, from the two builds themselves."""
    found = mixc.json("diff", demo, other, check=1)
    assert not found["equal"]
    assert found["spec"] == [{"path": "stages.advance.mix.prose.weight", "a": 0.35, "b": 0.5}]
    assert found["sources"] == {}

    before, after = placements(demo), placements(other)
    used_before, used_after = ({row["id"] for row in rows} for rows in (before, after))
    assert found["samples"]["added"] == len(used_after - used_before) > 0
    assert found["samples"]["removed"] == len(used_before - used_after) > 0
    sources = {row["id"]: row["source"] for row in [*before, *after]}
    for name, ids in (("added", used_after - used_before), ("removed", used_before - used_after)):
        by_rule = found["samples"][f"{name}_by_rule"]
        assert {source: sum(rules.values()) for source, rules in by_rule.items()} == Counter(sources[i] for i in ids)
        assert {rule for rules in by_rule.values() for rule in rules} == {"budget"}

    tokens = Counter[tuple[int, str]]()
    for sign, rows in ((-1, before), (1, after)):
        for row in rows:
            tokens[row["stage"], row["source"]] += sign * row["tokens"]
    told = {(c["stage"], c["source"]): c["b"]["tokens"] - c["a"]["tokens"] for c in found["composition"]}
    assert {stage for stage, _ in told} == {"advance"}
    assert told == {("advance", source): tokens[1, source] for _, source in told}

    def by_pack(rows: list[dict]) -> dict[tuple[int, int], list]:
        packs: dict[tuple[int, int], list] = {}
        for row in rows:
            packs.setdefault((row["stage"], row["pack"]), []).append(
                (row["id"], row["epoch"], row["piece"], row["weight"])
            )
        return packs

    packs_before, packs_after = by_pack(before), by_pack(after)
    differing = sorted(p for p in packs_before.keys() | packs_after.keys() if packs_before.get(p) != packs_after.get(p))
    stage, pack = differing[0]
    assert found["order"]["first_difference"] == {"stage": "advance", "step": pack // 4, "pack": pack}
    assert stage == 1
    steps = {p // 4 for s, p in differing if s == 1}
    advance = found["order"]["stages"]["advance"]
    assert advance["equal_steps"] == len(set(range(min(advance["steps_a"], advance["steps_b"]))) - steps)

    text = mixc("diff", demo, other, check=1).stdout
    assert text.splitlines()[3:5] == ["causes", "  weight of prose in stage advance: 0.35 -> 0.5"]
    assert [cause["key"] for cause in found["causes"]] == ["stages.advance.mix.prose.weight"]
    moved = [move for move in found["samples"]["moves"] if move["a"] and move["b"]]
    assert sum(move["samples"] for move in moved) == found["samples"]["moved"]
    assert f"first difference: stage advance, step {pack // 4}" in text


def test_two_specs_and_a_build_and_a_spec_give_the_same_diff(mixc, demo: Path, other: Path) -> None:
    builds = mixc.json("diff", demo, other, check=1)
    for a, b in ((REPO / "specs/demo.yaml", REPO / "specs/demo-b.yaml"), (demo, REPO / "specs/demo-b.yaml")):
        found = mixc.json("diff", a, b, check=1)
        assert {k: v for k, v in found.items() if k not in SIDES} == {k: v for k, v in builds.items() if k not in SIDES}


def test_a_changed_source_is_named(mixc, demo: Path, tmp_path: Path) -> None:
    spec = copy_demo(tmp_path)
    path = tmp_path / "demo/data/chat/knowledge.json"
    rows = json.loads(path.read_text())
    rows[0]["conversations"][-1]["value"] += " Indeed."
    path.write_text(json.dumps(rows))
    found = mixc.json("diff", demo, spec, check=1)
    assert not found["spec"]
    assert list(found["sources"]) == ["knowledge"]
    assert found["sources"]["knowledge"]["kept"] == 0
    rows = found["sources"]["knowledge"]["rows"]
    assert (rows["changed"], rows["added"], rows["removed"]) == (1, 0, 0)
    assert [(row["change"], row["row_a"], row["row_b"]) for row in rows["examples"]] == [("changed", 0, 0)]
    assert [cause["text"] for cause in found["causes"]] == ["content of source knowledge: 1 row changed"]
    assert found["samples"]["added_by_rule"]["knowledge"].get("absent") == 1
    assert found["samples"]["removed_by_rule"]["knowledge"].get("absent") == 1


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ("seed=2", "seed"),
        ("stages.align.train.lr.projector=1e-3", "stages.align.train.lr.projector"),
        ("sources.details.where='quality >= 0.52'", "sources.details.where"),
        ("dedup.exact=false", "dedup.exact"),
        ("tiles.max=3", "tiles.max"),
    ],
)
def test_what_changed_is_said_first(mixc, demo: Path, tmp_path: Path, change: str, path: str) -> None:
    build = tmp_path / "build"
    mixc("compile", REPO / "specs/demo.yaml", "-o", build, "--set", change)
    found = mixc.json("diff", demo, build, check=1)
    assert [c["path"] for c in found["spec"]] == [path]
    assert [cause["key"] for cause in found["causes"]] == [path]
    lines = mixc("diff", demo, build, check=1).stdout.splitlines()
    assert lines[3:5] == ["causes", f"  {found['causes'][0]['text']}"]


def test_a_change_that_trains_the_same_is_equal(mixc, demo: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    mixc("compile", REPO / "specs/demo.yaml", "-o", build, "--set", "mixture=renamed")
    found = mixc.json("diff", demo, build, check=0)
    assert found["equal"] and [c["path"] for c in found["spec"]] == ["mixture"]
    assert root(build) == root(demo)


def test_explain_goes_from_a_step_to_its_documents_and_back(mixc, demo: Path) -> None:
    step = mixc.json("explain", demo, "--stage", "sft-knowledge", "--step", "2")
    rows = [row for row in placements(demo) if row["stage"] == 2 and row["step"] == 2]
    assert [use["id"] for use in step] == [row["id"].hex for row in rows]
    sample = step[0]["id"]
    story = mixc.json("explain", demo, "--sample", sample)
    assert step[0] in story["uses"] and not story["drops"]
    dropped = pq.read_table(demo / "plan/drops.parquet").to_pylist()[0]
    story = mixc.json("explain", demo, "--sample", dropped["id"].hex)
    assert [drop["rule"] for drop in story["drops"]] == [dropped["rule"]]
    for wrong in (
        *(["--sample", "0" * 32], ["--sample", "x"], ["--stage", "none", "--step", "0"], ["--stage", "align"], []),
        *(["--step", "0"], ["--stage", "align", "--step", "0", "--pack", "0"], ["--row", "1"], ["--text", "xyzzy"]),
        *(["--file", "none.json"], ["--sample", sample, "--file", "knowledge.json"], ["--image", "none.png"]),
    ):
        done = mixc("explain", demo, *wrong, check=2)
        assert "Traceback" not in done.stderr and done.stderr.startswith("error: ") and not done.stdout


def test_explain_finds_a_file_a_row_a_text_and_an_image(mixc, demo: Path) -> None:
    file = mixc.json("explain", demo, "--file", "knowledge.json", "--limit", "2")
    assert file["samples"] == 78 and [row["row"] for row in file["rows"]] == [0, 1]
    row = mixc.json("explain", demo, "--file", "demo/data/chat/knowledge.json", "--row", "1")
    assert row == mixc.json("explain", demo, "--sample", file["rows"][1]["id"][:12])
    turns = json.loads((REPO / "specs/demo/data/chat/knowledge.json").read_text())[1]["conversations"]
    text = mixc.json("explain", demo, "--text", turns[1]["value"], "--limit", "0")
    assert {(f["use"]["pack"], f["use"]["place"]) for f in text["found"]} >= {
        (u["pack"], u["place"]) for u in row["uses"]
    }
    out = pq.read_table(demo / "plan/drops.parquet").to_pylist()
    (bad,) = [row for row in out if row["id"].hex.startswith("082c51e0f80e")]  # some Spanish, too short for `where`
    wanted = ("explain", demo, "--text", "LibreOffice recalcula la tabla dinámica")
    assert "--dropped looks through" in mixc(*wanted, check=2).stderr
    found = mixc.json(*wanted, "--dropped")
    assert [(each["id"], each["rule"]) for each in found["dropped"]["found"]] == [(bad["id"].hex, "where")]
    assert found["places"] == 0 and found["dropped"]["searched"] == len(out)
    told = mixc(*wanted, "--dropped").stdout
    assert "not used: 1 sample" in told and "where: characters >= 300" in told
    assert "goes with --text" in mixc("explain", demo, "--sample", row["id"], "--dropped", check=2).stderr
    image = mixc.json("explain", demo, "--image", REPO / "specs/demo/data/chat/images/cat.jpg", "--limit", "1")
    assert image["places"] > len(image["found"]) == 1
    for arguments in (["--file", "knowledge.json"], ["--text", turns[1]["value"]], ["--sample", row["id"]]):
        assert row["id"][:12] in mixc("explain", demo, *arguments).stdout


def test_inspect_marks_just_what_is_supervised(mixc, demo: Path) -> None:
    """The supervised text of a pack, against the conversations as they stand in the source."""
    pack = mixc.json("inspect", demo, "--stage", "sft-knowledge", "--pack", "0")
    answers = {
        turn["value"] + "<|im_end|>"
        for row in json.loads((REPO / "specs/demo/data/chat/knowledge.json").read_text())
        for turn in row["conversations"]
        if turn["from"] in ("gpt", "assistant")
    }
    supervised = [
        run["text"] for s in pack["segments"] if s["source"] == "knowledge" for run in s["runs"] if run["supervised"]
    ]
    assert supervised and set(supervised) <= answers
    dropped = pq.read_table(demo / "plan/drops.parquet").to_pylist()[0]["id"].hex
    for wrong in (["--pack", "100000"], ["--step", "100000"], ["--pack", "0", "--step", "0"], ["--sample", dropped]):
        done = mixc("inspect", demo, *wrong, check=2)
        assert "Traceback" not in done.stderr and done.stderr.startswith("error: ")


def test_inspect_shows_steps_samples_tokens_and_pages(mixc, demo: Path, tmp_path: Path) -> None:
    step = mixc.json("inspect", demo, "--stage", "sft-knowledge", "--step", "1")
    assert [pack["pack"] for pack in step] == [4, 5, 6, 7]
    segment = step[2]["segments"][0]
    sample = mixc.json("inspect", demo, "--stage", "sft-knowledge", "--sample", segment["id"], "--tokens")
    (alone,) = sample["segments"]
    assert [run["text"] for run in alone["runs"]] == [run["text"] for run in segment["runs"]]
    assert all(run["image"] or run["tokens"] for run in alone["runs"])
    mixc("inspect", demo, "--stage", "sft-knowledge", "--step", "1", "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count('class="picture"') == sum(
        bool(r["image"]) for p in step for s in p["segments"] for r in s["runs"]
    )
    assert "<script" not in page and "http" not in page


def test_a_flipped_byte_is_found_by_name(mixc, demo: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    shutil.copytree(demo, build)
    assert mixc("verify", build, check=0)
    for path in sorted(p for p in build.rglob("*") if p.is_file()):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        found = mixc.json("verify", build, check=1)
        assert path.relative_to(build).as_posix() in {problem["file"] for problem in found["problems"]}
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def test_locked_builds_nothing_else(mixc, demo: Path, tmp_path: Path) -> None:
    spec = copy_demo(tmp_path)
    shutil.copy(demo / "mixture.lock", tmp_path / "demo.lock")
    mixc("compile", spec, "-o", tmp_path / "a", "--locked")
    assert root(tmp_path / "a") == root(demo)

    done = mixc("compile", spec, "-o", tmp_path / "b", "--locked", "--set", "seed=9", check=2)
    assert "seed" in done.stderr and not (tmp_path / "b").exists()

    with (tmp_path / "demo/data/chat/reasoning.jsonl").open("ab") as file:
        file.write(b"\n")
    done = mixc("compile", spec, "-o", tmp_path / "b", "--locked", check=2)
    assert "reasoning.jsonl" in done.stderr and not (tmp_path / "b").exists()


def test_without_a_lock_locked_says_so(mixc, tmp_path: Path) -> None:
    spec = copy_demo(tmp_path)
    assert "no lock" in mixc("compile", spec, "-o", tmp_path / "b", "--locked", check=2).stderr
