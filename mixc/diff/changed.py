"""What differs between two canonical specs, as causes in a reviewer's words: every edit once, none that its writer did not make.

Pure. What a default follows from another key (the cap from a budget in epochs) is told with that key and not again. Renamed
sources and stages are found first, so that what hangs on their names is not told as gone and come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from mixc.diff import words
from mixc.diff.difference import Cause
from mixc.spec.schema import MixEntry, Source, Stage, Train

Canonical = Mapping[str, Any]
READING = (
    *(
        "kind",
        "format",
        "columns",
        "text",
        "image",
        "image_root",
        "messages",
        "messages_format",
        "frames",
        "max_frames",
    ),
    *("number_images", "decode_images", "template", "prompt"),
)
"""Keys of a source that say how its rows become samples."""


@dataclass(frozen=True, slots=True)
class Renames:
    """A's name by B's."""

    sources: Mapping[str, str]
    stages: Mapping[str, str]


def find_renames(a: Canonical, b: Canonical) -> Renames:
    """Sources, and then stages, that are gone and come and the same but for the name."""
    sources: dict[str, str] = {}
    gone = [name for name in sorted(a["sources"]) if name not in b["sources"]]
    for name in sorted(b["sources"]):
        twin = next((other for other in gone if a["sources"][other] == b["sources"][name]), None)
        if name not in a["sources"] and twin is not None:
            sources[name] = twin
            gone.remove(twin)
    b = rename(b, Renames(sources, {}))
    before, after = ({stage["name"]: stage for stage in side["stages"]} for side in (a, b))
    stages: dict[str, str] = {}
    left = [name for name in before if name not in after]
    for name, stage in after.items():
        twin = next((other for other in left if {**before[other], "name": name} == stage), None)
        if name not in before and twin is not None:
            stages[name] = twin
            left.remove(twin)
    return Renames(sources, stages)


def rename(spec: Canonical, renames: Renames) -> Canonical:
    """A spec with other names of its sources and stages, wherever they stand."""
    names, stages = renames.sources, renames.stages
    if not names and not stages:
        return spec

    def keys(mapping: Mapping[str, Any]) -> dict[str, Any]:
        return {names.get(name, name): value for name, value in mapping.items()}

    form = dict(spec)
    form["sources"] = keys(spec["sources"])
    form["dedup"] = {**spec["dedup"]}
    if "prefer" in form["dedup"]:
        form["dedup"]["prefer"] = [names.get(name, name) for name in form["dedup"]["prefer"]]
    if "held_out" in spec:
        form["held_out"] = keys(spec["held_out"])
    if "groups" in spec:
        form["groups"] = {
            group: keys(members) if isinstance(members, Mapping) else sorted(names.get(name, name) for name in members)
            for group, members in spec["groups"].items()
        }
    form["stages"] = []
    for stage in spec["stages"]:
        own = {**stage, "name": stages.get(stage["name"], stage["name"]), "mix": keys(stage["mix"])}
        if own.get("mix_end") is not None:
            own["mix_end"] = keys(own["mix_end"])
        form["stages"].append(own)
    return form


def changed(a: Canonical, b: Canonical, renames: Renames) -> list[Cause]:
    """Everything in which the specs differ, in the order in which a compile meets it. `b` has A's names already."""
    return [
        *_names(a, b, renames),
        *_globals(a, b),
        *_sources(a, b),
        *_cleaning(a, b),
        *_stages(a, b),
    ]


def _names(a: Canonical, b: Canonical, renames: Renames) -> Iterator[Cause]:
    if a["mixture"] != b["mixture"]:
        yield _cause("name", "name of the mixture", a["mixture"], b["mixture"], "mixture")
    for new, old in sorted(renames.sources.items(), key=lambda pair: pair[1]):
        yield Cause(
            kind="source_renamed",
            text=f"source renamed: {old} -> {new}",
            key=f"sources.{old}",
            source=old,
            a=old,
            b=new,
        )
    for new, old in renames.stages.items():
        yield Cause(
            kind="stage_renamed",
            text=f"stage renamed: {old} -> {new}",
            key=f"stages.{old}.name",
            stage=old,
            a=old,
            b=new,
        )


def _globals(a: Canonical, b: Canonical) -> Iterator[Cause]:
    for key in ("seed", "model", "tokenizer"):
        if a[key] != b[key]:
            yield _cause(key, key, a[key], b[key], key)
    for key, what in (("max", "most tiles of an image"), ("thumbnail", "thumbnail of an image")):
        if a["tiles"][key] != b["tiles"][key]:
            before, after = ("the model's" if side["tiles"][key] is None else side["tiles"][key] for side in (a, b))
            yield _cause("tiles", what, before, after, f"tiles.{key}")


def _sources(a: Canonical, b: Canonical) -> Iterator[Cause]:
    for name in sorted(a["sources"].keys() | b["sources"].keys()):
        before, after = a["sources"].get(name), b["sources"].get(name)
        if before is None or after is None:
            gone = after is None
            spec = a if gone else b
            where = [
                f"{stage['name']} ({words.weight(stage['mix'][name]['weight'])})"
                for stage in spec["stages"]
                if name in stage["mix"]
            ]
            yield Cause(
                kind="source_removed" if gone else "source_added",
                text=f"source {'removed' if gone else 'added'}: {name}"
                + (f", {'from' if gone else 'to'} {', '.join(where)}" if where else ""),
                key=f"sources.{name}",
                source=name,
                a=before,
                b=after,
            )
            continue
        for key, what in words.SOURCE.items():
            x, y = (side.get(key, _default(Source, key)) for side in (before, after))
            if x == y or (key == "too_long" and _follows_kind(before) and _follows_kind(after)):
                continue
            yield _cause(
                "threshold" if key == "where" else "reading" if key in READING else key,
                f"{what} of source {name}",
                x,
                y,
                f"sources.{name}.{key}",
                source=name,
            )


def _follows_kind(source: Mapping[str, Any]) -> bool:
    return bool(source["too_long"] == ("split" if source["kind"] == "text" else "drop"))


def _cleaning(a: Canonical, b: Canonical) -> Iterator[Cause]:
    groups_a, groups_b = a.get("groups", {}), b.get("groups", {})
    for name in sorted(groups_a.keys() | groups_b.keys()):
        if groups_a.get(name) != groups_b.get(name):
            yield _cause("group", f"group {name}", groups_a.get(name), groups_b.get(name), f"groups.{name}")
    signals_a, signals_b = ({each["name"]: each for each in side.get("signals", [])} for side in (a, b))
    for name in sorted(signals_a.keys() | signals_b.keys()):
        before, after = signals_a.get(name), signals_b.get(name)
        if before != after:
            shown = [
                "none"
                if s is None
                else f"version {s['version']}" + (f", {words.shown(s['settings'])}" * bool(s["settings"]))
                for s in (before, after)
            ]
            text = f"signal {name}: {shown[0]} -> {shown[1]}"
            yield Cause(kind="signal", text=text, key="signals", a=before, b=after)
    yield from _dedup(a["dedup"], b["dedup"])
    against_a, against_b = a.get("decontaminate"), b.get("decontaminate")
    if against_a is None or against_b is None:
        if against_a != against_b:
            x, y = ("off" if side is None else side["against"] for side in (against_a, against_b))
            yield _cause("decontaminate", "decontamination", x, y, "decontaminate")
    else:
        for key, what in (
            ("against", "benchmark files"),
            ("ngram", "n-grams of decontamination"),
            ("phash", "bits of decontamination by images"),
        ):
            if against_a[key] != against_b[key]:
                yield _cause("decontaminate", what, against_a[key], against_b[key], f"decontaminate.{key}")
    held_a, held_b = a.get("held_out", {}), b.get("held_out", {})
    for name in sorted(held_a.keys() | held_b.keys()):
        if held_a.get(name) != held_b.get(name):
            yield _cause(
                *("held_out", f"held out of source {name}", held_a.get(name), held_b.get(name), f"held_out.{name}"),
                source=name,
            )
    if a.get("continue_from") != b.get("continue_from"):
        x, y = (
            None if point is None else f"{point['build']}, stage {point['stage']}, step {point['step']}"
            for point in (a.get("continue_from"), b.get("continue_from"))
        )
        yield _cause("continue", "run that is continued", x, y, "continue_from")
    if a["max_reject_rate"] != b["max_reject_rate"]:
        yield _cause(
            *("reject_rate", "limit of unusable rows", a["max_reject_rate"], b["max_reject_rate"], "max_reject_rate")
        )


def _dedup(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Cause]:
    if a["exact"] != b["exact"]:
        yield _cause("dedup", "exact deduplication", a["exact"], b["exact"], "dedup.exact")
    x, y = a.get("minhash"), b.get("minhash")
    if x is None or y is None:
        if x != y:
            yield _cause("dedup", "near-duplicate text", words.minhash(x), words.minhash(y), "dedup.minhash")
    else:
        for key, what in (
            ("threshold", "threshold of near-duplicate text"),
            ("ngram", "n-grams of near-duplicate text"),
            ("permutations", "permutations of near-duplicate text"),
        ):
            if x[key] != y[key]:
                yield _cause("dedup", what, x[key], y[key], f"dedup.minhash.{key}")
    bits_a, bits_b = ("off" if side.get("image") is None else side["image"]["phash"] for side in (a, b))
    if bits_a != bits_b:
        yield _cause("dedup", "bits of near-duplicate images", bits_a, bits_b, "dedup.image.phash")
    if a.get("prefer", []) != b.get("prefer", []):
        yield _cause("dedup", "preferred sources", a.get("prefer", []), b.get("prefer", []), "dedup.prefer")


def _stages(a: Canonical, b: Canonical) -> Iterator[Cause]:
    before, after = ({stage["name"]: stage for stage in side["stages"]} for side in (a, b))
    new_sources = b["sources"].keys() ^ a["sources"].keys()
    for verb, own, other in (("removed", before, after), ("inserted", after, before)):
        names = list(own)
        for place, name in enumerate(names):
            if name not in other:
                neighbour = f"after {names[place - 1]}" if place else "first"
                yield Cause(
                    kind=f"stage_{verb}",
                    text=f"stage {verb}: {name}, {neighbour}",
                    key=f"stages.{name}",
                    stage=name,
                    a=before.get(name),
                    b=after.get(name),
                )
    common_a, common_b = [n for n in before if n in after], [n for n in after if n in before]
    if common_a != common_b:
        yield _cause("stage_order", "order of the stages", common_a, common_b, "stages")
    for name in common_a:
        yield from _stage(name, before[name], after[name], new_sources)


def _stage(name: str, a: Mapping[str, Any], b: Mapping[str, Any], new_sources: Any) -> Iterator[Cause]:
    where = f"stage {name}"
    for source in sorted(a["mix"].keys() | b["mix"].keys()):
        x, y = a["mix"].get(source), b["mix"].get(source)
        if x is None or y is None:
            if source not in new_sources:  # else it is told with the source
                text = f"{source} {'leaves' if y is None else 'joins'} the mix of {where}"
                entry = y if y is not None else x
                assert entry is not None
                yield Cause(
                    kind="mix",
                    text=f"{text} ({words.weight(entry['weight'])})",
                    key=f"stages.{name}.mix.{source}",
                    stage=name,
                    source=source,
                    a=x,
                    b=y,
                )
            continue
        yield from _entry(name, source, x, y, _follow_budget(a, b, x, y))
    for key, what in words.STAGE.items():
        x, y = (side.get(key, _default(Stage, key)) for side in (a, b))
        if x != y:
            show = words.order if key == "order" else None
            yield _cause(key, f"{what} of {where}", x, y, f"stages.{name}.{key}", stage=name, show=show)
    yield from _train(name, a["train"], b["train"])


def _follow_budget(a: Mapping[str, Any], b: Mapping[str, Any], x: Mapping[str, Any], y: Mapping[str, Any]) -> bool:
    """Whether both caps are what the budgets make of them by default."""
    return a["budget"] != b["budget"] and all(
        entry["max_epochs"] == _cap_of(stage["budget"]) for stage, entry in ((a, x), (b, y))
    )


def _cap_of(budget: str) -> float:
    amount, _, unit = budget.partition(" ")
    return max(1.0, float(amount)) if unit == "epochs" else 1.0


def _entry(stage: str, source: str, a: Mapping[str, Any], b: Mapping[str, Any], cap_follows: bool) -> Iterator[Cause]:
    for key, kind, show in (
        ("weight", "weight", words.weight),
        ("where", "threshold", None),
        ("max_epochs", "cap", words.epochs),
        ("quantile", "quantile", words.quantile),
        ("balance", "balance", words.balance),
        ("held_out", "held_out", None),
    ):
        x, y = (side.get(key, _default(MixEntry, key)) for side in (a, b))
        if x != y and not (key == "max_epochs" and cap_follows):
            yield _cause(
                *(kind, f"{words.MIX[key]} of {source} in stage {stage}", x, y, f"stages.{stage}.mix.{source}.{key}"),
                stage=stage,
                source=source,
                show=show,
            )


def _train(stage: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Cause]:
    for module in sorted(a["lr"].keys() | b["lr"].keys()):
        x, y = a["lr"].get(module), b["lr"].get(module)
        if x != y:
            yield _cause(
                *(
                    "learning_rate",
                    f"learning rate of {module} in stage {stage}",
                    x,
                    y,
                    f"stages.{stage}.train.lr.{module}",
                ),
                stage=stage,
                show=words.rate,
            )
    for key, what in words.TRAIN.items():
        x, y = (side.get(key, _default(Train, key)) for side in (a, b))
        if isinstance(x, tuple):
            x = list(x)
        if x == y or (key == "decay" and a["schedule"] != b["schedule"]):
            continue
        yield _cause(
            *(
                "batch" if key == "batch" else "training",
                f"{what} of stage {stage}",
                x,
                y,
                f"stages.{stage}.train.{key}",
            ),
            stage=stage,
        )


def _cause(
    kind: str,
    what: str,
    a: Any,
    b: Any,
    key: str,
    *,
    stage: str | None = None,
    source: str | None = None,
    show: Callable[[Any], str] | None = None,
) -> Cause:
    text = words.sentence(what, a, b) if show is None else f"{what}: {show(a)} -> {show(b)}"
    return Cause(kind=kind, text=text, key=key, stage=stage, source=source, a=a, b=b)


@cache
def _default(struct: type[msgspec.Struct], key: str) -> Any:
    """What a key says that later specs have and that the canonical form leaves out where it says nothing."""
    field = _fields(struct)[key]
    if field.default is not msgspec.NODEFAULT:
        return msgspec.to_builtins(field.default)
    return None if field.default_factory is msgspec.NODEFAULT else field.default_factory()


@cache
def _fields(struct: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {each.name: each for each in msgspec.structs.fields(struct)}
