"""What a well-typed spec can still get wrong, all of it at once and before any data is read.

Nothing here opens a source: whether a column exists is the plan's to say. Rooms stay apart: the models
that exist are an argument.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
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
from mixc.spec.load import KeyPath, LoadedSpec
from mixc.spec.quantity import Budget, parse_budget, parse_count, parse_warmup
from mixc.spec.schema import MixEntry, Order, Source, Stage

IMAGE_PLACEHOLDER = "<image>"
"""What stands for an image in a user's turn; mixc.sources.sample has the same, but imports what reads
data."""

_WITH_IMAGE = ("caption", "ocr")
"""Kinds whose every sample has an image. Some of a chat source's may."""


def check(
    loaded: LoadedSpec,
    *,
    models: Collection[str] | None = None,
    tokens_per_tile: Mapping[str, int] | None = None,
) -> list[str]:
    """The warnings, one line each. Raises InvalidSpecError with every mistake, warnings included, if there is
    an error.

    `models` are the names that `model` may have; None leaves it unchecked. `tokens_per_tile`, by model,
    allows checks of tile limits against sequence lengths. Imports duckdb when the spec has expressions.
    """
    found = diagnose(loaded, models=models, tokens_per_tile=tokens_per_tile)
    if any(d.severity == "error" for d in found):
        raise InvalidSpecError(found)
    return [f"{d.place}: {d.message}" + (f" ({d.mend})" if d.mend else "") for d in found]


def diagnose(
    loaded: LoadedSpec,
    *,
    models: Collection[str] | None = None,
    tokens_per_tile: Mapping[str, int] | None = None,
) -> tuple[Diagnostic, ...]:
    """All errors and warnings, in the order of the text. Raises nothing."""
    return _Check(loaded, models, tokens_per_tile or {}).run()


def mix_entries(mix: Mapping[str, float | MixEntry] | Iterable[str]) -> dict[str, MixEntry]:
    """A stage's mix, each way of writing it in its long form, by source name in sorted order."""
    if not isinstance(mix, Mapping):
        return {name: MixEntry() for name in sorted(mix)}
    return {
        name: entry if isinstance(entry, MixEntry) else MixEntry(weight=float(entry))
        for name, entry in sorted(mix.items())
    }


class _Check:
    def __init__(self, loaded: LoadedSpec, models: Collection[str] | None, tokens_per_tile: Mapping[str, int]) -> None:
        self.loaded = loaded
        self.spec = loaded.spec
        self.models = models
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
        self._same_name([(s.name, ("stages", i, "name")) for i, s in enumerate(spec.stages)], "stage")
        for name, source in spec.sources.items():
            self._source(("sources", name), source)
        for number, stage in enumerate(spec.stages):
            self._stage(("stages", number), stage)
        used = {name for stage in spec.stages for name in stage.mix}
        for name in spec.sources:
            if name not in used and spec.stages:
                self._say(f"no stage uses the source `{name}`", ("sources", name), severity="warning", at_key=True)
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

    # Sources

    def _source(self, path: KeyPath, source: Source) -> None:
        self._paths(path, source)
        self._kind(path, source)
        for key in ("text", "image", "image_root", "messages"):
            value = getattr(source, key)
            if value is not None and not value.strip():
                self._say(f"`{key}` is empty", (*path, key), mend="leave the key out for its default")
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

    # Stages

    def _stage(self, path: KeyPath, stage: Stage) -> None:
        entries = mix_entries(stage.mix)
        self._mix(path, stage, entries)
        budget = self._budget(path, stage, entries)
        self._order(path, stage)
        self._train(path, stage, budget)
        self._tiles(path, stage, entries)

    def _mix(self, path: KeyPath, stage: Stage, entries: dict[str, MixEntry]) -> None:
        listed = isinstance(stage.mix, list)
        if not entries:
            self._say("the mix is empty", (*path, "mix"), mend="name at least one source")
        for i, name in enumerate(stage.mix):
            at: KeyPath = (*path, "mix", i if listed else name)
            if name not in self.spec.sources:
                self._say(
                    f"a share for `{printable(name)}`, which is no source",
                    at,
                    mend=suggest(name, self.spec.sources),
                    at_key=not listed,
                )
            elif listed and name in list(stage.mix)[:i]:
                self._say(f"the source `{name}` is given twice", at, mend="keep one of them")
        for name, entry in entries.items():
            at = (*path, "mix", name)
            if entry.weight is not None and not (math.isfinite(entry.weight) and entry.weight > 0):
                self._say(
                    f"the share of `{printable(name)}` must be above 0, got {entry.weight:g}",
                    at,
                    mend="leave the source out of the mix to use none of it",
                )
            self._expression(entry.where, (*at, "where"))
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
            for name in entries:
                source = self.spec.sources.get(name)
                if source is not None and source.kind == "text":
                    self._say(
                        f"`{name}` has no images, and the stage's shares count images",
                        (*path, "mix", list(stage.mix).index(name) if listed else name),
                        mend="write `unit: tokens` or `unit: samples`",
                        at_key=not listed,
                    )

    def _budget(self, path: KeyPath, stage: Stage, entries: dict[str, MixEntry]) -> Budget | None:
        at = (*path, "budget")
        try:
            budget = parse_budget(stage.budget, stage.unit)
        except SpecError as error:
            self._say(error.what, at, why=error.why, mend=error.mend)
            return None
        kinds = {self.spec.sources[name].kind for name in entries if name in self.spec.sources}
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
                f"a budget of {budget} cannot fill one step of {stage.train.batch:,} packs",
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
        try:
            parse_warmup(train.warmup)
        except SpecError as error:
            self._say(error.what, (*at, "warmup"), why=error.why, mend=error.mend)
        for i, beta in enumerate(train.betas):
            if not 0 <= beta < 1:
                self._say(f"a beta must be at least 0 and below 1, got {beta:g}", (*at, "betas", i))
        if train.eps <= 0:
            self._say(f"`eps` must be above 0, got {train.eps:g}", (*at, "eps"))

    def _tiles(self, path: KeyPath, stage: Stage, entries: dict[str, MixEntry]) -> None:
        if self.tile is None:
            return
        sources = [self.spec.sources[name] for name in entries if name in self.spec.sources]
        least = self.tile + 2  # its start and end token
        if stage.sequence_length < least and any(s.kind in _WITH_IMAGE for s in sources):
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
