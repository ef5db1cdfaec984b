"""Which of the things that differ make two trainings differ: the causes, what may have a part, and what changes nothing.

An edit is a cause unless it is known to have no effect, and how that is known is said with it. Pure: what was found out of the
sides comes as `Evidence`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from mixc.diff import words
from mixc.diff.changed import READING, Canonical, Renames, changed
from mixc.diff.difference import Cause, Rows
from mixc.diff.rows import Files
from mixc.diff.side import Side
from mixc.plan.expressions import nowhere, parse_expressions
from mixc.spec.groups import stage_sources
from mixc.spec.quantity import as_written
from mixc.spec.schema import Spec
from shards.counted import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the sides have shown. Sources and stages by A's names."""

    equal: bool | None
    """Whether trainings see the same; None when only causes can tell."""
    same_stages: Collection[str]
    """Stages that train the same packs with the same settings."""
    same_training: Collection[str]
    """Stages whose training settings, percentages resolved, are the same."""
    same_threshold: Callable[[str], bool]
    """Of a source: whether its `where` drops the very same samples on both sides."""
    files: Mapping[str, Files]
    """Of every source that both sides have."""
    rows: Mapping[str, Rows]
    """Of those whose files or reading differ, where both are planned."""
    columns: Mapping[str, bool | None]
    """Of those: whether samples have the same columns; None for unknown."""


@dataclass(frozen=True, slots=True)
class Verdict:
    causes: list[Cause]
    possible: list[Cause]
    no_effect: list[Cause]


def judge(a: Side, b: Side, spec_b: Canonical, renames: Renames, evidence: Evidence) -> Verdict:
    """`spec_b` is B's with A's names."""
    verdict = Verdict([], [], [])
    for cause in [*changed(a.spec, spec_b, renames), *_beside(a, b, spec_b), *_contents(evidence)]:
        why = "a training run sees the same" if evidence.equal else _no_effect(cause, a, b, spec_b, evidence)
        if cause.kind == "path" and not evidence.files[cause.source or ""].same_content:
            continue  # told with the content
        if why is not None:
            verdict.no_effect.append(_because(cause, why))
        elif cause.kind == "columns" and evidence.columns.get(cause.source or "") is None:
            verdict.possible.append(
                _because(cause, "the objects that hold the columns are not in this machine's cache")
            )
        else:
            verdict.causes.append(cause)
    for cause in _libraries(a, b):
        if evidence.equal and a.root and b.root:
            verdict.no_effect.append(_because(cause, "the results agree"))
        elif (evidence.equal is False and not verdict.causes) or (
            evidence.equal is False and any(each.kind == "library" for each in verdict.causes)
        ):
            verdict.causes.append(cause)
        elif a.root and b.root:
            verdict.possible.append(_because(cause, "something else differs too"))
        else:
            verdict.possible.append(_because(cause, "a plan does not show what it does to tokens"))
    if evidence.equal is False and not verdict.causes:
        verdict.causes.append(Cause(kind="unknown", text="nothing that is recorded of the two differs"))
    return verdict


def _because(cause: Cause, why: str) -> Cause:
    return msgspec.structs.replace(cause, why=why)


def _beside(a: Side, b: Side, spec_b: Canonical) -> list[Cause]:
    """What differs beside the specs and the sources."""
    found = []
    if a.tokenizer != b.tokenizer and a.spec["tokenizer"] == spec_b["tokenizer"]:
        found.append(_digests("tokenizer", f"content of tokenizer {a.spec['tokenizer']}", a.tokenizer, b.tokenizer))
    same_model = a.spec["model"] == spec_b["model"]
    if a.template != b.template and same_model:
        found.append(_digests("template", "chat template of the model", a.template, b.template))
    if a.geometry and b.geometry and a.tokenizer == b.tokenizer and same_model and a.spec["tiles"] == spec_b["tiles"]:
        before, after = msgspec.to_builtins(a.geometry), msgspec.to_builtins(b.geometry)
        found += [
            Cause(kind="model", text=words.sentence(f"{key} of the model", before[key], after[key]), a=before, b=after)
            for key in before
            if before[key] != after[key]
        ]
    if a.consumed != b.consumed and a.spec.get("continue_from") == spec_b.get("continue_from"):
        found.append(_digests("continue", "what the continued run had used", a.consumed, b.consumed))
    asked = a.spec.get("decontaminate") is not None and spec_b.get("decontaminate") is not None
    for name in sorted(a.signals.keys() & b.signals.keys()):
        (version_a, _, benchmark_a), (version_b, _, benchmark_b) = (
            pins[name].partition(", benchmark ") for pins in (a.signals, b.signals)
        )
        if benchmark_a != benchmark_b and asked:
            found.append(_digests("benchmark", "content of the benchmark files", benchmark_a, benchmark_b))
        own = {each["name"]: each["version"] for side in (a.spec, spec_b) for each in side.get("signals", [])}
        if version_a != version_b and own.get(name) not in (version_a, version_b):
            found.append(Cause(kind="signal", text=f"version of signal {name}: {version_a} -> {version_b}"))
    return found


def _digests(kind: str, what: str, a: str | None, b: str | None) -> Cause:
    return Cause(kind=kind, text=f"{what}: {words.digest(a)} -> {words.digest(b)}", a=a, b=b)


def _contents(evidence: Evidence) -> list[Cause]:
    """Of each source that both sides have, how its content differs."""
    found = []
    for name, files in sorted(evidence.files.items()):
        rows = evidence.rows.get(name)
        if files.same_content:
            if files.renamed:
                first, more = files.renamed[0], len(files.renamed) - 1
                text = f"file of source {name} renamed: {first.a} -> {first.b}" + (f", and {more} more" if more else "")
                found.append(Cause(kind="file_renamed", text=text, source=name, a=first.a, b=first.b))
        elif rows is not None and not (rows.changed or rows.added or rows.removed):
            if evidence.columns.get(name) is True:
                text = f"files of source {name} written anew, with the same rows ({_file_counts(files)})"
                found.append(Cause(kind="rewritten", text=text, source=name))
            else:
                text = f"columns of source {name}: other values in the same samples ({_file_counts(files)})"
                found.append(Cause(kind="columns", text=text, source=name))
        else:
            told = _row_counts(rows) if rows is not None else _file_counts(files)
            found.append(Cause(kind="content", text=f"content of source {name}: {told}", source=name))
    return found


def _row_counts(rows: Rows) -> str:
    counts = (("changed", rows.changed), ("added", rows.added), ("removed", rows.removed))
    told = [(number, verb) for verb, number in counts if number]
    first = [f"{counted(told[0][0], 'row')} {told[0][1]}"]
    return ", ".join([*first, *(f"{number:,} {verb}" for number, verb in told[1:])])


def _file_counts(files: Files) -> str:
    counts = (("changed", files.changed), ("added", files.added), ("removed", files.removed))
    told = [(len(paths), verb) for verb, paths in counts if paths]
    if not told:
        return "parts of files"
    first = [f"{counted(told[0][0], 'file')} {told[0][1]}"]
    return ", ".join([*first, *(f"{number:,} {verb}" for number, verb in told[1:])])


def _libraries(a: Side, b: Side) -> list[Cause]:
    return [
        Cause(
            kind="library",
            text=f"library {name}: {a.versions.get(name, 'none')} -> {b.versions.get(name, 'none')}",
            a=a.versions.get(name),
            b=b.versions.get(name),
        )
        for name in sorted(a.versions.keys() | b.versions.keys())
        if a.versions.get(name) != b.versions.get(name)
    ]


def _no_effect(cause: Cause, a: Side, b: Side, spec_b: Canonical, evidence: Evidence) -> str | None:
    """How it is known that one difference changes nothing, though others do; None when it is not known."""
    kind, stage, source = cause.kind, cause.stage, cause.source
    if kind in ("name", "reject_rate", "file_renamed", "rewritten"):
        return "it decides nothing that is trained"
    if kind == "path" and source is not None and evidence.files[source].same_content:
        return "the content is the same"
    if kind == "tokenizer" and a.tokenizer == b.tokenizer:
        return "it is the same tokenizer"
    if stage in evidence.same_stages:
        return f"stage {stage} trains the same packs in the same way"
    if kind in ("training", "learning_rate") and stage in evidence.same_training:
        return "it comes to the same settings"
    if kind == "weight" and stage is not None and _same_shares(a.spec, spec_b, stage):
        return "the shares are the same"
    if kind == "threshold" and stage is None and source is not None and evidence.same_threshold(source):
        return "it drops the same samples"
    if kind == "signal" and cause.key == "signals" and not _is_named(_name_of(cause), a.spec, spec_b):
        return "no expression names it"
    if kind == "reading" and source is not None and cause.key is not None:
        rows = evidence.rows.get(source)
        same = rows is not None and not (rows.changed or rows.added or rows.removed)
        if same and evidence.columns.get(source) and not cause.key.endswith(".template"):
            return "it reads the same samples"
    if source is not None and stage is None and _stands_apart(source, a.spec, spec_b):
        return "no stage mixes it, and no other source is compared with it"
    return None


def _name_of(cause: Cause) -> str:
    return str((cause.a or cause.b)["name"])


def _same_shares(a: Canonical, b: Canonical, stage: str) -> bool:
    """Whether a stage's weights are the same up to one factor, and nothing else decides its shares."""
    shares = []
    for spec in (a, b):
        form = next(each for each in spec["stages"] if each["name"] == stage)
        weights = {name: entry["weight"] for name, entry in form["mix"].items()}
        if None in weights.values() or form.get("mix_end") is not None or form.get("temperature", 1.0) != 1.0:
            return False
        exact = {name: as_written(float(weight)) for name, weight in weights.items()}
        total = sum(exact.values())
        shares.append({name: weight / total for name, weight in exact.items()})
    return shares[0] == shares[1]


def _is_named(signal: str, *specs: Canonical) -> bool:
    """Whether an expression of one of the specs reads a column or signal of this name."""
    for form in specs:
        expressions = parse_expressions(msgspec.convert(form, Spec), nowhere)
        uses = [
            *expressions.where.values(),
            *expressions.stage_where.values(),
            *expressions.quantile.values(),
            *expressions.balance.values(),
            *expressions.order.values(),
        ]
        if any(signal.lower() == name.lower() for use in uses for name in use.expression.columns):
            return True
    return False


def _stands_apart(source: str, *specs: Canonical) -> bool:
    """Whether what a source holds can reach no pack: no stage mixes it, and no rule compares it with others."""
    for form in specs:
        mixed = {name for stage in form["stages"] for name in stage_sources(stage["mix"], form.get("groups", {}))}
        dedup = form["dedup"]
        compared = dedup["exact"] or dedup.get("minhash") is not None or dedup.get("image") is not None
        if source in mixed or compared or form.get("held_out"):
            return False
    return True


def reading_differs(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two canonical sources read rows in another way."""
    return any(a.get(key) != b.get(key) for key in READING)
