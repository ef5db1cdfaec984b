"""A text or an image is found wherever it is trained on, whatever tokens it is cut into, and nowhere else."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.compile import compile_spec
from mixc.errors import BuildError
from mixc.report import spelled
from mixc.report.search import find_image, find_text
from tests.report.conftest import Small, write_sources

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def texts(small: Small) -> dict[str, list[str]]:
    """By id of each used sample, its texts as the source has them."""
    paths = {f["fragment"]: f["path"] for f in small.table("plan/fragments.parquet")}
    found = {}
    for row in small.table("plan/placements.parquet"):
        line = json.loads(Path(paths[row["fragment"]]).read_text().split("\n")[row["row"]])
        own = [line["text"]] if "text" in line else [m["content"].removeprefix("<image>") for m in line["messages"]]
        found[row["id"].hex] = [unicodedata.normalize("NFC", text) for text in own]
    return found


@settings(max_examples=15)
@given(data=st.data())
def test_a_fragment_is_found_in_every_sample_that_holds_it(
    small: Small, texts: dict[str, list[str]], data: st.DataObject
) -> None:
    id = data.draw(st.sampled_from(sorted(texts)))
    text = data.draw(st.sampled_from(texts[id]))
    start = data.draw(st.integers(0, max(0, len(text) - 8)))
    fragment = text[start : start + data.draw(st.integers(8, 300))]
    found = find_text(small.build, fragment, limit=None, workers=2)
    holding = {id for id, own in texts.items() if any(fragment in text for text in own)}
    placed = {
        (small.stages[row["stage"]], row["id"].hex, row["epoch"])
        for row in small.table("plan/placements.parquet")
        if row["id"].hex in holding
    }
    assert {(each.use.stage, each.use.id, each.use.epoch) for each in found.found} == placed
    assert found.samples == len(holding) and found.places == len(found.found)
    assert found.dropped is None and "--dropped looks through" in found.not_searched[0]
    few = find_text(small.build, fragment, limit=1, workers=1)
    assert few.found == found.found[:1] and few.places == found.places


def test_a_text_that_lies_across_pieces_is_found_in_each_of_them(small: Small, texts: dict[str, list[str]]) -> None:
    """The whole text of a document that is split: in all its pieces, at each of its epochs, and in the pack that holds it whole."""
    pieces = [row for row in small.table("plan/placements.parquet") if row["piece"] == 3]
    for row in pieces:
        id = row["id"].hex
        found = find_text(small.build, texts[id][0], limit=None, workers=2)
        places = {
            (small.stages[r["stage"]], r["pack"], r["place"])
            for r in small.table("plan/placements.parquet")
            if r["id"] == row["id"]
        }
        # the last piece of a text may hold only its end token
        missing = places - {(f.use.stage, f.use.pack, f.use.place) for f in found.found}
        assert all(
            r["tokens"] == 1
            for r in small.table("plan/placements.parquet")
            if (small.stages[r["stage"]], r["pack"], r["place"]) in missing
        )
        assert {f.use.id for f in found.found} == {id}


@pytest.mark.parametrize("fragment", ["quiet", "naive\u0308", "文字 🦜", "<|im_end|> quiet", "alert('1')"])
def test_without_a_spelling_the_same_is_found(small: Small, fragment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_bytes = find_text(small.build, fragment.replace("naive\u0308", "nai\u0308ve"), limit=None, workers=2)
    monkeypatch.setattr(spelled, "spelling", lambda *_: None)
    assert find_text(small.build, fragment.replace("naive\u0308", "nai\u0308ve"), limit=None, workers=2) == by_bytes


def test_control_tokens_are_no_text(small: Small) -> None:
    for fragment in ("assistant\nxx", "<|im_end|><|im_start|>", "<img>", "<IMG_CONTEXT>", "zzzz"):
        with pytest.raises(BuildError, match="nothing that is trained on"):
            find_text(small.build, fragment, limit=None, workers=1)
    with pytest.raises(BuildError, match="empty"):
        find_text(small.build, "  ", limit=None, workers=1)


def test_an_image_is_found_by_its_bytes(small: Small, tmp_path: Path) -> None:
    placed = [row for row in small.table("plan/placements.parquet") if row["source"] == "talk"]
    for number in {row["row"] for row in placed}:
        found = find_image(small.build, small.folder / f"images/{number}.png", limit=None, workers=2)
        assert [(f.use.stage, f.use.pack, f.use.place) for f in found.found] == [
            (small.stages[row["stage"]], row["pack"], row["place"]) for row in placed if row["row"] == number
        ]
    (tmp_path / "other.png").write_bytes(b"other")
    with pytest.raises(BuildError, match="nothing that is trained on"):
        find_image(small.build, tmp_path / "other.png", limit=None, workers=2)
    with pytest.raises(BuildError, match="no such image"):
        find_image(small.build, tmp_path / "none.png", limit=None, workers=2)


def test_what_was_dropped_is_found_with_its_rule(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dropped sample, by the whole of one of its texts: by its object in the cache and, without a cache, by its file."""
    paths = {f["fragment"]: f["path"] for f in small.table("plan/fragments.parquet")}
    drops = small.table("plan/drops.parquet")
    own: dict[str, str] = {}
    for row in drops:
        line = json.loads(Path(paths[row["fragment"]]).read_text().split("\n")[row["row"]])
        own[row["id"].hex] = unicodedata.normalize(
            "NFC", line["text"] if "text" in line else line["messages"][1]["content"]
        )
    chosen = list({row["rule"]: row for row in drops}.values()) + drops[:: len(drops) // 3]
    answers = []
    for row in chosen:
        text = own[row["id"].hex]
        found = find_text(small.build, text, limit=None, workers=2, dropped=True)
        assert found.dropped is not None and found.dropped.searched == len(drops)
        holding = {id for id, other in own.items() if text in other}
        assert {each.id for each in found.dropped.found} == holding and found.dropped.samples == len(holding)
        (told,) = [each for each in found.dropped.found if each.id == row["id"].hex]
        assert (told.rule, told.detail, told.tokens, told.row) == (
            row["rule"],
            row["detail"] or "",
            row["tokens"],
            row["row"],
        )
        assert told.path == paths[row["fragment"]] and " ".join(text.split())[:20] in told.excerpt
        assert found.dropped.not_searched == ["2 rows that are unusable"]
        few = find_text(small.build, text, limit=1, workers=1, dropped=True).dropped
        assert few is not None and few.found == found.dropped.found[:1] and few.rules == found.dropped.rules
        answers.append(found.dropped)
    monkeypatch.setenv("MIXC_CACHE", str(tmp_path / "empty"))
    for row, answer in zip(chosen, answers, strict=True):
        assert find_text(small.build, own[row["id"].hex], limit=None, workers=2, dropped=True).dropped == answer


def test_a_source_that_is_gone_or_changed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sources(tmp_path / "data")
    monkeypatch.setenv("MIXC_CACHE", str(tmp_path / "cache"))
    compile_spec(tmp_path / "data/small.yaml", tmp_path / "build")
    drops = pq.read_table(tmp_path / "build/plan/drops.parquet").to_pylist()
    monkeypatch.setenv("MIXC_CACHE", str(tmp_path / "empty"))
    (tmp_path / "data/spare.jsonl").unlink()
    (tmp_path / "data/notes.jsonl").write_text('{"text": "spare and notes"}')
    with pytest.raises(BuildError, match="nothing that was dropped") as caught:
        find_text(tmp_path / "build", "spare", limit=None, workers=2, dropped=True)
    count = {name: sum(row["source"] == name for row in drops) for name in ("notes", "spare")}
    assert f"{count['notes']} samples of notes that no stage uses: no file of this content is there" in str(
        caught.value
    )
    assert f"{count['spare']} samples of spare that no stage uses: " in str(caught.value)
    assert f"{len(drops) - sum(count.values())} samples that no stage uses were looked through" in str(caught.value)


def test_progress_ends_at_all_packs(small: Small) -> None:
    told: list[tuple[int, int]] = []
    find_text(small.build, "quiet", limit=1, workers=2, progress=lambda done, total: told.append((done, total)))
    packs = sum(stage.packs for stage in small.manifest.stages)
    assert told[-1] == (packs, packs) and told == sorted(told)
