"""What a build is made from, found before anything is measured: the spec, the tokenizer, the template, the fragments. What
a lock pins of it is compared with what it pinned before the first sample is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixc.emit.lock import Found, Inputs
from mixc.errors import SourceError
from mixc.measure.family import FAMILIES, geometry
from mixc.measure.object import object_digest, object_path, read_info
from mixc.measure.template import THINK_TAGS, Template, template_named
from mixc.measure.tokenizer import Tokenizer, load_tokenizer
from mixc.plan.consumed import Consumed, read_consumed
from mixc.signals.names import SIGNALS
from mixc.signals.run import signals_to_pin
from mixc.sources.fragment import Fragment
from mixc.sources.scan import scan
from mixc.spec.canonical import canonical
from mixc.spec.check import check
from mixc.spec.load import LoadedSpec
from shards.manifest import Geometry


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A spec that was checked, with all that it names but its sources."""

    loaded: LoadedSpec
    warnings: list[str]
    geometry: Geometry
    tokenizer: Tokenizer
    template: Template
    consumed: Consumed | None
    """What the run used that the spec continues; None for a spec that continues none."""


def open_spec(loaded: LoadedSpec, cache: Path) -> Opened:
    """Raises MixcError for what is wrong with the spec, its tokenizer, or the build that it continues."""
    warnings = check_loaded(loaded)
    point = loaded.spec.continue_from
    consumed = None if point is None else read_consumed(loaded.base / point.build, point)
    tokenizer = load_tokenizer(loaded.spec.tokenizer, base=loaded.base, cache=cache)
    family = FAMILIES[loaded.spec.model]
    return Opened(
        loaded=loaded,
        warnings=warnings,
        geometry=geometry(loaded.spec, tokenizer),
        tokenizer=tokenizer,
        template=template_named(family.template, think=family.think and tokenizer.has_verbatim(THINK_TAGS)),
        consumed=consumed,
    )


def check_loaded(loaded: LoadedSpec) -> list[str]:
    """What the spec alone can get wrong. Gives the warnings; raises SpecError with every mistake."""
    return check(
        loaded,
        models=FAMILIES,
        tokens_per_tile={name: family.tokens_per_tile for name, family in FAMILIES.items()},
        signals=SIGNALS,
    )


def scan_sources(loaded: LoadedSpec, cache: Path) -> list[Fragment]:
    """The fragments of all sources. Raises SourceError with the place in the spec that names the source."""
    return [fragment for name in sorted(loaded.spec.sources) for fragment in _scan(loaded, name, cache)]


def _scan(loaded: LoadedSpec, name: str, cache: Path) -> list[Fragment]:
    try:
        return scan(name, loaded.spec.sources[name], loaded.base, cache)
    except SourceError as error:
        why = f"{error.where}: {error.why}" if error.why else error.where
        raise SourceError(error.what, where=loaded.locate(f"sources.{name}.path"), why=why, mend=error.mend) from error


def inputs(opened: Opened, fragments: Sequence[Fragment], cache: Path) -> Inputs:
    """What a lock pins of them. Samples are counted where the cache holds the fragment's object already."""
    spec, base = opened.loaded.spec, opened.loaded.base
    sources: dict[str, list[Found]] = {name: [] for name in sorted(spec.sources)}
    for fragment in sorted(fragments, key=lambda each: (each.source, each.digest, each.path)):
        digest = object_digest(
            fragment,
            spec.sources[fragment.source],
            geometry=opened.geometry,
            tokenizer=opened.tokenizer.digest,
            template=opened.template,
        )
        info = read_info(object_path(cache, digest))
        sources[fragment.source].append(
            Found(
                digest=fragment.digest, path=shown(fragment.path, base), samples=None if info is None else info.samples
            )
        )
    return Inputs(
        spec=canonical(spec),
        tokenizer=opened.tokenizer.digest,
        template=opened.template.digest,
        sources=sources,
        continues=None if opened.consumed is None else opened.consumed.digest,
        signals=signals_to_pin(spec, base),
    )


def shown(path: str, base: Path) -> str:
    """A fragment's path as a lock has it: relative to the spec's folder where it lies below that."""
    whole = Path(path)
    return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else path
