"""The built-in tokenizer against two independent ones, control tokens in text, and tokenizers of the user's."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.errors import MixcError, SpecError
from mixc.measure import parity, qwen
from mixc.measure.tokenizer import NAMES, Tokenizer, load_tokenizer


def each(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    ids, offsets = tokenizer.encode_plain(texts)
    assert (ids.dtype, offsets.dtype) == (np.uint32, np.uint64)
    return [ids[a:b].tolist() for a, b in pairwise(offsets)]


@pytest.fixture(scope="module")
def reference() -> tiktoken.Encoding:
    """Qwen's own ranks in tiktoken, which knows nothing of the merges that qwen.py recovers."""
    ranks = qwen.parse_ranks(qwen.ranks_file().read_bytes())
    return tiktoken.Encoding("qwen2.5", pat_str=qwen.PATTERN, mergeable_ranks=ranks, special_tokens={})


def test_the_definition_is_pinned(tokenizer: Tokenizer) -> None:
    assert tokenizer.digest == qwen.DIGEST == "c97bf92f422db452295c594ed80469baa5175df71aa36a03d4d6621a0241ab31"
    definition = json.loads(tokenizer.path.read_bytes())
    assert len(definition["model"]["vocab"]) == 151_643
    assert len(definition["model"]["merges"]) == 151_387
    assert tokenizer.size == 151_678


def test_known_ids(tokenizer: Tokenizer) -> None:
    assert each(tokenizer, ["Hello, world!"]) == [[9707, 11, 1879, 0]]
    names = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|image_pad|>",
        "<think>",
        "<img>",
        "<IMG_CONTEXT>",
        "</box>",
    ]
    ids = [151643, 151644, 151645, 151655, 151667, 151669, 151671, 151677]
    assert [tokenizer.special(name) for name in names] == ids


def test_what_was_decided_is_of_these_texts() -> None:
    assert blake3("\0".join(parity.fuzz_texts()).encode()).hexdigest() == parity.FUZZ_TEXTS


def test_ids_equal_tiktokens_on_the_fuzz_set(tokenizer: Tokenizer, reference: tiktoken.Encoding) -> None:
    texts = list(parity.fuzz_texts())
    assert tokenizer.fast
    assert each(tokenizer, texts) == [reference.encode_ordinary(unicodedata.normalize("NFC", t)) for t in texts]


awkward = st.lists(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(" \n\t\r\u00a0'sStT019-—。中é\u0301\u0323\u200d👩🏽\0"),
        st.sampled_from(["<|im_end|>", "<IMG_CONTEXT>", "<think>", "'ll", "\r\n", "    ", "word", "e\u0301"]),
    ),
    max_size=40,
).map("".join)


@settings(max_examples=200)
@given(st.lists(awkward, min_size=1, max_size=4))
def test_ids_equal_both_references_on_any_text(
    tokenizer: Tokenizer, reference: tiktoken.Encoding, texts: list[str]
) -> None:
    found = each(tokenizer, texts)
    ids, offsets = tokenizer.encode_reference(texts)
    assert found == [ids[a:b].tolist() for a, b in pairwise(offsets)]
    assert found == [reference.encode_ordinary(unicodedata.normalize("NFC", text)) for text in texts]


@settings(max_examples=100)
@given(awkward)
def test_decoding_gives_the_normalised_text_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(each(tokenizer, [text])[0]) == unicodedata.normalize("NFC", text)


def test_no_control_token_is_recognised_in_text(tokenizer: Tokenizer) -> None:
    for encode in (tokenizer.encode_fast, tokenizer.encode_reference):
        for name in qwen.ADDED_TOKENS.values():
            ids, _ = encode([name, f"a{name}b", f" {name} ", name * 3])
            assert ids.max() < 151_643
            assert tokenizer.decode(ids) == f"{name}a{name}b {name} {name * 3}"


def test_no_texts_and_empty_texts(tokenizer: Tokenizer) -> None:
    for encode in (tokenizer.encode_fast, tokenizer.encode_reference):
        ids, offsets = encode([])
        assert (len(ids), offsets.tolist()) == (0, [0])
        ids, offsets = encode(["", "a", ""])
        assert offsets.tolist() == [0, 0, 1, 1]


def test_qwen3_is_the_same_vocabulary(tokenizer: Tokenizer) -> None:
    assert load_tokenizer("qwen3", base=Path(), cache=tokenizer.path.parents[2]) == tokenizer


def test_a_damaged_cache_is_built_again(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qwen, "definition", tokenizer.path.read_bytes)
    folder = tmp_path / "tokenizers" / qwen.DIGEST
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_bytes(tokenizer.path.read_bytes()[:-100])
    assert load_tokenizer("qwen2.5", base=Path(), cache=tmp_path).special("<img>") == 151669
    assert (folder / "tokenizer.json").read_bytes() == tokenizer.path.read_bytes()
    assert not list((tmp_path / "partial").iterdir())


def test_other_ranks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qwen.tiktoken").write_bytes(b"IQ== 0\n")
    monkeypatch.setattr(qwen, "ranks_file", lambda: tmp_path / "qwen.tiktoken")
    with pytest.raises(MixcError, match="does not hold the Qwen"):
        load_tokenizer("qwen2.5", base=Path(), cache=tmp_path)


def tiny(**over: object) -> dict:
    """A byte-level BPE of 256 letters and two added tokens."""
    letters = qwen.byte_letters()
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    names = ["<|endoftext|>", "<|im_start|>"]
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 256 + i, "content": n, "special": True, **flags} for i, n in enumerate(names)],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {letter: byte for byte, letter in letters.items()}, "merges": []},
        **over,
    }


def test_a_users_file_or_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tokenizer.json").write_text(json.dumps(tiny(), indent=3))
    by_folder = load_tokenizer("mine", base=tmp_path, cache=tmp_path / "cache")
    by_file = load_tokenizer("mine/tokenizer.json", base=tmp_path, cache=tmp_path / "cache")
    assert by_folder == by_file
    assert by_folder.size == 258
    assert each(by_folder, ["hé<|im_start|>"])[0] == [*"hé<|im_start|>".encode()]
    (tmp_path / "compact.json").write_text(json.dumps(tiny()))  # the same definition, otherwise written
    assert load_tokenizer("compact.json", base=tmp_path, cache=tmp_path / "cache").digest == by_folder.digest
    with pytest.raises(SpecError, match="no token <img>"):
        by_folder.special("<img>")


def test_tokens_that_a_text_can_be_cut_at(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert tokenizer.has_verbatim(["<think>", "</think>"]) and not tokenizer.has_verbatim(["<think>", "<thought>"])

    def made(normalizer: object = None, **settings: bool) -> Tokenizer:
        definition = tiny(normalizer=normalizer)
        definition["added_tokens"][1] |= settings
        (tmp_path / "t.json").write_text(json.dumps(definition))
        return load_tokenizer("t.json", base=tmp_path, cache=tmp_path / "cache")

    names = ["<|endoftext|>", "<|im_start|>"]
    assert made().has_verbatim(names)
    assert made(normalized=True).has_verbatim(names)  # there is nothing that would normalise a text
    for found in [
        made(lstrip=True),
        made(rstrip=True),
        made(single_word=True),
        made(normalizer={"type": "NFC"}, normalized=True),
    ]:
        assert found.has_verbatim(names[:1])
        assert replace(found, known=None).loose == found.loose and list(found.loose) == names[1:]
        with pytest.raises(SpecError, match=r"every <\|im_start\|> in an answer") as error:
            found.has_verbatim(names)
        assert "tokenizer.json" in error.value.mend
        assert not found.has_verbatim([*names, "<think>"])  # which it lacks, so nothing is cut at


def test_a_users_truncation_is_not_a_training_setting(tmp_path: Path) -> None:
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "t.json").write_text(json.dumps(tiny(truncation=cut)))
    assert len(each(load_tokenizer("t.json", base=tmp_path, cache=tmp_path / "cache"), ["abcdefgh"])[0]) == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no tokenizer 't.json'"),
        (b"{", "not a tokenizer.json"),
        (b"\xff\xfe", "not a tokenizer.json"),
        (b"[1, 2]", "no model.vocab"),
        (b'{"model": {"vocab": {"a": 0}}}', "not a tokenizer.json"),
    ],
)
def test_what_is_no_tokenizer(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(SpecError, match=message):
        load_tokenizer("t.json", base=tmp_path, cache=tmp_path / "cache")


def test_a_vocabulary_that_reaches_control_tokens_from_text_is_refused(tmp_path: Path) -> None:
    definition = tiny()
    definition["model"]["ignore_merges"] = True
    definition["pre_tokenizer"]["use_regex"] = False
    definition["model"]["vocab"]["<|im_start|>"] = 257
    (tmp_path / "t.json").write_text(json.dumps(definition))
    with pytest.raises(SpecError, match="makes a control token of the text"):
        load_tokenizer("t.json", base=tmp_path, cache=tmp_path / "cache")


class Wrong(Tokenizer):
    """Its fast side drops the last id of every batch."""

    def encode_fast(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids, offsets = self.encode_reference(texts)
        return ids[:-1], np.minimum(offsets, len(ids) - 1)


class Broken(Tokenizer):
    def encode_fast(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        raise RuntimeError("unsupported")


@pytest.mark.parametrize(("kind", "says"), [(Wrong, "by the fast tokenizer"), (Broken, "RuntimeError: unsupported")])
def test_a_fast_tokenizer_that_differs_is_not_used(
    tokenizer: Tokenizer, tmp_path: Path, kind: type[Tokenizer], says: str
) -> None:
    outcome = parity.decide(kind(tokenizer.path, tokenizer.digest, fast=True), tmp_path)
    assert not outcome.fast
    assert says in outcome.difference
    assert not parity.agree(kind(tokenizer.path, tokenizer.digest, fast=True), ["some text"])
    # remembered: even for one that would now agree, until a library's version changes
    assert parity.decide(tokenizer, tmp_path) == outcome


def test_the_gate_opens_for_equal_tokenizers_and_is_remembered(tokenizer: Tokenizer, tmp_path: Path) -> None:
    decided = parity.decide(tokenizer, tmp_path)
    assert (decided.fast, decided.difference) == (True, "")
    assert (decided.size, decided.added, decided.loose) == (tokenizer.size, tokenizer.added, {})
    assert parity.decide(Broken(tokenizer.path, tokenizer.digest, fast=True), tmp_path).fast
    assert parity.agree(tokenizer, ["one", "two" * 100_000])


def test_names_are_those_that_the_spec_may_use() -> None:
    assert set(NAMES) == {"qwen2.5", "qwen3"}
