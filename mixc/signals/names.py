"""Which signals there are. No import but the standard library, so that checking a spec stays quick.

`registry.py` computes them, docs/signals.md lists them; a test holds all three to one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Type = Literal["int64", "double", "string", "bool", "binary", "list<uint64>"]
Need = Literal["text", "turns", "images", "facts"]
"""What a signal sees: the supervised text (of kind text the document, else the assistant's turns, a line break between
them), all turns, the encoded images, or nothing but the columns of facts.parquet."""


@dataclass(frozen=True, slots=True)
class Described:
    type: Type
    needs: tuple[Need, ...]
    about: str
    """One paragraph, with the source of the definition."""


_GOPHER = "(Gopher, arXiv:2112.11446, table A1)"
_TEXT: tuple[Need, ...] = ("text",)


def _duplicate(n: int) -> str:
    return (
        f"Part of the text's characters in {n}-grams of words that occurred before, counted without overlap, as"
        f" Datatrove's filter does {_GOPHER}."
    )


def _top(n: int) -> str:
    return (
        f"Part of the text's characters, spaces within counted, in its most frequent {n}-gram of words, the earliest of"
        f" equals {_GOPHER}. 0 where none occurs twice, as in RedPajama-V2; Datatrove counts one that occurs once."
    )


SIGNALS: Mapping[str, Described] = {
    "words": Described(
        "int64",
        _TEXT,
        "Words: runs of characters that are not white space; in scripts without spaces (Chinese, Japanese, Thai, Lao,"
        " Khmer, Burmese) each letter is one.",
    ),
    "repetition": Described(
        "double",
        _TEXT,
        _duplicate(10) + " InternVL 2.5 drops samples above 0.4 (arXiv:2412.05271, section 4.1).",
    ),
    **{f"duplicate_{n}gram": Described("double", _TEXT, _duplicate(n)) for n in range(5, 10)},
    **{f"top_{n}gram": Described("double", _TEXT, _top(n)) for n in range(2, 5)},
    "duplicate_lines": Described(
        "double", _TEXT, f"Part of the text's characters in lines that occurred before {_GOPHER}. Empty lines are none."
    ),
    "language": Described(
        "string",
        _TEXT,
        "Code of the language that most of the text is in, by CLD2, which counts in integers: ISO 639-1 where it has one,"
        " `zh-Hant` for traditional Chinese, `und` where it cannot tell.",
    ),
    "language_score": Described(
        "double",
        _TEXT,
        "Part of the text that is in `language`, in hundredths; 0 where CLD2 holds its finding unreliable.",
    ),
    "mean_word_length": Described(
        "double", _TEXT, "Characters a word, over words with a letter or digit; 0 without one (Gopher: 3 to 10)."
    ),
    "symbol_ratio": Described(
        "double", _TEXT, "The more frequent of hash signs and ellipses, by words (Gopher: at most 0.1)."
    ),
    "digit_ratio": Described("double", _TEXT, "Part of the characters that are decimal digits, of any script."),
    "alphabetic_ratio": Described(
        "double", _TEXT, "Part of the words that have a letter (Gopher: at least 0.8); 0 without words."
    ),
    "stop_words": Described(
        "int64",
        _TEXT,
        "How many of the, be, to, of, and, that, have, with are among the words (Gopher: at least 2). Case counts not.",
    ),
    "bullet_lines": Described(
        "double", _TEXT, "Part of the lines that begin with a bullet or - (Gopher: at most 0.9)."
    ),
    "ellipsis_lines": Described("double", _TEXT, "Part of the lines that end with an ellipsis (Gopher: at most 0.3)."),
    "aspect": Described(
        "double", ("facts",), "Width by height of the largest image, as stored; NULL without an image."
    ),
    "min_side": Described("int64", ("facts",), "Shorter side of the largest image, pixels; NULL without an image."),
    "sharpness": Described(
        "double",
        ("images",),
        "Variance of the Laplacian of the grey image at 256 x 256, of the least sharp image (Pech-Pacheco et al., ICPR"
        " 2000): low is blurred. NULL without an image.",
    ),
    "flatness": Described(
        "double",
        ("images",),
        "Part of the grey image's pixels at 256 x 256 that have its commonest level, of the flattest image: 1 is one"
        " colour. NULL without an image.",
    ),
}
"""What a spec's `signals` may name without a function."""


def table() -> str:
    """The list in docs/signals.md."""
    rows = [f"| `{name}` | {each.type} | {', '.join(each.needs)} | {each.about} |" for name, each in SIGNALS.items()]
    return "\n".join(["| signal | type | of | what |", "| --- | --- | --- | --- |", *rows]) + "\n"
