"""Signals of whole sources: computed once, alike however files are cut, and kept when a run is killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace as with_fields

from mixc.errors import BuildError, MixcError, SpecError
from mixc.signals import step
from mixc.signals.names import SIGNALS
from mixc.signals.run import pinned_signals, signals_to_pin

from .conftest import TEXTS, Corpus, folders, names_of

REPO = Path(__file__).resolve().parents[2]
ALL: dict[str, Any] = {
    "signals": list(SIGNALS),
    "dedup": {"minhash": {"permutations": 16}, "image": {}},
    "decontaminate": {"against": "bench.jsonl", "ngram": 5, "phash": 2},
}


@pytest.fixture
def full(corpus: Corpus) -> Corpus:
    questions = [
        {"q": "seven eight nine ten one two three four five"},
        {"q": "never asked of anybody in this place at all"},
    ]
    (corpus.folder / "bench.jsonl").write_text("\n".join(map(json.dumps, questions)))
    return corpus


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the source files that are read for signals, one a reading."""
    seen: list[str] = []
    read = step.read

    def counted(fragment: Any, source: Any) -> Any:
        seen.append(Path(fragment.path).name)
        return read(fragment, source)

    monkeypatch.setattr(step, "read", counted)
    return seen


def test_types_rows_and_values(full: Corpus) -> None:
    refs, paths = full.compute(full.spec(**ALL))
    assert names_of(paths) == {*SIGNALS, "minhash", "phash", "contaminated"}
    types = {"int64": pa.int64(), "double": pa.float64(), "string": pa.string()}
    for ref in refs:
        own = {name: pq.read_table(path) for name, path in paths[ref.info.digest].items()}
        for name, about in SIGNALS.items():
            assert own[name].schema.field("value").type == types[about.type], name
        assert own["minhash"].schema.field("value").type == pa.binary(64)
        assert own["phash"].schema.field("value").type == pa.list_(pa.uint64())
        images = 1 if ref.fragment.source == "chat" else 0
        assert {len(value) for value in own["phash"]["value"].to_pylist()} == {images}
        assert (own["sharpness"]["value"].null_count == 0) == bool(images)
        if images:  # cut.png is a reject: the values are those of the samples that are left, in their order
            assert own["min_side"]["value"].to_pylist() == [48, 48, 48, 40]
            assert own["aspect"]["value"].to_pylist() == [64 / 48, 72 / 48, 80 / 48, 1.0]
            assert own["flatness"]["value"].to_pylist()[3] == 1.0
            assert own["words"]["value"].to_pylist() == [6] * 4  # of the two answers
    repeated = {v for (name, _), own in full.values(full.spec(**ALL)).items() for v in own if name == "contaminated"}
    assert repeated == {None, "bench.jsonl 0"}


def test_nothing_is_computed_twice(full: Corpus, reads: list[str]) -> None:
    some = full.spec(signals=["words", "aspect"])
    full.compute(some)
    assert sorted(reads) == ["chat-0.json", "text-0.jsonl", "text-1.jsonl"]
    before = folders(full.cache)
    reads.clear()
    full.compute(some)
    assert reads == [] and folders(full.cache) == before
    full.compute(full.spec(signals=["words", "aspect", "min_side"]))
    assert reads == []  # facts are enough
    full.compute(full.spec(signals=["words", "repetition", "language"]))
    assert sorted(reads) == ["chat-0.json", "text-0.jsonl", "text-1.jsonl"]  # once for both
    assert before.items() <= folders(full.cache).items()
    assert len(folders(full.cache)) == 2 * 3 * 5


def test_another_benchmark_computes_contamination_alone(full: Corpus) -> None:
    full.compute(full.spec(**ALL))
    before = set(folders(full.cache))
    with (full.folder / "bench.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"q": "a further question that has enough words to count here"}))
    full.compute(full.spec(**ALL))
    new = {
        json.loads(data)["signal"]
        for name, data in folders(full.cache).items()
        if name not in before and name.endswith("json")
    }
    assert new == {"contaminated"}


def test_the_lock_pins_versions_and_the_benchmark(full: Corpus) -> None:
    own = {"name": "mine", "function": "pinning:fn", "version": "7"}
    (full.folder / "pinning.py").write_text("def fn(batch):\n    return batch.rows\n")
    spec = full.spec(**{**ALL, "signals": ["words", "language", own]})
    _, paths = full.compute(spec)
    pinned = pinned_signals(paths)
    assert sorted(pinned) == ["contaminated", "language", "mine", "minhash", "phash", "words"]
    assert signals_to_pin(spec, full.folder) == pinned  # known before anything is computed
    assert pinned["mine"] == "7" and "pycld2" in pinned["language"]
    with (full.folder / "bench.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"q": "a further question that has enough words to count here"}))
    _, paths = full.compute(spec)
    now = pinned_signals(paths)
    assert {name for name in now if now[name] != pinned[name]} == {"contaminated"}


def test_a_damaged_file_is_computed_again(full: Corpus) -> None:
    spec = full.spec(signals=["words"])
    _, paths = full.compute(spec)
    before = folders(full.cache)
    path = next(iter(paths.values()))["words"]
    path.write_bytes(path.read_bytes()[:-1])
    full.compute(spec)
    assert folders(full.cache) == before


def test_any_number_of_workers_writes_the_same_bytes(full: Corpus) -> None:
    told: list[tuple[int, int]] = []
    full.compute(full.spec(**ALL), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    one = folders(full.cache)
    shutil.rmtree(full.cache)
    full.compute(full.spec(**ALL), workers=2)
    assert folders(full.cache) == one


@pytest.mark.parametrize("seed", range(3))
def test_files_rows_and_batches_do_not_matter(full: Corpus, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = full.values(full.spec(**ALL))
    dice = random.Random(seed)
    monkeypatch.setattr("mixc.signals.batch.BATCH_SAMPLES", dice.choice([1, 2, 3]))
    for path in full.folder.glob("text-*.jsonl"):
        path.unlink()
    rows = [json.dumps({"text": text, "score": i}) for i, text in enumerate(TEXTS)]
    dice.shuffle(rows)
    cut = dice.randrange(1, len(rows))
    (full.folder / "text-z.jsonl").write_text("\n".join(rows[:cut]))
    (full.folder / "text-a.jsonl").write_text("\n".join(rows[cut:]))
    chats = json.loads((full.folder / "chat-0.json").read_text())
    dice.shuffle(chats)
    (full.folder / "chat-0.json").unlink()
    (full.folder / "chat-other.json").write_text(json.dumps(chats))
    assert replace(full, cache=full.cache.with_name("other")).values(full.spec(**ALL)) == expected


def test_a_killed_run_leaves_what_it_finished(full: Corpus) -> None:
    """The user's function kills its process at the second file; the run after it computes only the rest."""
    (full.folder / "deadly.py").write_text(
        "import os, pathlib, signal\n"
        "def fn(batch):\n"
        "    lived = pathlib.Path(__file__).with_name('lived')\n"
        "    if lived.exists() and not lived.with_name('safe').exists():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    with lived.open('a') as file: file.write('x')\n"
        "    return [len(text) for text in batch.texts]\n"
    )
    spec = full.spec(signals=[{"name": "mine", "function": "deadly:fn"}, "words"])
    full.objects(spec)
    code = (
        "import sys; from pathlib import Path\n"
        "from mixc.measure.tokenizer import load_tokenizer\n"
        "from tests.signals.conftest import Corpus\n"
        f"cache = Path({str(full.cache)!r})\n"
        f"corpus = Corpus(Path({str(full.folder)!r}), cache, load_tokenizer('qwen2.5', base=Path(), cache=cache))\n"
        "corpus.compute(corpus.spec(signals=[{'name': 'mine', 'function': 'deadly:fn'}, 'words']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)})
    assert done.returncode == -9
    assert len(folders(full.cache)) == 4  # one object: two signals of two files each
    assert list((full.cache / "partial").iterdir())
    (full.folder / "safe").touch()
    refs, paths = full.compute(spec)
    assert (full.folder / "lived").read_text() == "xxx"
    assert not list((full.cache / "partial").iterdir())
    assert all(path.exists() for own in paths.values() for path in own.values()) and len(refs) == 3


def test_a_worker_that_dies_is_told(full: Corpus) -> None:
    (full.folder / "dying.py").write_text("import os\ndef fn(batch):\n    os._exit(1)\n")
    with pytest.raises(MixcError, match="worker process was killed"):
        full.compute(full.spec(signals=[{"name": "mine", "function": "dying:fn"}]), workers=2)


def test_a_cache_that_is_emptied_meanwhile_is_said(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="a signal is gone"):
        pinned_signals({"object": {"words": tmp_path / "gone" / "values.parquet"}})


def test_signals_of_pixels_ask_for_images_that_decode(full: Corpus) -> None:
    spec = full.spec(signals=["sharpness"])
    undecoded = {name: with_fields(source, decode_images=False) for name, source in spec.sources.items()}
    with pytest.raises(SpecError, match=r"decode_images: false.*sharpness"):
        full.compute(with_fields(spec, sources=undecoded))
