"""What a well-typed spec can still get wrong, all of it at once and before any data is read.

Nothing here opens a source: whether a column exists is the plan's to say, and whether another build has a
stage is the compile's. Rooms stay apart: the models and the signals that exist are arguments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from fractions import Fraction

from mixc.errors import SpecError
from mixc.spec.diagnostics import (
    Diagnostic,
    InvalidSpecError,
    Severity,
    in_order,
    printable,
    suggest,
)
from mixc.spec.expression import ExpressionError, parse_expression
from mixc.spec.groups import MAX_DEPTH, Route, reach
from mixc.spec.load import KeyPath, LoadedSpec
from mixc.spec.quantity import Budget, parse_budget, parse_count, parse_held_out, parse_warmup
from mixc.spec.schema import AdaLRS, MixEntry, Order, Signal, Source, Stage
from shards.counted import counted

IMAGE_PLACEHOLDER = "<image>"
"""What stands for an image in a user's turn; mixc.sources.sample has the same, but imports what reads
data."""

EVERY_SAMPLE = (
    *("tokens", "supervised_tokens", "images", "tiles", "turns", "characters"),
    *("width", "height", "image_bytes"),
)
"""Signals that need no asking for (mixc.measure.facts.SIGNALS; a test compares the two)."""

_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)

_WITH_IMAGE = ("caption", "ocr")
"""Kinds whose every sample has an image. Some of a chat source's may."""


def check(
    loaded: LoadedSpec,
    *,
    models: Collection[str] | None = None,
    tokens_per_tile: Mapping[str, int] | None = None,
    signals: Collection[str] | None = None,
) -> list[str]:
    """The warnings, one line each. Raises InvalidSpecError with every mistake, warnings included, if there is
    an error.

    `models` are the names that `model` may have, `signals` those of the signals that can be asked for; None
    leaves them unchecked. `tokens_per_tile`, by model, allows checks of tile limits against sequence lengths.
    Imports duckdb when the spec has expressions.
    """
    found = diagnose(loaded, models=models, tokens_per_tile=tokens_per_tile, signals=signals)
    if any(d.severity == "error" for d in found):
        raise InvalidSpecError(found)
    return [f"{d.place}: {d.message}" + (f" ({d.mend})" if d.mend else "") for d in found]


def diagnose(
    loaded: LoadedSpec,
    *,
    models: Collection[str] | None = None,
    tokens_per_tile: Mapping[str, int] | None = None,
    signals: Collection[str] | None = None,
) -> tuple[Diagnostic, ...]:
    """All errors and warnings, in the order of the text. Raises nothing."""
    return _Check(loaded, models, tokens_per_tile or {}, signals).run()


def mix_entries(mix: Mapping[str, float | MixEntry] | Iterable[str]) -> dict[str, MixEntry]:
    """A stage's mix, each way of writing it in its long form, by the name of source or group in sorted order."""
    if not isinstance(mix, Mapping):
        return {name: MixEntry() for name in sorted(mix)}
    return {
        name: entry if isinstance(entry, MixEntry) else MixEntry(weight=float(entry))
        for name, entry in sorted(mix.items())
    }


def _shown(route: Route) -> str:
    """`images > web > captions`."""
    return "`" + printable(" > ".join(route), 200) + "`"


class _Check:
    def __init__(
        self,
        loaded: LoadedSpec,
        models: Collection[str] | None,
        tokens_per_tile: Mapping[str, int],
        signals: Collection[str] | None,
    ) -> None:
        self.loaded = loaded
        self.spec = loaded.spec
        self.models = models
        self.signals = signals
        self.tile = tokens_per_tile.get(loaded.spec.model)
        self.found: list[Diagnostic] = []

    def run(self) -> tuple[Diagnostic, ...]:
        spec = self.spec
        if self.models is not None and spec.model not in self.models:
            self._say(f"there is no model `{spec.model}`", ("model",), mend=suggest(spec.model, self.models))
        if not spec.tokenizer.strip():
            self._say("`tokenizer` is empty", ("tokenizer",), mend="leave the key out for qwen2.5")
        if not spec.sources:
            self._say("there is no source", ("sources",), mend="name at least one")
        if not spec.stages:
            self._say("there is no stage", ("stages",), mend="add at least one")
        self._same_name([(name, ("sources", name)) for name in spec.sources], "source")
        self._same_name([(name, ("groups", name)) for name in spec.groups], "group")
        self._same_name([(s.name, ("stages", i, "name")) for i, s in enumerate(spec.stages)], "stage")
        for name, source in spec.sources.items():
            self._source(("sources", name), source)
        for number, stage in enumerate(spec.stages):
            self._stage(("stages", number), stage)
        self._groups()
        self._signals()
        self._dedup()
        self._decontaminate()
        self._held_out()
        if spec.continue_from is not None and not spec.continue_from.build.strip():
            self._say("the build is empty", ("continue_from", "build"), mend="name the folder of a build")
        self._unused()
        return in_order(self.found)

    def _say(
        self,
        message: str,
        path: KeyPath,
        *,
        characters: tuple[int, int] | None = None,
        severity: Severity = "error",
        why: str = "",
        mend: str = "",
        at_key: bool = False,
    ) -> None:
        place = self.loaded.key_place(path) if at_key else self.loaded.place(path, characters)
        self.found.append(Diagnostic(message=message, place=place, severity=severity, why=why, mend=mend))

    def _same_name(self, names: list[tuple[str, KeyPath]], noun: str) -> None:
        """Names become parts of file names, and some file systems ignore case."""
        seen: dict[str, tuple[str, KeyPath]] = {}
        for name, path in names:
            first, where = seen.setdefault(name.casefold(), (name, path))
            if where == path:
                continue
            differ = "" if first == name else f" differ only in case from `{first}`"
            self._say(
                f"two {noun}s are called `{name}`" if not differ else f"the name `{name}` must not{differ}",
                path,
                why=f"the first is at {self.loaded.key_place(where)}",
                mend="rename one",
                at_key=noun == "source",
            )

    def _expression(self, text: str | None, path: KeyPath) -> None:
        if text is None:
            return
        try:
            parse_expression(text)
        except ExpressionError as error:
            self._say(error.what, path, characters=(error.start, error.end), why=error.why, mend=error.mend)

    def _unused(self) -> None:
        spec = self.spec
        if not spec.stages or any(entry.held_out for stage in spec.stages for entry in mix_entries(stage.mix).values()):
            return  # one that takes what is held out has its other sources for their part in cleaning
        found = reach({name: None for stage in spec.stages for name in stage.mix}, spec.groups)
        reached = {name for route in found.sources.values() for name in route}
        reached |= {name for _, route in found.twice for name in route}
        reached |= {name for route in found.cycles for name in route}
        for noun, names in (("source", spec.sources), ("group", spec.groups)):
            for name in names:
                at: KeyPath = (f"{noun}s", name)
                if name not in reached:
                    self._say(f"no stage uses the {noun} `{name}`", at, severity="warning", at_key=True)

    # Sources

    def _source(self, path: KeyPath, source: Source) -> None:
        self._paths(path, source)
        self._kind(path, source)
        for key in ("text", "image", "image_root", "messages", "frames"):
            value = getattr(source, key)
            if value is not None and not value.strip():
                self._say(f"`{key}` is empty", (*path, key), mend="leave the key out for its default")
        for name, column in (source.columns or {}).items():
            if not name.strip() or not column.strip():
                self._say("a column's name is empty", (*path, "columns", name), mend="write `new: old`")
        self._expression(source.where, (*path, "where"))

    def _paths(self, path: KeyPath, source: Source) -> None:
        paths = [source.path] if isinstance(source.path, str) else source.path
        if not paths:
            self._say("the source has no path", (*path, "path"), mend="name a file or a glob")
        for i, each in enumerate(paths):
            at: KeyPath = (*path, "path") if isinstance(source.path, str) else (*path, "path", i)
            if not each.strip():
                self._say("the path is empty", at, mend="name a file or a glob")
            elif each in paths[:i]:
                self._say(f"the path `{printable(each)}` is given twice", at, mend="keep one of them")

    def _kind(self, path: KeyPath, source: Source) -> None:
        kind = source.kind
        foreign = {
            "messages": (kind != "chat", "`messages` is for kind chat"),
            "text": (kind == "chat", "kind chat has its text in `messages`"),
            "image": (kind == "text", "kind text has no images"),
            "image_root": (kind == "text", "kind text has no images"),
            "frames": (kind == "text", "kind text has no images"),
            "messages_format": (kind != "chat", "`messages_format` is for kind chat"),
            "template": (kind == "text", "a text has no turns"),
            "prompt": (kind not in _WITH_IMAGE, "`prompt` is the user's turn of kinds caption and ocr"),
        }
        for key, (wrong, why) in foreign.items():
            if wrong and getattr(source, key) is not None:
                self._say(
                    f"`{key}` has no meaning for kind {kind}",
                    (*path, key),
                    why=why,
                    mend="remove it, or change `kind`",
                    at_key=True,
                )
        if source.frames is not None and source.image is not None:
            self._say(
                "`frames` and `image` exclude each other",
                (*path, "image"),
                why="the images of such a source are the frames",
                mend="keep one of them; make two sources of one that has both",
                at_key=True,
            )
        if source.max_frames is not None and source.frames is None:
            self._say("`max_frames` has no meaning without `frames`", (*path, "max_frames"), at_key=True)
        if source.number_images and (kind == "text" or source.frames is not None):
            why = "kind text has no images" if kind == "text" else "frames are numbered as `Frame-1: `"
            self._say("`number_images` has no meaning here", (*path, "number_images"), why=why, at_key=True)
        if not source.decode_images:
            self._undecoded(path, kind)
        if source.too_long == "split" and kind != "text":
            self._say(
                f"a sample of kind {kind} cannot be split",
                (*path, "too_long"),
                mend="`drop`, or a longer sequence_length",
            )
        if source.prompt is not None and IMAGE_PLACEHOLDER in source.prompt:
            at = source.prompt.index(IMAGE_PLACEHOLDER)
            self._say(
                f"a prompt must not hold `{IMAGE_PLACEHOLDER}`",
                (*path, "prompt"),
                characters=(at, at + len(IMAGE_PLACEHOLDER)),
                why="the image is put before the prompt",
                mend="remove it",
            )

    def _undecoded(self, path: KeyPath, kind: str) -> None:
        """`decode_images: false`, which perceptual hashes would take for a promise that the images decode."""
        why = ""
        if kind == "text":
            why = "kind text has no images"
        elif self.spec.dedup.image is not None:
            why = "`dedup.image` decodes every image"
        elif self.spec.decontaminate is not None and self.spec.decontaminate.phash is not None:
            why = "`decontaminate.phash` decodes every image"
        if why:
            self._say(
                "`decode_images: false` cannot be had here",
                (*path, "decode_images"),
                why=why,
                mend="remove it",
                at_key=True,
            )

    # Groups, signals, samples that count as the same or are kept from training

    def _groups(self) -> None:
        groups, sources = self.spec.groups, self.spec.sources
        folded = {name.casefold(): name for name in sources}
        for name, members in groups.items():
            at: KeyPath = ("groups", name)
            listed = isinstance(members, list)
            if name.casefold() in folded:
                self._say(
                    f"the group `{name}` has the name of a source",
                    at,
                    why=f"the source is at {self.loaded.key_place(('sources', folded[name.casefold()]))}",
                    mend="rename one",
                    at_key=True,
                )
            if not members:
                self._say(f"the group `{name}` is empty", at, mend="name at least one source", at_key=True)
            for i, member in enumerate(members):
                here: KeyPath = (*at, i if listed else member)
                if member not in sources and member not in groups:
                    self._say(
                        f"`{printable(member)}` in group `{name}` is no source or group",
                        here,
                        mend=suggest(member, {*sources, *groups} - {name}),
                        at_key=not listed,
                    )
                elif listed and member in list(members)[:i]:
                    self._say(f"`{member}` is given twice", here, mend="keep one of them")
        said: set[frozenset[str]] = set()
        deep = False
        for name in sorted(groups):
            found = reach([name], groups)
            if found.deep and not deep:
                deep = True
                self._say(f"the group `{name}` holds groups more than {MAX_DEPTH} deep", ("groups", name), at_key=True)
            for route in found.cycles:
                circle = route[route.index(route[-1]) :]
                if frozenset(circle) not in said:
                    said.add(frozenset(circle))
                    self._say(
                        f"the group `{circle[0]}` holds itself",
                        ("groups", circle[0]),
                        why=" > ".join(circle),
                        mend="take one group out of the other",
                        at_key=True,
                    )
            for first, second in found.twice:
                if first != second and first[1] != second[1]:  # else told elsewhere: in a list, or of a group in it
                    self._say(
                        f"`{second[-1]}` has two places in group `{name}`",
                        ("groups", name),
                        why=f"{_shown(first)}; {_shown(second)}",
                        mend="take it out of one",
                        at_key=True,
                    )

    def _signals(self) -> None:
        names: dict[str, int] = {}
        for i, given in enumerate(self.spec.signals):
            signal = Signal(name=given) if isinstance(given, str) else given
            at: KeyPath = ("signals", i) if isinstance(given, str) else ("signals", i, "name")
            name = printable(signal.name)
            if names.setdefault(signal.name, i) != i:
                self._say(f"the signal `{name}` is given twice", at, mend="keep one of them")
            elif signal.name in EVERY_SAMPLE:
                self._say(f"every sample has the signal `{name}`", at, mend="leave it out, or take another name")
            elif signal.function is None:
                if self.signals is not None and signal.name not in self.signals:
                    near = suggest(signal.name, self.signals)
                    own = "one of your own needs `function`, as in {name: mine, function: my.module:signal}"
                    self._say(f"there is no signal `{name}`", at, mend=f"{near}; {own}".removeprefix("; "))
            elif self.signals is not None and signal.name in self.signals:
                self._say(f"`{name}` is a signal of mixc and needs no function", at, mend="take another name")
            elif not _FUNCTION.fullmatch(signal.function):
                self._say(
                    f"`{printable(signal.function)}` is not the place of a function",
                    ("signals", i, "function"),
                    mend="write `package.module:function`",
                )

    def _dedup(self) -> None:
        dedup = self.spec.dedup
        for i, name in enumerate(dedup.prefer):
            at: KeyPath = ("dedup", "prefer", i)
            if name not in self.spec.sources:
                group = "it is a group; name its sources" if name in self.spec.groups else ""
                self._say(
                    f"a preference for `{printable(name)}`, which is no source",
                    at,
                    mend=group or suggest(name, self.spec.sources),
                )
            elif name in dedup.prefer[:i]:
                self._say(f"the source `{name}` is given twice", at, mend="keep one of them")
        if dedup.prefer and not (dedup.exact or dedup.minhash or dedup.image):
            self._say(
                "`prefer` has no effect: no samples count as the same",
                ("dedup", "prefer"),
                severity="warning",
                mend="set exact, minhash or image",
                at_key=True,
            )

    def _decontaminate(self) -> None:
        decontaminate, at = self.spec.decontaminate, ("decontaminate",)
        if decontaminate is None:
            return
        given = decontaminate.against
        paths = [given] if isinstance(given, str) else given
        if not paths:
            self._say("there is nothing to decontaminate against", (*at, "against"), mend="name a file or a glob")
        for i, path in enumerate(paths):
            if not path.strip():
                here: KeyPath = (*at, "against") if isinstance(given, str) else (*at, "against", i)
                self._say("the path is empty", here, mend="name a file or a glob")
        if decontaminate.ngram is None and decontaminate.phash is None:
            self._say(
                "`decontaminate` looks at neither texts nor images",
                at,
                mend="set ngram, phash or both, or remove it",
                at_key=True,
            )

    def _held_out(self) -> None:
        for name, amount in self.spec.held_out.items():
            at: KeyPath = ("held_out", name)
            if name not in self.spec.sources:
                group = "it is a group; name its sources" if name in self.spec.groups else ""
                self._say(
                    f"`{printable(name)}` in `held_out` is no source",
                    at,
                    mend=group or suggest(name, self.spec.sources),
                    at_key=True,
                )
            try:
                parse_held_out(amount)
            except SpecError as error:
                self._say(error.what, at, why=error.why, mend=error.mend)
        self._taken()

    def _taken(self) -> None:
        """What is held out and the rest of a source are for two specs: one is evaluated on, the other trained from."""
        stages, groups = self.spec.stages, self.spec.groups
        rest: dict[str, str] = {}
        for stage in stages:
            entries = mix_entries(stage.mix)
            for name in reach([name for name, entry in entries.items() if not entry.held_out], groups).sources:
                rest.setdefault(name, stage.name)
        for number, stage in enumerate(stages):
            for name, entry in mix_entries(stage.mix).items():
                at: KeyPath = ("stages", number, "mix", name, "held_out")
                for source in reach([name], groups).sources if entry.held_out else ():
                    shown = printable(source)
                    if source in self.spec.sources and source not in self.spec.held_out:
                        self._say(
                            f"nothing is held out of `{shown}`",
                            at,
                            mend=f"write `held_out: {{{shown}: 1%}}` in the spec that is trained from, and extend that one",
                        )
                    elif source in rest:
                        self._say(
                            f"this takes what is held out of `{shown}`, and stage `{rest[source]}` takes the rest",
                            at,
                            why="so one build would train on what it evaluates on",
                            mend="evaluate from a spec of its own that extends the other; `- null` as the first of its"
                            " `stages` leaves the other's out",
                        )

    # Stages

    def _stage(self, path: KeyPath, stage: Stage) -> None:
        entries = mix_entries(stage.mix)
        self._mix(path, stage, entries)
        self._mix_end(path, stage, entries)
        members = [
            self.spec.sources[name] for name in reach(entries, self.spec.groups).sources if name in self.spec.sources
        ]
        budget = self._budget(path, stage, entries, members)
        self._order(path, stage)
        self._train(path, stage, budget)
        self._tiles(path, stage, members)

    def _mix(self, path: KeyPath, stage: Stage, entries: dict[str, MixEntry]) -> None:
        listed = isinstance(stage.mix, list)
        known = {*self.spec.sources, *self.spec.groups}

        def at(name: str) -> KeyPath:
            return (*path, "mix", list(stage.mix).index(name) if listed else name)

        if not entries:
            self._say("the mix is empty", (*path, "mix"), mend="name at least one source")
        for i, name in enumerate(stage.mix):
            here: KeyPath = (*path, "mix", i if listed else name)
            if name not in known:
                noun = "source or group" if self.spec.groups else "source"
                self._say(
                    f"a share for `{printable(name)}`, which is no {noun}",
                    here,
                    mend=suggest(name, known),
                    at_key=not listed,
                )
            elif listed and name in list(stage.mix)[:i]:
                noun = "source" if name in self.spec.sources else "group"
                self._say(f"the {noun} `{name}` is given twice", here, mend="keep one of them")
        for first, second in reach(entries, self.spec.groups).twice:
            if first[0] != second[0]:  # else the group itself is at fault, which is said there
                self._say(
                    f"`{printable(second[-1])}` has two places in the mix",
                    at(second[0]),
                    why=f"{_shown(first)}; {_shown(second)}",
                    mend="take it out of one",
                    at_key=not listed,
                )
        for name, entry in entries.items():
            here = (*path, "mix", name)
            self._weight(stage, name, entry, here)
            self._expression(entry.where, (*here, "where"))
            if entry.balance is not None:
                self._expression(entry.balance.by, (*here, "balance", "by"))
            if entry.quantile is not None:
                self._expression(entry.quantile.by, (*here, "quantile", "by"))
                if entry.quantile.at_least >= entry.quantile.below:
                    self._say(
                        f"no rank is at least {entry.quantile.at_least:g} and below {entry.quantile.below:g}",
                        (*here, "quantile"),
                        mend="make `at_least` the smaller",
                        at_key=True,
                    )
        without = [name for name, entry in entries.items() if entry.weight is None]
        if without and len(without) < len(entries):
            self._say(
                f"`{printable(without[0])}` has no weight, but other sources of the stage have",
                (*path, "mix", without[0]),
                why="a stage's shares are all given, or all follow the sizes of the sources",
                mend="give it a weight, or remove the other weights",
                at_key=True,
            )
        if stage.unit == "images":
            for route in reach(entries, self.spec.groups).sources.values():
                source = self.spec.sources.get(route[-1])
                if source is not None and source.kind == "text":
                    self._say(
                        f"`{route[-1]}` has no images, and the stage's shares count images",
                        at(route[0]),
                        why=_shown(route) if len(route) > 1 else "",
                        mend="write `unit: tokens` or `unit: samples`",
                        at_key=not listed,
                    )

    def _weight(self, stage: Stage, name: str, entry: MixEntry, at: KeyPath) -> None:
        weight, end = entry.weight, (stage.mix_end or {}).get(name, 0.0)
        if weight is None or (math.isfinite(weight) and weight > 0) or (weight == 0 and end > 0):
            return
        self._say(
            f"the share of `{printable(name)}` must be above 0, got {weight:g}",
            at,
            mend="give it a share in `mix_end`, or take it out of both"
            if weight == 0 and name in (stage.mix_end or {})
            else "leave the source out of the mix to use none of it",
        )

    def _mix_end(self, path: KeyPath, stage: Stage, entries: dict[str, MixEntry]) -> None:
        at, end = (*path, "mix_end"), stage.mix_end
        if end is None:
            if stage.mix_schedule != "linear":
                self._say(
                    "`mix_schedule` without `mix_end` has no meaning",
                    (*path, "mix_schedule"),
                    mend="say where the shares go to in `mix_end`, or remove it",
                    at_key=True,
                )
            return
        if any(entry.weight is None for entry in entries.values()):
            self._say(
                "`mix_end` needs weights in `mix`",
                at,
                why="shares can only go from given ones to given ones",
                mend="write `mix: {name: weight, ...}`",
                at_key=True,
            )
        for name in end:
            if name not in entries:
                self._say(
                    f"`{printable(name)}` is in `mix_end` but not in `mix`",
                    (*at, name),
                    mend=f"{suggest(name, [n for n in entries if n not in end])}; a share may start at 0".removeprefix(
                        "; "
                    ),
                    at_key=True,
                )
        missing = [name for name in entries if name not in end]
        if missing:
            self._say(
                f"`mix_end` has no share for {', '.join(f'`{printable(name)}`' for name in missing)}",
                at,
                mend="give each its share at the stage's end, 0 if it is to end",
                at_key=True,
            )
        if not any(end.values()):
            self._say("every share of `mix_end` is 0", at, mend="make one positive", at_key=True)
        elif not any(entry.weight for entry in entries.values()) and not any(
            e.weight is None for e in entries.values()
        ):
            self._say("every share at the stage's start is 0", (*path, "mix"), mend="make one positive", at_key=True)

    def _budget(
        self, path: KeyPath, stage: Stage, entries: dict[str, MixEntry], members: list[Source]
    ) -> Budget | None:
        at = (*path, "budget")
        try:
            budget = parse_budget(stage.budget, stage.unit)
        except SpecError as error:
            self._say(error.what, at, why=error.why, mend=error.mend)
            return None
        kinds = {source.kind for source in members}
        if budget.unit == "images" and kinds == {"text"}:
            self._say(
                "the budget counts images, and no source of the stage has any",
                at,
                mend="count tokens or samples",
            )
        if budget.unit == "epochs" and stage.on_exhausted == "fail" and entries:
            caps = [entry.max_epochs for entry in entries.values()]
            if all(cap is not None and Fraction(cap) < budget.amount for cap in caps):
                self._say(
                    f"the budget is {budget}, and no source may be used so often",
                    at,
                    why=f"max_epochs is at most {max(cap for cap in caps if cap is not None):g}",
                    mend="raise max_epochs, lower the budget, or set on_exhausted",
                )
        if budget.unit == "samples" and budget.amount < stage.train.batch:
            self._say(
                f"a budget of {budget} cannot fill one step of {counted(stage.train.batch, 'pack')}",
                at,
                severity="warning",
                why="a pack holds at least one sample; the packs that stay empty train nothing",
                mend="raise the budget or lower train.batch",
            )
        return budget

    def _order(self, path: KeyPath, stage: Stage) -> None:
        if not isinstance(stage.order, Order):
            return
        at = (*path, "order")
        self._expression(stage.order.by, (*at, "by"))
        if stage.order.by is None and stage.order.direction == "descending":
            self._say(
                "a direction without `by` has no meaning",
                (*at, "direction"),
                mend="name what to order by, or remove it",
                at_key=True,
            )
        try:
            parse_count(stage.order.window)
        except SpecError as error:
            self._say(error.what, (*at, "window"), why=error.why, mend=error.mend)

    def _train(self, path: KeyPath, stage: Stage, budget: Budget | None) -> None:
        train, at = stage.train, (*path, "train")
        if not train.lr:
            self._say(
                "no module has a learning rate, so nothing would be trained",
                (*at, "lr"),
                mend="give one to vision, projector or language",
                at_key=True,
            )
        for module, rate in sorted(train.lr.items()):
            if rate >= 1:
                self._say(
                    f"a learning rate of {rate:g} is a slip of the pen, most likely",
                    (*at, "lr", module),
                    severity="warning",
                )
        parts: list[tuple[str, str | int, KeyPath]]
        parts = [("a warm-up", train.warmup, ("warmup",)), ("a decay", train.decay, ("decay",))]
        if train.adalrs is not None:
            parts += [("a point", getattr(train.adalrs, key), ("adalrs", key)) for key in ("start", "end")]
        for what, value, place in parts:
            try:
                parse_warmup(value, what)
            except SpecError as error:
                self._say(error.what, (*at, *place), why=error.why, mend=error.mend)
        self._search(at, train.adalrs)
        for i, beta in enumerate(train.betas):
            if not 0 <= beta < 1:
                self._say(f"a beta must be at least 0 and below 1, got {beta:g}", (*at, "betas", i))
        if train.eps <= 0:
            self._say(f"`eps` must be above 0, got {train.eps:g}", (*at, "eps"))

    def _search(self, at: KeyPath, search: AdaLRS | None) -> None:
        if search is None:
            return
        with suppress(SpecError):
            start, end = parse_warmup(search.start), parse_warmup(search.end)
            if type(start) is type(end) and start >= end:
                self._say(
                    f"the search begins at {search.start} and ends at {search.end}",
                    (*at, "adalrs", "end"),
                    mend="let it end later",
                )

    def _tiles(self, path: KeyPath, stage: Stage, members: list[Source]) -> None:
        if self.tile is None:
            return
        least = self.tile + 2  # its start and end token
        if stage.sequence_length < least and any(s.kind in _WITH_IMAGE for s in members):
            self._say(
                f"no image fits into {stage.sequence_length:,} tokens",
                (*path, "sequence_length"),
                why=f"one tile of {self.spec.model} takes {self.tile:,}",
                mend=f"at least {least:,}",
            )
        elif stage.max_tiles is not None and stage.max_tiles * self.tile > stage.sequence_length:
            self._say(
                f"{stage.max_tiles:,} tiles never fit into {stage.sequence_length:,} tokens",
                (*path, "max_tiles"),
                severity="warning",
                why=f"one tile of {self.spec.model} takes {self.tile:,}",
                mend=f"at most {stage.sequence_length // self.tile:,} can be reached",
            )
