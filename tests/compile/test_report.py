"""The report on the compiled demo: its figures counted again from the plan, and the page in a browser."""

from __future__ import annotations

import json
import re
from collections import Counter
from html import unescape
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from markupsafe import Markup

from mixc.report.figures import FILL_BINS, LENGTH_BINS, Figures
from mixc.report.forecast import Flops, Forecast
from mixc.report.gallery import LONGEST, Said, Turn, turns
from mixc.report.opened import open_plan
from mixc.report.page import WORDS, time_of
from mixc.report.spread import BINS, spreads
from shards.manifest import read_manifest
from tests.browser import check_page, needs_chromium, opened
from tests.compile.conftest import root

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(make_mixc, demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    make_mixc()("report", demo, "-o", path)
    return path


@pytest.fixture
def figures(demo: Path):
    with open_plan(demo) as plan:
        yield Figures(plan)


def rows(build: Path, table: str) -> list[dict]:
    return pq.read_table(build / f"plan/{table}.parquet").to_pylist()


def test_histograms_are_those_of_the_plan(demo: Path, figures: Figures) -> None:
    for number, stage in enumerate(read_manifest(demo).stages):
        placed = [row for row in rows(demo, "placements") if row["stage"] == number]
        packs = [row for row in rows(demo, "packs") if row["stage"] == number and row["tokens"]]
        longest = stage.sequence_length
        lengths = Counter(min(row["tokens"] * LENGTH_BINS // longest, LENGTH_BINS - 1) for row in placed)
        assert figures.lengths(number, longest) == [lengths[bin] for bin in range(LENGTH_BINS)]
        fill = Counter(min(row["tokens"] * FILL_BINS // longest, FILL_BINS - 1) for row in packs)
        assert figures.fill(number, longest) == [fill[bin] for bin in range(FILL_BINS)]
        tiles = Counter(row["tiles"] for row in placed)
        assert figures.tiles(number) == [tiles[count] for count in range(max(tiles) + 1)]
        totals = figures.totals(number)
        assert (totals.tokens, totals.tiles, totals.targets) == (stage.tokens, stage.tiles, stage.supervised_tokens)
        assert totals.pairs == sum(row["tokens"] ** 2 for row in placed)


def test_the_division_along_a_stage_is_that_of_its_steps(demo: Path, figures: Figures, monkeypatch) -> None:
    for bins in (80, 3, 1):  # more stretches than steps, fewer, one
        monkeypatch.setattr("mixc.report.figures.CURRICULUM_BINS", bins)
        for number, stage in enumerate(read_manifest(demo).stages):
            found = figures.division(number, stage.steps, sorted(stage.sources))
            placed = [row for row in rows(demo, "placements") if row["stage"] == number]
            assert [step for first, last in found.steps for step in range(first, last + 1)] == list(range(stage.steps))
            for (first, last), tokens in zip(found.steps, found.tokens, strict=True):
                expected = Counter[str]()
                for row in placed:
                    if first <= row["step"] <= last:
                        expected[row["source"]] += row["tokens"]
                assert dict(zip(found.sources, tokens, strict=True)) == {name: expected[name] for name in found.sources}


def test_every_drop_is_counted_and_the_examples_are_the_least(demo: Path, figures: Figures) -> None:
    dropped: dict[tuple[str, str], list[dict]] = {}
    for row in rows(demo, "drops"):
        dropped.setdefault((row["rule"], row["source"]), []).append(row)
    paths = {row["fragment"]: row["path"] for row in rows(demo, "fragments")}
    found = figures.drops()
    assert [(drop.rule, drop.source) for drop in found] == sorted(dropped)
    for drop in found:
        own = sorted(dropped[drop.rule, drop.source], key=lambda row: row["id"].hex)
        assert (drop.samples, drop.tokens) == (len(own), sum(row["tokens"] for row in own))
        assert [(e.id, e.path, e.row, e.detail) for e in drop.examples] == [
            (row["id"].hex, paths[row["fragment"]], row["row"], row["detail"]) for row in own[:3]
        ]


def test_the_gallery_shows_samples_of_every_source_of_every_stage(demo: Path, figures: Figures, page: Path) -> None:
    text = page.read_text()
    for number, stage in enumerate(read_manifest(demo).stages):
        placed = [r for r in rows(demo, "placements") if r["stage"] == number and r["piece"] == 0 and r["epoch"] == 0]
        found = figures.some(number)
        assert sorted(found) == sorted(stage.sources)
        for source, places in found.items():
            least = sorted((row["id"].hex, row["pack"], row["place"]) for row in placed if row["source"] == source)[:2]
            assert places == [(pack, place) for _, pack, place in least]
            assert all(id[:12] in text for id, _, _ in least)
    assert text.count("data:image/jpeg;base64,") > 10 and "<mark>" in text


def test_the_gallery_tells_turns_apart_with_images_in_their_places() -> None:
    image = Markup("<img>")
    system = "<|im_start|>system\nbe good<|im_end|>"
    assert turns(
        [
            Said(f"{system}<|im_start|>user\nsee <img>", False),
            image,
            Said("</img>\nwhy?<|im_end|><|im_start|>assistant\n", False),
            Said("so<|im_end|>", True),
            Said("<|im_start|>user\nand?<|im_end|><|im_start|>assistant\n", False),
            Said("<img> is a tag<|im_end|>", True),
        ]
    ) == [
        Turn("user", [Said("see ", False), image, Said("why?", False)]),
        Turn("assistant", [Said("so", True)]),
        Turn("user", [Said("and?", False)]),
        Turn("assistant", [Said("<img> is a tag", True)]),
    ]
    long = [Said("a", True), Said("b" * 1000, True), Said("never", True)]
    assert turns(long) == [Turn("", [Said("a", True), Said("b" * (LONGEST - 1) + "…", True)])]
    assert turns([Said("<|endoftext|>", True)]) == []


def test_signals_are_spread_as_the_sources_have_them(make_mixc, tmp_path: Path, monkeypatch) -> None:
    scores = [0.0, 0.1, 0.2, 0.5, 0.5, 0.9, 1.0]
    (tmp_path / "data.jsonl").write_text(
        "".join(json.dumps({"text": f"text number {n}", "score": score}) + "\n" for n, score in enumerate(scores))
    )
    (tmp_path / "spec.yaml").write_text(
        "mixture: m\nseed: 1\nmodel: sail-vl-tiny\n"
        "sources: {one: {path: data.jsonl, kind: text, where: score >= 0.5}}\n"
        "stages: [{name: s, budget: 2 epochs, mix: [one], sequence_length: 64, train: {lr: {language: 1e-3}, batch: 1}}]\n"
    )
    mixc = make_mixc()
    mixc("compile", tmp_path / "spec.yaml", "-o", tmp_path / "build")
    monkeypatch.setenv("MIXC_CACHE", str(mixc.cache))
    [spread], unknown = spreads(tmp_path / "build")
    assert (spread.source, spread.signal, spread.low, spread.high, unknown) == ("one", "score", 0.0, 1.0, "")
    used, dropped = (dict.fromkeys(range(BINS), 0) for _ in range(2))
    for score in scores:
        side = used if score >= 0.5 else dropped
        side[min(int(score * BINS), BINS - 1)] += 2 if score >= 0.5 else 1
    assert (spread.used, spread.dropped) == (list(used.values()), list(dropped.values()))
    monkeypatch.setenv("MIXC_CACHE", str(tmp_path / "empty"))
    assert spreads(tmp_path / "build")[0] == [] and "objects of one" in spreads(tmp_path / "build")[1]


def test_without_its_tokenizer_a_report_has_no_gallery_and_says_so(make_mixc, demo: Path, tmp_path: Path) -> None:
    import shutil

    build = shutil.copytree(demo, tmp_path / "build")
    lock = msgspec.json.decode((build / "mixture.lock").read_bytes())
    lock["spec"]["tokenizer"] = "gone/tokenizer.json"
    (build / "mixture.lock").write_bytes(msgspec.json.encode(lock))
    mixc = make_mixc()
    shutil.rmtree(mixc.cache / "tokenizers")
    mixc("report", build)
    assert "They cannot be shown: " in (tmp_path / "build.html").read_text()


def test_the_cost_is_the_trainers_count(make_mixc, demo: Path, page: Path, tmp_path: Path) -> None:
    """Of each step the trainer writes its FLOPs; their sum over a stage is what the report says before it runs."""
    from runtime.flops import Work, step_flops
    from runtime.model.zoo import ARCHITECTURES

    text = page.read_text()
    for number, stage in enumerate(read_manifest(demo).stages):
        pairs = sum(row["tokens"] ** 2 for row in rows(demo, "placements") if row["stage"] == number)
        work = Work(tokens=stage.tokens, tiles=stage.tiles, targets=stage.supervised_tokens, pairs=pairs)
        total = step_flops(ARCHITECTURES["sail-vl-tiny"], stage.train.lr, work).total
        assert f">{total / 1e9:.3g} G<" in text
    other = tmp_path / "other.html"
    make_mixc()("report", demo, "-o", other, "--model", "sail-vl2-8b", "--gpu", "a100", "--mfu", "0.5")
    assert "For sail-vl2-8b on A100, 312 TFLOP/s in bf16, of which 50%" in re.sub(r"\s+", " ", other.read_text())


def test_hours_are_flops_over_what_a_device_makes_of_them() -> None:
    flops = Flops(vision=1, projector=2, language=3, head=4)
    cost = Forecast(model="m", device="d", peak=1e15, mfu=0.4, stages=[flops])
    assert flops.total == 10
    assert cost.hours(int(3600 * 4e14)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "nothing"),
        (0.0003, "under a second"),
        (1, "1 s"),
        (59, "59 s"),
        (90, "1.5 min"),
        (7199, "120 min"),
        (7200, "2 hours"),
        (3.6e6, "1,000 hours"),
    ],
)
def test_a_time_is_told_in_a_unit_that_fits_it(seconds: float, said: str) -> None:
    assert time_of(seconds / 3600) == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "sail-vl2-2c"), "did you mean sail-vl2-2b"),
        (("--gpu", "H1000"), "known are A100"),
        (("--mfu", "40"), "--mfu is a share"),
    ],
)
def test_a_forecast_that_cannot_be_made_says_why(make_mixc, demo: Path, tmp_path: Path, arguments, said: str) -> None:
    done = make_mixc()("report", demo, "-o", tmp_path / "page.html", *arguments, check=2)
    assert said in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_page_says_what_the_plan_says(demo: Path, page: Path) -> None:
    text = page.read_text()
    assert root(demo) in text
    manifest = read_manifest(demo)
    for stage in manifest.stages:
        assert f"<td>{stage.name}</td>" in text and f'<td class="n">{stage.tokens:,}</td>' in text
    for name in ("photographs", "dedup_exact", "budget"):
        assert name in text
    assert not any(loads in text for loads in ("<script", "http", "@import", "url("))
    assert set(re.findall(r'src="(.{5})', text)) == {"data:"}


def test_the_words_of_the_page_are_explained_where_they_stand(page: Path) -> None:
    text = page.read_text()
    for word in ("wished", "met", "eligible", "supervised", "tiles", "packs"):
        assert f'<abbr title="{WORDS[word]}">{word}</abbr>' in text
    assert "<mark>Marked</mark> is what is supervised" in text
    assert not re.search(r"&lt;/?img&gt;", text)


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        (3, 0, "Nothing: every row is a sample, and every sample is used."),
        (3, 5, "Every sample is used; 5 rows are rejected: they cannot become a sample."),
    ],
)
def test_what_was_left_out_is_one_statement_with_its_rows_by_name(
    make_mixc, tmp_path: Path, good: int, bad: int, said: str
) -> None:
    rows = [json.dumps({"text": f"text number {n}"}) for n in range(good)] + ["{"] * bad
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    (tmp_path / "spec.yaml").write_text(
        "mixture: m\nseed: 1\nmodel: sail-vl-tiny\nmax_reject_rate: 0.9\n"
        "sources: {one: {path: data.jsonl, kind: text}}\n"
        "stages: [{name: s, budget: 1 epoch, mix: [one], sequence_length: 64, train: {lr: {language: 1e-3}, batch: 1}}]\n"
    )
    mixc = make_mixc()
    mixc("compile", tmp_path / "spec.yaml", "-o", tmp_path / "build")
    mixc("report", tmp_path / "build")
    text = re.sub(r"\s+", " ", unescape((tmp_path / "build.html").read_text()))
    assert f"<p>{said}</p>" in text
    assert text.count("data.jsonl line") == min(bad, 3)
    assert ("<code>data.jsonl line 4</code>: not JSON: Expecting property name" in text) == bool(bad)
    assert ("and 2 more" in text) == bool(bad)


def test_hostile_names_stay_text(make_mixc, tmp_path: Path) -> None:
    hostile = "<script>alert(1)<|script>\"'&{{ 7*7 }}"
    (tmp_path / "data").mkdir()
    (tmp_path / f"data/{hostile}.jsonl").write_text(
        "".join(
            msgspec.json.encode({"text": f"{word} of some length", "word": word}).decode() + "\n" for word in "abcdefgh"
        )
    )
    spec = {
        "mixture": "hostile",
        "seed": 1,
        "model": "sail-vl-tiny",
        "sources": {"prose": {"path": "data/*.jsonl", "kind": "text", "where": "word <> '<b>&amp;' and word > 'b'"}},
        "stages": [
            {
                "name": "one",
                "budget": "1 epoch",
                "mix": {"prose": {"weight": 1, "where": "tokens > 1 or word = '</td><script>'"}},
                "sequence_length": 64,
                "train": {"lr": {"language": 1e-3}, "batch": 1},
            }
        ],
    }
    (tmp_path / "spec.yaml").write_bytes(msgspec.json.encode(spec))
    mixc = make_mixc()
    mixc("compile", tmp_path / "spec.yaml", "-o", tmp_path / "build")
    mixc("report", tmp_path / "build")
    text = (tmp_path / "build.html").read_text()
    assert "<script" not in text and "<b>" not in text
    assert hostile in unescape(text) and "'<b>&amp;' and" in unescape(text)


@needs_chromium
def test_the_page_reads_well_in_a_browser(page: Path) -> None:
    check_page(page)


@needs_chromium
def test_numbers_behind_a_plot_open_by_keyboard(page: Path) -> None:
    with opened(page) as tab:
        summary = tab.locator("summary").first
        summary.focus()
        tab.keyboard.press("Enter")
        assert tab.locator("details[open] table").first.is_visible()
