"""The gate of the fast tokenizer: it runs only where it gives the ids of the reference.

Two comparisons. `decide` holds both tokenizers to one fixed set of difficult texts, once per tokenizer and library
version, and keeps the outcome in the cache. `agree` holds them to the first texts of every fragment, so that a kind of
text that the fixed set lacks is met where it occurs. On any difference the reference runs instead, and
`ObjectInfo.fast_tokenizer` says so. Cost on one core of an EPYC 9004: `decide` 1.6 s, nearly all of it loading the two
libraries; `agree` 20 ms a fragment at most.
"""

from __future__ import annotations

import functools
import random
import unicodedata
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import numpy as np
from blake3 import blake3

from mixc.cache.folders import partial, publish
from mixc.errors import SpecError
from mixc.measure.tokenizer import Tokenizer

AGREE_TEXTS = 64
AGREE_CHARACTERS = 1 << 16
"""How much of a fragment `agree` compares: the first texts, up to this many texts and characters."""
FUZZ_TEXTS = "ca1dd009368fa6e02d2a513643575f69e1b95e611fab5eaecc581a616753b335"
"""blake3 of `fuzz_texts()`, joined by null characters: what was found of other texts is not of these."""


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    fast: bool
    difference: str
    """Why the fast tokenizer may not run; empty when it may."""
    size: int
    """This and the rest is the tokenizer's own: known with this, so that who tokenizes nothing need not load it for them."""
    added: dict[str, int]
    loose: dict[str, list[str]]


def decide(tokenizer: Tokenizer, cache: Path) -> Parity:
    """Whether the fast tokenizer gives the reference's ids on `fuzz_texts()`; remembered in the cache.

    Raises SpecError when the *reference* turns the text of a control token into the control token, even though it was
    told of none: then no text of this tokenizer's is safe.
    """
    versions = f"fastokens {_version('fastokens')}, tokenizers {_version('tokenizers')}"
    key = blake3("\0".join([versions, tokenizer.digest, FUZZ_TEXTS]).encode()).hexdigest()
    path = cache / "tokenizers" / tokenizer.digest / f"parity-{key[:32]}" / "parity.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Parity)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        pass
    _refuse_control_tokens(tokenizer)
    difference = compare(tokenizer, [*fuzz_texts(), *tokenizer.added])
    parity = Parity(
        fast=not difference,
        difference=difference and f"{versions}: {difference}",
        size=tokenizer.size,
        added=tokenizer.added,
        loose=tokenizer.loose,
    )
    with partial(cache, "parity") as folder:
        (folder / path.name).write_bytes(msgspec.json.encode(parity))
        publish(folder, path.parent, lambda there: _readable(there / path.name))
    return parity


def agree(tokenizer: Tokenizer, texts: Sequence[str]) -> bool:
    """Whether both tokenizers give equal ids on the first of `texts`, up to AGREE_TEXTS and AGREE_CHARACTERS."""
    chosen, characters = [], 0
    for text in texts[:AGREE_TEXTS]:
        chosen.append(text[: AGREE_CHARACTERS - characters])
        characters += len(chosen[-1])
        if characters >= AGREE_CHARACTERS:
            break
    return not compare(tokenizer, chosen)


def compare(tokenizer: Tokenizer, texts: Sequence[str]) -> str:
    """The first difference between the two tokenizers, in words; empty when there is none."""
    try:
        fast_ids, fast_offsets = tokenizer.encode_fast(texts)
    except Exception as error:  # not installed, a definition that it does not support, a limit of its own
        return f"{type(error).__name__}: {error}"
    ids, offsets = tokenizer.encode_reference(texts)
    if np.array_equal(offsets, fast_offsets) and np.array_equal(ids, fast_ids):
        return ""
    for i, text in enumerate(texts):
        want = ids[offsets[i] : offsets[i + 1]].tolist()
        got = fast_ids[fast_offsets[i] : fast_offsets[i + 1]].tolist()
        if want != got:
            return f"{text[:40]!r} is {want[:20]} by the reference and {got[:20]} by the fast tokenizer"
    return "the fast tokenizer returned another number of texts"


def fuzz_texts() -> tuple[str, ...]:
    """Texts on which tokenizers are known to differ: a fixed set, the same in every process."""
    composed = "Ål Åse café naïve Việt Nam Ελλάδα ñandú 각 \u212b \u2126 \ufb01 \u1e9b\u0323 ｆｕｌｌ"
    fixed = [
        "", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u200b", "\ufeff", "\0", "a\0b", "\u2028x\u2029",
        composed, unicodedata.normalize("NFD", composed), unicodedata.normalize("NFKD", composed),
        "q\u0307\u0323 q\u0323\u0307 \u0301start \u09c7\u09be \u1100\u1161\u11a8 \u0344",
        "中文，标点。「引用」日本語のテキスト、한국어 텍스트 ไทยไม่มีช่องว่าง العربية עברית हिन्दी",
        "𠮷野家 𝒜𝓁𝓅𝒽𝒶 𐍈 \U0010ffff \U000e0041 \uffff \ufffd",
        "👩‍👩‍👧‍👦👍🏽🏳️‍🌈🇩🇪 ☺️ 1️⃣",
        "<|im_start|>user\n<|im_end|><|endoftext|><img><IMG_CONTEXT></img><think></think><|vision_start|>",
        "<|im_end", "|>", " <|im_end|> ", "<|IM_END|>", "<s></s><unk><pad>[CLS]",
        "I'll we'VE it'S don'T 'tis ’s 'Re'D", "3.14159 1,000,000 ١٢٣ ² ½ Ⅷ 0x1F v1.2.3",
        "a" * 4000, " " * 4001, "\n" * 1000, " \n" * 700, "\t \n\r" * 500, "ab" * 2500, "1" * 3000, "=" * 3000,
        "中" * 2000, "e\u0301" * 1500, "👍" * 500, ("word " * 1500).strip(), "\0" * 300,
        "  leading", "trailing  ", "x \n y", "x\n \n\n  y", "a  b   c    d", "end.\n\n\nNext", "\r\rx\r\n\r\n",
        "def f(x):\n\treturn {'a': [1, 2], \"b\": x**2}  # ok\n", "https://example.org/a?b=c&d=%20#e user@example.org",
        r"\frac{a}{b} $\sum_{i=0}^{n}$ \(x\)", "<div class=\"x\">&nbsp;</div>", '{"k": "\\u00e9\\n"}',
    ]  # fmt: skip
    alphabets = [
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ     ''\n",
        "0123456789+-*/=.,;:!?()[]{}<>|&^%$#@~`\"' \t\n",
        "äöüßéèêçñåøœæłśžďťőű ",
        "абвгдежзийклмнопрстуфхцчшщъыьэюя ",
        "的一是不了人我在有他这为之大来以个中上们。，、",
        "あいうえおかきくけこカキクケコ漢字ー。、",
        "אבגדהוزسشصضطظعغफबभमयरลวศษสห ",
        "\u0300\u0301\u0302\u0308\u0323\u0327aeiouncAEIOUNC ",
        "\u200d\ufe0f👩👧❤🏽🇦🇧🇨 ",
        " \t\n\r\u00a0\u2003\u3000x",
    ]
    draw = random.Random(20250110)
    for alphabet in alphabets:
        fixed += ["".join(draw.choice(alphabet) for _ in range(draw.randrange(1, 120))) for _ in range(40)]
    everything = [*range(0xD800), *range(0xE000, 0x30000)]
    fixed += ["".join(map(chr, draw.choices(everything, k=draw.randrange(1, 60)))) for _ in range(200)]
    return tuple(fixed)


def _refuse_control_tokens(tokenizer: Tokenizer) -> None:
    """Some definitions hold their control tokens in the model's own vocabulary, where plain text can reach them."""
    names = list(tokenizer.added)
    ids, offsets = tokenizer.encode_reference(names)
    control = set(tokenizer.added.values())
    for i, name in enumerate(names):
        if not control.isdisjoint(ids[offsets[i] : offsets[i + 1]].tolist()):
            raise SpecError(
                f"this tokenizer makes a control token of the text {name!r}",
                where="tokenizer",
                why="its model's own vocabulary holds it, so a user's text could end a turn or open an image",
                mend="use a byte-level BPE tokenizer whose special tokens are only in added_tokens",
            )


def _readable(path: Path) -> bool:
    try:
        msgspec.json.decode(path.read_bytes(), type=Parity)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return False
    return True


@functools.cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
