"""How a reviewer calls what a spec says: words for keys, and values as short as they are clear. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shards.counted import counted

LONGEST = 100
"""Characters of a value."""

SOURCE = {
    "kind": "kind",
    "format": "file format",
    "columns": "column names",
    "text": "text column",
    "image": "image column",
    "image_root": "image folder",
    "messages": "conversation column",
    "messages_format": "conversation format",
    "frames": "frame column",
    "max_frames": "most frames",
    "number_images": "numbers before images",
    "decode_images": "whole decoding of images",
    "template": "chat template",
    "prompt": "prompt",
    "where": "threshold",
    "too_long": "treatment of long samples",
    "path": "files",
}
"""`threshold of source prose`."""
STAGE = {
    "budget": "budget",
    "unit": "unit of the shares",
    "mix_end": "shares at the end",
    "mix_schedule": "course of the shares",
    "temperature": "temperature of the shares",
    "reuse": "reuse of earlier samples",
    "sequence_length": "sequence length",
    "max_tiles": "most tiles of a pack",
    "order": "order",
    "on_exhausted": "what is done when a source is exhausted",
}
MIX = {
    "weight": "weight",
    "where": "threshold",
    "max_epochs": "cap",
    "quantile": "quantile",
    "balance": "balance",
    "held_out": "use of what is held out",
}
"""`cap of captions in stage align`."""
TRAIN = {
    "batch": "batch",
    "schedule": "learning-rate schedule",
    "warmup": "warm-up",
    "decay": "decay",
    "min_lr_ratio": "last learning rate",
    "layer_decay": "layer decay",
    "weight_decay": "weight decay",
    "betas": "AdamW's betas",
    "eps": "AdamW's epsilon",
    "clip": "gradient clipping",
    "loss": "loss weighting",
    "label_smoothing": "label smoothing",
    "z_loss": "z-loss",
    "router_loss": "router loss",
    "drop_path": "drop path",
    "ema": "average of the weights",
    "spikes": "spike rule",
    "adalrs": "learning-rate search",
}


def sentence(what: str, a: Any, b: Any) -> str:
    """`what: a -> b`."""
    return f"{what}: {shown(a)} -> {shown(b)}"


def shown(value: Any) -> str:
    """A value in a sentence."""
    match value:
        case None:
            text = "none"
        case bool():
            text = "on" if value else "off"
        case str():
            text = " ".join(value.split())
        case float() if value.is_integer() and abs(value) < 1e15:
            text = str(int(value))
        case Mapping():
            text = ", ".join(f"{key} {shown(each)}" for key, each in value.items()) or "none"
        case list() | tuple():
            text = ", ".join(shown(each) for each in value) or "none"
        case _:
            text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def order(value: Mapping[str, Any] | None) -> str:
    """A stage's order: `shuffled in windows of 100000`, `by complexity, ascending, in windows of 32`."""
    if value is None:
        return "none"
    by = f"by {shown(value['by'])}, {value['direction']}," if value["by"] is not None else "shuffled"
    steps = f", steps {value['steps']}" if "steps" in value else ""
    return f"{by} in windows of {value['window']}{steps}"


def quantile(value: Mapping[str, Any] | None) -> str:
    """`complexity from 0 to 0.5`."""
    return (
        "none" if value is None else f"{shown(value['by'])} from {shown(value['at_least'])} to {shown(value['below'])}"
    )


def balance(value: Mapping[str, Any] | None) -> str:
    """`language`, `language, temperature 2`."""
    if value is None:
        return "none"
    heat = value.get("temperature")
    return shown(value["by"]) + (f", temperature {shown(heat)}" if heat is not None else "")


def minhash(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "off"
    return f"from {shown(value['threshold'])} on ({value['ngram']}-grams, {value['permutations']} permutations)"


def weight(value: float | None) -> str:
    return "by size" if value is None else shown(value)


def epochs(value: float | None) -> str:
    return "none" if value is None else counted(value, "epoch", shown(value))


def rate(value: float | None) -> str:
    return "frozen" if value is None else shown(value)


def digest(value: str | None) -> str:
    return "none" if value is None else value[:12]
