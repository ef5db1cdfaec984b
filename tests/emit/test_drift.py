"""What moved since a lock, told file by file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mixc.emit.drift import drift, moved_files, without_places
from mixc.emit.lock import LOCK_FORMAT, Found, Inputs, Lock, LockedFragment


def at(path: str, digest: str, samples: int | None = 1) -> Found:
    return Found(digest=digest, path=path, samples=samples)


def told(locked: list[Found], now: list[Found]) -> list[str]:
    return [str(each).removeprefix("source s: ") for each in moved_files("s", locked, now)]


def test_gone_new_and_changed_files_are_told_with_their_samples() -> None:
    locked = [at("a.jsonl", "A", 10), at("b.jsonl", "B", 1200), at("c.jsonl", "C", 1)]
    now = [at("a.jsonl", "A", 10), at("b.jsonl", "X", 1201), at("d.jsonl", "D", None)]
    assert told(locked, now) == [
        "changed b.jsonl (1,200 samples -> 1,201)",
        "gone c.jsonl (1 sample)",
        "new d.jsonl (samples not counted yet)",
    ]


def test_a_file_that_moved_and_changed_is_one_change() -> None:
    assert told([at("old/a.jsonl", "A", 5)], [at("/new/a.jsonl", "X", None)]) == [
        "changed old/a.jsonl (now /new/a.jsonl) (5 samples -> not counted yet)"
    ]
    # two of one name: which became which, nobody knows
    assert told([at("x/a", "A"), at("y/a", "B")], [at("z/a", "C")]) == [
        "gone x/a (1 sample)",
        "gone y/a (1 sample)",
        "new z/a (1 sample)",
    ]


def test_a_copy_that_goes_is_told_by_its_own_path() -> None:
    assert told([at("a", "A", 3), at("b", "A", 3)], [at("a", "A", 3)]) == ["gone b (3 samples)"]
    assert told([at("a", "A", 3), at("b", "A", 3)], [at("b", "A", 3)]) == ["gone a (3 samples)"]


def test_files_that_swap_their_content_have_not_moved() -> None:
    assert told([at("a", "A"), at("b", "B")], [at("a", "B"), at("b", "A")]) == []


def test_of_a_file_in_parts_the_whole_file_is_told_once() -> None:
    locked = [at("big", "1", 100), at("big", "2", 100), at("big", "3", 50)]
    now = [at("big", "1", 100), at("big", "X", 100), at("big", "Y", 70)]
    assert told(locked, now) == ["changed big (250 samples -> 270)"]


NAMES = st.sampled_from(["a", "b", "c", "d", "x/a", "x/b"])
FILES = st.dictionaries(NAMES, st.sampled_from("ABCD"), max_size=6)


@given(FILES, st.randoms())
def test_renamed_and_reordered_files_say_nothing(files: dict[str, str], random) -> None:
    locked = [at(path, digest) for path, digest in files.items()]
    paths = list(files)
    random.shuffle(paths)
    now = [at(f"moved/{path}", digest) for path, digest in zip(paths, files.values(), strict=True)]
    assert told(locked, now) == []


@given(FILES, FILES)
def test_something_is_told_exactly_where_the_contents_differ(before: dict[str, str], after: dict[str, str]) -> None:
    locked, now = ([at(path, digest) for path, digest in side.items()] for side in (before, after))
    found = moved_files("s", locked, now)
    assert bool(found) == (sorted(before.values()) != sorted(after.values()))
    for each in found:
        path, _, elsewhere = each.path.removesuffix(")").partition(" (now ")
        if each.change == "gone":
            assert path in before
        elif each.change == "new":
            assert path in after
        else:
            assert before[path] != after[elsewhere or path]
    balance = sum({"gone": -1, "new": 1, "changed": 0}[each.change] for each in found)
    assert balance == len(after) - len(before)


SPEC = {
    "tokenizer": "qwen2.5",
    "seed": 1,
    "sources": {"s": {"path": ["s.jsonl"], "image_root": None, "where": None}},
    "stages": [{"name": "a", "budget": "1 epochs"}, {"name": "b", "budget": "2 epochs"}],
}


def lock(**changed) -> Lock:
    fields = {
        "format": LOCK_FORMAT,
        "mixture": "m",
        "root": None,
        "spec": SPEC,
        "tokenizer": "1" * 64,
        "template": "2" * 64,
        "fast_tokenizer": True,
        "sources": {"s": [LockedFragment(digest="A", path="s.jsonl", samples=1, rejects=0)]},
        "stages": {},
        "media": [],
        "versions": {},
    }
    return Lock(**{**fields, **changed})


def now(**changed) -> Inputs:
    fields = {
        "spec": SPEC,
        "tokenizer": "1" * 64,
        "template": "2" * 64,
        "sources": {"s": [at("s.jsonl", "A")]},
        "continues": None,
        "signals": {},
    }
    return Inputs(**{**fields, **changed})


def test_the_same_inputs_at_other_places_are_no_drift() -> None:
    moved = {
        **SPEC,
        "tokenizer": "./tokenizer.json",
        "sources": {"s": {"path": ["/data/*.jsonl", "x"], "image_root": "/images", "where": None}},
    }
    assert not drift(lock(), now(spec=moved, sources={"s": [at("/data/other.jsonl", "A")]}))
    benchmark = {**SPEC, "decontaminate": {"against": ["a"], "ngram": 13}, "continue_from": {"build": "b", "step": 3}}
    elsewhere = {**SPEC, "decontaminate": {"against": ["z"], "ngram": 13}, "continue_from": {"build": "y", "step": 3}}
    assert without_places(benchmark) == without_places(elsewhere)
    assert drift(lock(spec=benchmark), now(spec={**benchmark, "continue_from": {"build": "b", "step": 4}})).words() == [
        "spec: continue_from.step: 3 -> 4"
    ]


def test_everything_that_is_pinned_is_told_in_words() -> None:
    spec = {
        **SPEC,
        "seed": 2,
        "sources": {"s": {**SPEC["sources"]["s"], "where": "n > 1"}},
        "stages": [SPEC["stages"][1], {"name": "a", "budget": "3 epochs"}],
    }
    moved = drift(
        lock(signals={"language": "cld2 1"}),
        now(spec=spec, tokenizer="3" * 64, template="4" * 64, continues="5" * 64, signals={"words": "1"}, sources={}),
    )
    assert moved.words() == [
        "spec: seed: 1 -> 2",
        'spec: sources.s.where: none -> "n > 1"',
        'spec: stages.a.budget: "1 epochs" -> "3 epochs"',
        'spec: stages (order): ["a","b"] -> ["b","a"]',
        f"tokenizer: {'1' * 16} -> {'3' * 16}",
        f"chat template: {'2' * 16} -> {'4' * 16}",
        f"what the continued run used: none -> {'5' * 16}",
        "signal language: cld2 1 -> none",
        "signal words: none -> 1",
        "source s: gone s.jsonl (1 sample)",
    ]


def test_what_is_a_sources_own_can_be_set_apart() -> None:
    sources = {"s": {**SPEC["sources"]["s"], "where": "n > 1"}, "s2": {"path": ["x"], "where": None}}
    moved = drift(lock(), now(spec={**SPEC, "sources": sources}, sources={"s": [at("s.jsonl", "B")], "s2": []}))
    assert moved.outside("s").words() == ['spec: sources.s2: none -> {"where":null}']
    assert [each.source for each in moved.outside("s2").files] == ["s"]
