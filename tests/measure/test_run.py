"""Whole fragments from real files: reuse, any number of workers, failures by name, and processes that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace as with_fields

from mixc.errors import BuildError, SourceError, SpecError
from mixc.measure import step
from mixc.measure.family import geometry
from mixc.measure.run import ObjectRef, measure
from mixc.measure.template import TEMPLATES
from mixc.measure.tokenizer import Tokenizer
from mixc.sources.fragment import Fragment
from mixc.sources.scan import scan
from mixc.spec.schema import Spec

Picture = Callable[..., bytes]


@dataclass(frozen=True)
class Corpus:
    """Two sources of a few files in `folder`, and how to measure them."""

    folder: Path
    spec: Spec
    tokenizer: Tokenizer

    def fragments(self, cache: Path) -> list[Fragment]:
        return [
            fragment
            for name, source in self.spec.sources.items()
            for fragment in scan(name, source, self.folder, cache)
        ]

    def measure(self, cache: Path, **options: object) -> list[ObjectRef]:
        return measure(
            self.fragments(cache),
            self.spec,
            geometry=geometry(self.spec, self.tokenizer),
            tokenizer=self.tokenizer,
            template=TEMPLATES["univl-chat"],
            cache=cache,
            **options,
        )


@pytest.fixture
def corpus(tmp_path: Path, picture: Picture, tokenizer: Tokenizer) -> Corpus:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for i in range(4):
        (folder / "images" / f"{i}.png").write_bytes(picture(100 + i, 80, seed=i))
    (folder / "images" / "cut.jpg").write_bytes(picture(200, 200, "JPEG")[:-700])
    (folder / "images" / "empty.png").write_bytes(b"")
    for part in range(4):
        rows = [json.dumps({"text": f"Document {part}-{i}, é. " * (i + 1), "score": i}) for i in range(8 + part)]
        (folder / f"text-{part}.jsonl").write_text("\n".join(rows) + "\n{broken\n")
    for part in range(2):
        images = [f"{part}.png", f"{part + 2}.png", "cut.jpg", "empty.png", "../data/images/0.png", "0.png"]
        chats = [
            {
                "image": image,
                "conversations": [
                    {"from": "human", "value": f"<image>\nWhat is {i}? <|im_end|>"},
                    {"from": "gpt", "value": f"It is {part}."},
                ],
            }
            for i, image in enumerate(images)
        ]
        (folder / f"chat-{part}.json").write_text(json.dumps(chats))
    spec = {
        "mixture": "m",
        "seed": 1,
        "model": "sail-vl-2b",
        "sources": {
            "text": {"path": "text-*.jsonl", "kind": "text"},
            "chat": {"path": "chat-*.json", "kind": "chat", "image_root": "images"},
        },
        "stages": [],
    }
    return Corpus(folder, msgspec.convert(spec, Spec), tokenizer)


def objects(cache: Path) -> dict[str, bytes]:
    """Every byte of every object, and nothing half-written."""
    assert not list((cache / "partial").iterdir())
    root = cache / "objects"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_counts_rejects_and_reuse(corpus: Corpus, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    refs = corpus.measure(tmp_path / "cache", progress=lambda done, total: told.append((done, total)))
    assert told == [(i, 6) for i in range(1, 7)]
    assert [ref.fragment.source for ref in refs] == ["chat"] * 2 + ["text"] * 4
    assert refs == sorted(refs, key=lambda r: (r.fragment.source, r.fragment.digest, r.fragment.path))
    assert not any(ref.reused for ref in refs)
    assert [ref.reject_counts for ref in refs[:2]] == [{"image_empty": 1, "image_undecodable": 1, "path_escape": 1}] * 2
    assert [ref.reject_counts for ref in refs[2:]] == [{"broken_row": 1}] * 4
    assert sum(ref.info.samples for ref in refs) == 8 + 9 + 10 + 11 + 2 * 3
    again = corpus.measure(tmp_path / "cache", progress=lambda done, total: told.append((done, total)))
    assert len(told) == 6
    assert again == [replace(ref, reused=True) for ref in refs]


def test_without_decoding_only_headers_are_read(corpus: Corpus, tmp_path: Path) -> None:
    counts = {}
    for decode in (True, False):
        chat = with_fields(corpus.spec.sources["chat"], decode_images=decode)
        own = replace(corpus, spec=with_fields(corpus.spec, sources={**corpus.spec.sources, "chat": chat}))
        found = own.measure(tmp_path / "cache")  # the same cache: an object of the one is none of the other
        counts[decode] = [ref.reject_counts for ref in found if ref.fragment.source == "chat"]
    for decoded, not_decoded in zip(counts[True], counts[False], strict=True):
        assert decoded["image_undecodable"] == 1
        assert not_decoded == {reason: n for reason, n in decoded.items() if reason != "image_undecodable"}
        assert "image_empty" in not_decoded


def test_only_what_changed_is_measured_again(corpus: Corpus, tmp_path: Path) -> None:
    corpus.measure(tmp_path / "cache")
    with (corpus.folder / "text-2.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    refs = corpus.measure(tmp_path / "cache")
    assert [Path(ref.fragment.path).name for ref in refs if not ref.reused] == ["text-2.jsonl"]


def test_two_files_of_equal_content_share_an_object(corpus: Corpus, tmp_path: Path) -> None:
    (corpus.folder / "text-9.jsonl").write_bytes((corpus.folder / "text-0.jsonl").read_bytes())
    refs = [ref for ref in corpus.measure(tmp_path / "cache") if ref.fragment.source == "text"]
    assert len(refs) == 5
    assert len({ref.path for ref in refs}) == 4


def test_a_damaged_object_is_measured_again(corpus: Corpus, tmp_path: Path) -> None:
    refs = corpus.measure(tmp_path / "cache")
    before = objects(tmp_path / "cache")
    (refs[0].path / "object.json").unlink()
    (refs[3].path / "samples.bin").write_bytes(b"")
    again = corpus.measure(tmp_path / "cache")
    assert [ref.reused for ref in again] == [False, True, True, False, True, True]
    assert objects(tmp_path / "cache") == before


SCRIPT = """
import sys
from pathlib import Path
import msgspec
from mixc.measure.family import geometry
from mixc.measure.run import measure
from mixc.measure.template import TEMPLATES
from mixc.measure.tokenizer import Tokenizer
from mixc.sources.scan import scan
from mixc.spec.schema import Spec

def main(folder, cache, spec, tokenizer, digest, fast, workers):
    spec = msgspec.json.decode(spec, type=Spec)
    tokenizer = Tokenizer(Path(tokenizer), digest, fast=fast == "True")
    fragments = [f for n, s in spec.sources.items() for f in scan(n, s, Path(folder), Path(cache))]
    measure(fragments, spec, geometry=geometry(spec, tokenizer), tokenizer=tokenizer,
            template=TEMPLATES["univl-chat"], cache=Path(cache), workers=int(workers))

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@dataclass(frozen=True)
class Program:
    """`measure` in a process of its own."""

    script: Path
    corpus: Corpus

    def start(self, cache: Path, workers: int, **environment: str) -> subprocess.Popen[bytes]:
        tokenizer = self.corpus.tokenizer
        arguments = [
            self.corpus.folder,
            cache,
            msgspec.json.encode(self.corpus.spec).decode(),
            tokenizer.path,
            tokenizer.digest,
            tokenizer.fast,
            workers,
        ]
        root = str(Path(__file__).parents[2])
        return subprocess.Popen(
            [sys.executable, str(self.script), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": root, **environment},
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, cache: Path, workers: int, **environment: str) -> None:
        with self.start(cache, workers, **environment) as process:
            _, said = process.communicate()
        assert (process.returncode, said) == (0, b"")  # and not a word of Datatrove's


@pytest.fixture
def program(tmp_path: Path, corpus: Corpus) -> Program:
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)
    return Program(script, corpus)


@pytest.mark.slow
def test_workers_hash_seed_and_file_names_show_in_no_byte(program: Program, corpus: Corpus, tmp_path: Path) -> None:
    corpus.measure(tmp_path / "here")
    expected = objects(tmp_path / "here")
    for workers, seed in [(1, "1"), (3, "77")]:
        cache = tmp_path / f"cache-{workers}"
        program.run(cache, workers, PYTHONHASHSEED=seed)
        assert objects(cache) == expected
        (corpus.folder / f"text-{workers}.jsonl").rename(corpus.folder / f"text-renamed-{workers}.jsonl")


@pytest.mark.slow
def test_killed_while_measuring_it_ends_with_the_same_objects(
    program: Program, corpus: Corpus, picture: Picture, tmp_path: Path
) -> None:
    for i in range(4):  # large enough to be killed half-way
        (corpus.folder / "images" / f"{i}.png").write_bytes(picture(2500 + i, 2000, seed=i))
    program.run(tmp_path / "whole", 2)
    expected = objects(tmp_path / "whole")
    moments = random.Random(7)
    halfway = 0
    for attempt in range(4):
        cache = tmp_path / f"cache-{attempt}"
        process = program.start(cache, 1 + attempt % 2)
        deadline = time.monotonic() + 60
        while not _writing(cache) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3))
        # one in two: only the main process, whose worker must then leave by itself
        (os.killpg if attempt % 2 == 0 else os.kill)(process.pid, signal.SIGKILL)
        process.communicate()
        found = {p for p in (cache / "objects").glob("*/*") if p.is_dir()} if (cache / "objects").exists() else set()
        assert all((path / "object.json").is_file() for path in found)
        halfway += len(found) < len({Path(name).parent for name in expected})
        program.run(cache, 2)
        assert objects(cache) == expected
    assert halfway >= 2


def _writing(cache: Path) -> bool:
    return any(cache.glob("partial/*/samples.bin"))


@pytest.mark.slow
def test_two_compiles_at_once_agree(program: Program, corpus: Corpus, tmp_path: Path) -> None:
    corpus.measure(tmp_path / "alone")
    processes = [program.start(tmp_path / "shared", 1) for _ in range(2)]
    for process in processes:
        assert process.communicate() == (None, b"")
        assert process.returncode == 0
    assert objects(tmp_path / "shared") == objects(tmp_path / "alone")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (KeyError("x"), "could not be measured"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (SourceError("as it is"), "as it is"),
    ],
)
def test_a_fault_names_the_fragment_and_keeps_nothing(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, message: str
) -> None:
    def read(fragment: Fragment, source: object) -> object:
        yield from ()
        raise fault

    monkeypatch.setattr(step, "read", read)
    with pytest.raises((BuildError, SourceError)) as caught:
        corpus.measure(tmp_path / "cache")
    assert message in str(caught.value)
    if not isinstance(fault, SourceError):
        assert str(corpus.folder) in caught.value.where
    assert objects(tmp_path / "cache") == {}


@pytest.mark.slow
def test_a_fault_in_a_worker_process_arrives_as_the_same_error(corpus: Corpus, tmp_path: Path) -> None:
    (corpus.folder / "text-0.jsonl").write_text('{"wrong": "no column is called text"}\n')
    with pytest.raises(SourceError) as one:
        corpus.measure(tmp_path / "one")
    with pytest.raises(SourceError) as two:
        corpus.measure(tmp_path / "two", workers=2)
    assert str(one.value) == str(two.value)
    assert "text-0.jsonl" in one.value.where


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = step.read

    def read(fragment: Fragment, source: object) -> object:
        yield from real(fragment, source)
        with Path(fragment.path).open("a") as file:
            file.write(" \n")

    monkeypatch.setattr(step, "read", read)
    with pytest.raises(SourceError, match="changed while it was read"):
        corpus.measure(tmp_path / "cache")
    assert objects(tmp_path / "cache") == {}


def test_a_cache_that_cannot_be_written(corpus: Corpus, tmp_path: Path) -> None:
    fragments = corpus.fragments(tmp_path / "scan")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BuildError, match="MIXC_CACHE"):
        measure(
            fragments,
            corpus.spec,
            geometry=geometry(corpus.spec, corpus.tokenizer),
            tokenizer=corpus.tokenizer,
            template=TEMPLATES["univl-chat"],
            cache=tmp_path / "file" / "cache",
        )


def test_a_tokenizer_without_the_templates_tokens_is_refused_before_work_starts(corpus: Corpus, tmp_path: Path) -> None:
    class Lacks(Tokenizer):
        def special(self, name: str) -> int:
            if name == "<|im_end|>":
                raise SpecError(f"the tokenizer has no token {name}")
            return super().special(name)

    tokenizer = Lacks(corpus.tokenizer.path, corpus.tokenizer.digest, fast=True)
    with pytest.raises(SpecError, match="has no token"):
        replace(corpus, tokenizer=tokenizer).measure(tmp_path / "cache")
    assert not (tmp_path / "cache" / "objects").exists()


def test_rejects_say_where_and_why(corpus: Corpus, tmp_path: Path) -> None:
    refs = corpus.measure(tmp_path / "cache")
    rows = pq.read_table(refs[0].path / "rejects.parquet").to_pylist()
    assert [(row["row"], row["reason"]) for row in rows] == [
        (2, "image_undecodable"),
        (3, "image_empty"),
        (4, "path_escape"),
    ]
    assert str(corpus.folder) not in json.dumps(rows)
