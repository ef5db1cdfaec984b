"""A spec from what was found: pure. Comments say what each part means and what to change first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from mixc.init.guess import Guess
from mixc.spec.schema import MAX_REJECT_RATE

TINY = "sail-vl-tiny"
"""The default model: random weights, but the family's tiles, tokens and template, and a laptop trains it."""
SMALL = 256 << 20
"""Bytes of sources below which a step is of a few packs, so that there are some steps."""
_UNSAID = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff\U0001fffe\U0001ffff]")
_PASS = f"of a source's rows so many may be unusable; {MAX_REJECT_RATE:g} when left out"
_SAFE = re.compile(r"[A-Za-z0-9_./*-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A source of the spec to be written."""

    name: str
    path: str | list[str]
    format: str | None
    guess: Guess
    about: str
    """What was found, for a comment."""


def can_be_said(text: str) -> bool:
    """Whether a spec can hold `text`: it has no control characters and none that some take for the end of a line
    (mixc/spec/yaml.py)."""
    return _UNSAID.search(text) is None


def source_names(hints: Sequence[str]) -> list[str]:
    """A name for each source, from words of its path: unique, and what the spec allows as a name."""
    names: list[str] = []
    for hint in hints:
        clean = re.sub(r"[^A-Za-z0-9_-]+", "-", hint).strip("-_").lower()[:60] or "source"
        number, name = 1, clean
        while name in names:
            number += 1
            name = f"{clean}-{number}"
        names.append(name)
    return names


def write(
    mixture: str,
    model: str,
    seed: int,
    sources: Sequence[Named],
    *,
    bytes: int,
    max_reject_rate: float | None = None,
    system: str | None = None,
) -> str:
    """The text of a spec that trains on `sources`, at least one, of `bytes` bytes in all, and says `max_reject_rate` if it is not
    None. `system` is the message that the model's chat template begins conversations with, a line."""
    lines = [
        "# Written by `mixc init`. Say what you want to change here, then:",
        "#   mixc plan SPEC                 what would be trained on, and what not; writes nothing",
        "#   mixc compile SPEC -o BUILD     the shards",
        "#   mixc train BUILD --out RUN",
        "",
        f"mixture: {_text(mixture)}",
        f"seed: {seed}",
        f"model: {model}"
        + ("  # random and tiny, for a first run; sail-vl2-2b is the real one" if model == TINY else ""),
        "dedup: {exact: true}  # equal samples count once",
        *([f"max_reject_rate: {max_reject_rate:g}  # {_PASS}"] if max_reject_rate is not None else []),
        "",
        *_system(sources, system),
        "sources:",
    ]
    for source in sources:
        lines += _source(source)
    lines += ["", "stages:"]
    tiny, batch = model.startswith(TINY), 4 if bytes < SMALL else 512
    length = 4096 if tiny else 8192  # an image of twelve tiles and its thumbnail takes 3,328 tokens
    for number, (name, about, members, rates) in enumerate(_stages(sources, tiny=tiny)):
        lines += [
            *([""] if number else []),
            f"  # {about}",
            f"  - name: {name}",
            *(["    reuse: true  # an earlier stage may have trained on the same samples"] if number else []),
            "    budget: 1 epoch  # or `2B tokens`, `500k samples`",
            f"    mix: [{', '.join(map(_text, members))}]" + ("  # by their sizes" if len(members) > 1 else ""),
            *(_by_shares(members) if len(members) > 1 else []),
            f"    sequence_length: {length}",
            "    train:",
            f"      lr: {{{rates}}}  # a module without a rate is frozen",
            f"      batch: {batch}  # packs a step, over all GPUs",
        ]
    return "\n".join(lines) + "\n"


def _stages(sources: Sequence[Named], *, tiny: bool) -> list[tuple[str, str, list[str], str]]:
    """(name, comment, sources, learning rates): the projector first where conversations or texts follow, all modules then."""
    # sail-vl-2b's recipe has these rates (specs/sail_vl/2b.yaml says how sure they are); those of the twin are its demo's
    align = "projector: 3e-3" if tiny else "projector: 2e-4"
    whole = "vision: 1e-3, projector: 3e-3, language: 1e-2" if tiny else "vision: 4e-5, projector: 4e-5, language: 4e-5"
    pictures = [each.name for each in sources if each.guess.kind in ("caption", "ocr")]
    texts = [each.name for each in sources if each.guess.kind == "text"]
    chats = [each.name for each in sources if each.guess.kind == "chat"]
    stages = []
    if pictures and (texts or chats):
        stages.append(("align", "Pictures and language meet: the projector alone learns.", pictures, align))
    if texts or not chats:
        stages.append(("pretrain", "All of the model learns.", [*pictures, *texts], whole))
    if chats:
        stages.append(("sft", "Conversations: answers are supervised.", chats, whole))
    return stages


def _system(sources: Sequence[Named], system: str | None) -> list[str]:
    """Where a system message comes from that is in no file of the user's."""
    if system is None or all(source.guess.kind == "text" for source in sources):
        return []
    return [
        "# The model's chat template begins each conversation, and each picture's, with its own system message:",
        f"#   {system}",
        "# `template: chatml` in a source leaves it out; then ask the model with `mixc chat --template chatml`. A conversation",
        "# that has a system turn keeps that one instead.",
    ]


def _source(source: Named) -> list[str]:
    lines = [
        f"  {_text(source.name)}:  # {source.about}",
        f"    path: {_path(source.path)}",
        f"    kind: {source.guess.kind}",
    ]
    if source.format is not None:
        lines.append(f"    format: {source.format}")
    lines += [f"    {key}: {_text(value)}" for key, value in source.guess.keys.items()]
    columns = ", ".join(name for name in source.guess.columns if can_be_said(name))
    if columns:
        lines.append(f"    # where: ...  # a threshold over its columns: {columns[:160]}")
    return lines


def _by_shares(members: Sequence[str]) -> list[str]:
    """Comments that can be taken for the line above: with what is too small for its share repeated, as sizes are not known here."""
    shares = ", ".join(f"{_text(name)}: {1 / len(members):.2g}" for name in members)
    return [
        "    # or by shares, which these two lines say in its place; what is too small for its share is repeated:",
        f"    # mix: {{{shares}}}",
        "    # on_exhausted: repeat",
    ]


def _path(path: str | list[str]) -> str:
    return _text(path) if isinstance(path, str) else "[" + ", ".join(map(_text, path)) + "]"


def _text(text: str) -> str:
    """A YAML scalar that is this string, whatever it holds: JSON's strings are YAML's."""
    plain = _SAFE.fullmatch(text) and not text.startswith(("-", "*")) and re.search(r"[A-Za-z]", text)
    if (
        plain
        and text.lower().lstrip(".") not in ("true", "false", "null", "yes", "no", "on", "off", "nan", "inf")
        and not re.fullmatch(r"[-+.0-9eExXoO_]+", text)
    ):
        return text
    return msgspec.json.encode(text).decode()
