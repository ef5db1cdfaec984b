"""A lock planned again: its sources are gone from sight, but what a plan needs of them is in the cache, by digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mixc.cache.use import Use
from mixc.emit.lock import Lock, LockedFragment
from mixc.emit.settings import train_settings
from mixc.errors import MixcError
from mixc.measure.family import FAMILIES, geometry
from mixc.measure.object import FACTS, object_digest, object_path, read_info, reject_counts
from mixc.measure.template import Template, template_of
from mixc.measure.tokenizer import Tokenizer
from mixc.plan.load import PlannedFragment
from mixc.plan.run import plan
from mixc.plan.tables import PlanSummary
from mixc.signals.locked import found_signals, pinned
from mixc.signals.run import wanted_signals
from mixc.sources.formats.detect import FORMATS
from mixc.sources.fragment import Fragment
from mixc.spec.schema import Spec
from shards.manifest import Geometry, TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLock:
    geometry: Geometry
    train: dict[str, TrainSettings]
    summary: PlanSummary
    objects: list[Path]
    """Of the lock's fragments, in their order."""
    signals: list[Mapping[str, Path]]


def plan_lock(lock: Lock, out: Path, use: Use) -> PlannedLock | str:
    """Plan the lock's spec over the objects of its fragments, or say why that cannot be done. Reads no source."""
    spec = msgspec.convert(lock.spec, Spec)
    if spec.continue_from is not None:
        return "it continues another run, which it does not hold"
    definition = use.cache / "tokenizers" / lock.tokenizer / "tokenizer.json"
    if not definition.is_file():
        return "its tokenizer is not in this machine's cache"
    template = template_of(lock.template)
    if spec.model not in FAMILIES or template is None or template.name != FAMILIES[spec.model].template:
        return "this mixc has another chat template for its model"
    locked = [(name, each) for name in sorted(lock.sources) for each in lock.sources[name]]
    try:
        shape = geometry(spec, Tokenizer(definition, lock.tokenizer, fast=False))
        candidates = [_digests(lock, spec, shape, template, name, each) for name, each in locked]
        wanted = pinned(wanted_signals(spec, benchmark=None), lock.signals)
    except MixcError as error:
        return error.what
    use.objects(digest for some in candidates for digest in some)
    fragments: list[PlannedFragment] = []
    rejects: dict[str, dict[str, int]] = {}
    for (name, each), some in zip(locked, candidates, strict=True):
        info = next((info for digest in some if (info := read_info(object_path(use.cache, digest)))), None)
        if info is None:
            return f"objects of {name} are not in this machine's cache"
        signals = found_signals(use.cache, info.digest, wanted)
        if lost := next((signal.name for signal in wanted if signal.name not in signals), None):
            return f"the signal {lost} of {name} is not in this machine's cache"
        folder = object_path(use.cache, info.digest)
        counts = rejects.setdefault(name, {})
        for reason, count in (reject_counts(folder) if info.rejects else {}).items():
            counts[reason] = counts.get(reason, 0) + count
        fragments.append(
            PlannedFragment(
                source=name,
                path=each.path,
                digest=each.digest,
                object=info.digest,
                facts=folder / FACTS,
                samples=info.samples,
                rejects=info.rejects,
                signals=signals,
            )
        )
    try:
        summary = plan(spec, fragments, geometry=shape, out=out, rejects=rejects)
    except MixcError as error:
        return error.what
    return PlannedLock(
        geometry=shape,
        train={
            stage.name: train_settings(stage, planned)
            for stage, planned in zip(spec.stages, summary.stages, strict=True)
        },
        summary=summary,
        objects=[fragment.facts.parent for fragment in fragments],
        signals=[fragment.signals for fragment in fragments],
    )


def _digests(
    lock: Lock, spec: Spec, shape: Geometry, template: Template, source: str, locked: LockedFragment
) -> list[str]:
    """What the object of a fragment may be called: a lock does not say in which format its file was."""
    return [
        object_digest(
            Fragment(source=source, path=locked.path, format=format, digest=locked.digest, bytes=0),
            spec.sources[source],
            geometry=shape,
            tokenizer=lock.tokenizer,
            template=template,
        )
        for format in FORMATS
    ]
