"""Text to token ids: the fast tokenizer when it is proven equal, the reference when it is not.

A tokenizer is a `tokenizers` definition (tokenizer.json), held as canonical JSON in CACHE/tokenizers/<digest>/, where
the digest is blake3 of just those bytes. So a cached file proves itself, and a user's file may change under a running
compile without harm. `load_tokenizer` takes a name, a folder or a file.

Two libraries run it: `tokenizers`, the reference, and `fastokens`, some fifty times faster. The fast one is used only
where parity.py has found equal ids. Both are given the definition *without* its added tokens, so that no control token
is ever recognised inside text: `<|im_end|>` in a user's turn becomes the eight-odd tokens of those letters.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from blake3 import blake3

from mixc.cache.folders import partial, publish
from mixc.errors import SpecError
from mixc.measure import qwen

if TYPE_CHECKING:
    import tokenizers  # where it is used: who finds everything measured tokenizes nothing

# One worker is one core: both libraries would start as many threads as there are cores in each of as many workers, and
# tokenize a quarter slower by CPU time on two.
os.environ.setdefault("FASTOKENS_BPE_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

NAMES = {"qwen2.5": qwen.DIGEST, "qwen3": qwen.DIGEST}
"""Tokenizers that come with mixc. Qwen3 has Qwen2.5's vocabulary; its further added tokens are in qwen.py."""

Ids = npt.NDArray[np.uint32]
Offsets = npt.NDArray[np.uint64]


class Known(NamedTuple):
    """What is asked of a tokenizer by those, too, who tokenize nothing."""

    size: int
    added: dict[str, int]
    loose: dict[str, list[str]]


@dataclass(frozen=True)
class Tokenizer:
    """Token ids of plain text, ids of special tokens, and text again. Light: what it needs is loaded at first use, once
    a process, and never pickled."""

    path: Path
    """A tokenizer.json."""
    digest: str
    """blake3 of its canonical JSON."""
    fast: bool
    """Whether `encode_plain` runs fastokens; parity.py decides."""
    known: Known | None = field(default=None, compare=False, repr=False)
    """From the cache; None: the definition is loaded to tell."""

    def encode_plain(self, texts: Sequence[str]) -> tuple[Ids, Offsets]:
        """Token ids of every text: `ids` uint32 [N], `offsets` uint64 [len(texts) + 1]; text i is
        ids[offsets[i]:offsets[i+1]]. No special or added token is recognised inside a text, and none is put around it.
        """
        return self.encode_fast(texts) if self.fast else self.encode_reference(texts)

    def encode_fast(self, texts: Sequence[str]) -> tuple[Ids, Offsets]:
        """As `encode_plain`, by fastokens. Raises what fastokens raises."""
        ids, offsets = self._loaded.fastokens.encode_batch_flat(list(texts))
        return np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8")

    def encode_reference(self, texts: Sequence[str]) -> tuple[Ids, Offsets]:
        """As `encode_plain`, by tokenizers."""
        encoded = self._loaded.plain.encode_batch_fast(list(texts), add_special_tokens=False)
        offsets = np.zeros(len(encoded) + 1, np.uint64)
        np.cumsum([len(one) for one in encoded], out=offsets[1:])
        ids = np.empty(int(offsets[-1]), np.uint32)
        for one, start in zip(encoded, offsets.tolist(), strict=False):
            ids[start : start + len(one)] = one.ids
        return ids, offsets

    def special(self, name: str) -> int:
        """Id of an added token, as `<|im_end|>`. Raises SpecError when the tokenizer has none of that name."""
        try:
            return self.added[name]
        except KeyError:
            raise SpecError(
                f"the tokenizer has no token {name}, which the model's chat template needs",
                where="tokenizer",
                mend=f"add it to the tokenizer.json's added_tokens, or use one of {', '.join(sorted(NAMES))}",
            ) from None

    def has_verbatim(self, names: Sequence[str]) -> bool:
        """Whether all of `names` are added tokens. Raises SpecError when they are, but one of them has settings by which
        the tokenizer would cut a text elsewhere than at its letters."""
        if not self.added.keys() >= set(names):
            return False
        for name in names:
            if found := self.loose.get(name):
                raise SpecError(
                    f"the tokenizer does not take every {name} in an answer, and nothing else, for that token",
                    where="tokenizer",
                    why=f"in its added_tokens this one has {' and '.join(found)}",
                    mend="set these to false in the tokenizer.json, as Qwen3's are",
                )
        return True

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Text of ids, special tokens written out. Bytes that are no UTF-8 become U+FFFD."""
        return str(self._loaded.full.decode(np.asarray(ids).tolist(), skip_special_tokens=False))

    @property
    def added(self) -> dict[str, int]:
        """Every added token's id."""
        return self._loaded.added if self.known is None else self.known.added

    @property
    def loose(self) -> dict[str, list[str]]:
        """By name, the settings of those added tokens by which a text is not cut at just their letters: whitespace that goes
        with the token, words that hide it, and that it is looked for in what a normaliser made of the text."""
        if self.known is not None:
            return self.known.loose
        definition = self._loaded.definition
        settings = ["lstrip", "rstrip", "single_word", *(["normalized"] if definition.get("normalizer") else [])]
        found = {
            token["content"]: [setting for setting in settings if token.get(setting)]
            for token in definition["added_tokens"]
        }
        return {name: own for name, own in found.items() if own}

    def normalised(self, text: str) -> str:
        """Text as it is before it is tokenised, in NFC for instance: what `decode` of its ids gives again."""
        normalizer = self._loaded.full.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    @property
    def byte_level_vocabulary(self) -> dict[str, int] | None:
        """Ids of tokens that are written a letter a byte (GPT-2's alphabet); None of a tokenizer that is not byte-level."""
        definition = self._loaded.definition
        decoder = definition.get("decoder") or {}
        vocabulary = definition["model"]["vocab"]
        return vocabulary if decoder.get("type") == "ByteLevel" and isinstance(vocabulary, dict) else None

    @property
    def size(self) -> int:
        """One more than the highest id."""
        if self.known is not None:
            return self.known.size
        vocabulary = self._loaded.definition["model"]["vocab"]
        model = max(vocabulary.values(), default=-1) if isinstance(vocabulary, dict) else len(vocabulary) - 1
        return max([model, *self.added.values()]) + 1

    @property
    def _loaded(self) -> _Loaded:
        return _load(self.path)


class _Loaded:
    """A definition, and the libraries' tokenizers made from it."""

    def __init__(self, path: Path) -> None:
        self.definition = _parse(path.read_bytes(), str(path))
        self.added: dict[str, int] = {token["content"]: token["id"] for token in self.definition["added_tokens"]}

    @cached_property
    def full(self) -> tokenizers.Tokenizer:
        import tokenizers

        return tokenizers.Tokenizer.from_str(msgspec.json.encode(self.definition).decode())

    @cached_property
    def plain(self) -> tokenizers.Tokenizer:
        import tokenizers

        return tokenizers.Tokenizer.from_str(self._plain_json)

    @cached_property
    def fastokens(self) -> Any:
        import fastokens

        return fastokens.Tokenizer.from_json_str(self._plain_json)

    @cached_property
    def _plain_json(self) -> str:
        model = dict(self.definition["model"])
        merges = model.get("merges")
        # of the two ways to write a merge, the one that fastokens reads a quarter faster
        if isinstance(merges, list) and all(isinstance(pair, list) and " " not in "".join(pair) for pair in merges):
            model["merges"] = [" ".join(pair) for pair in merges]
        return msgspec.json.encode(
            {**self.definition, "model": model, "added_tokens": [], "post_processor": None}
        ).decode()


@lru_cache(maxsize=2)
def _load(path: Path) -> _Loaded:
    return _Loaded(path)


def warm(path: Path, *, fast: bool) -> None:
    """Load what measuring with the tokenizer.json at `path` needs, for this process and those that are forked from it. What
    cannot be loaded is left to be met, and told, where it is used."""
    with suppress(Exception):
        loaded = _load(path)
        _ = loaded.plain  # which what is tokenized fast is compared with, too
        if fast:
            _ = loaded.fastokens


def load_tokenizer(name: str, *, base: Path, cache: Path) -> Tokenizer:
    """The tokenizer that a spec names: one of NAMES, a folder with a tokenizer.json, or that file, relative to `base`.

    The first use of a built-in one takes about 2 seconds to build it, the first use of any about 2 more to compare the
    fast tokenizer with the reference; both are kept in `cache`. Raises SpecError when there is no such tokenizer or
    it cannot be used safely.
    """
    from mixc.measure import parity  # it needs Tokenizer

    if name in NAMES:
        digest = NAMES[name]
        path = cache / "tokenizers" / digest / "tokenizer.json"
        if not _holds(path, digest):
            _keep(qwen.definition(), digest, path, cache)
    else:
        canonical = msgspec.json.encode(_read_users(name, base), order="sorted")
        digest = blake3(canonical).hexdigest()
        path = cache / "tokenizers" / digest / "tokenizer.json"
        if not _holds(path, digest):
            _keep(canonical, digest, path, cache)
    reference = Tokenizer(path, digest, fast=False)
    decided = parity.decide(reference, cache)
    return replace(reference, fast=decided.fast, known=Known(decided.size, decided.added, decided.loose))


def _holds(path: Path, digest: str) -> bool:
    return path.is_file() and blake3(path.read_bytes()).hexdigest() == digest


def _keep(canonical: bytes, digest: str, path: Path, cache: Path) -> None:
    found = blake3(canonical).hexdigest()
    assert found == digest, f"the definition's digest is {found}; pin it in qwen.DIGEST if the change is meant"
    with partial(cache, "tokenizer") as folder:
        (folder / path.name).write_bytes(canonical)
        publish(folder, path.parent, lambda there: _holds(there / path.name, digest))


def _read_users(name: str, base: Path) -> dict[str, Any]:
    path = base / Path(name).expanduser()
    if path.is_dir():
        path = path / "tokenizer.json"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpecError(
            f"no tokenizer {name!r}",
            where="tokenizer",
            why=f"it is none of {', '.join(sorted(NAMES))}, and {path} cannot be read: {error.strerror}",
            mend="name one of these, a folder with a tokenizer.json, or such a file, relative to the spec",
        ) from None
    import tokenizers

    # Padding and truncation are a server's settings; here they would silently change what is trained on.
    definition = _parse(data, str(path)) | {"padding": None, "truncation": None}
    try:
        tokenizers.Tokenizer.from_str(msgspec.json.encode(definition).decode())
    except Exception as error:  # the library raises bare Exceptions
        raise _not_a_tokenizer(str(path), str(error)) from None
    return definition


def _parse(data: bytes, where: str) -> dict[str, Any]:
    try:
        definition = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_a_tokenizer(where, str(error)) from None
    if not isinstance(definition, dict) or "vocab" not in (definition.get("model") or {}):
        raise _not_a_tokenizer(where, "it has no model.vocab")
    definition.setdefault("added_tokens", [])
    return definition


def _not_a_tokenizer(where: str, why: str) -> SpecError:
    return SpecError(
        "this is not a tokenizer.json that the tokenizers library can read",
        where=where,
        why=why,
        mend="save one with transformers' `tokenizer.save_pretrained(folder)` and name that folder",
    )
