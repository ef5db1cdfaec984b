"""One static HTML page about a build: opens from a disk or an object store, without a server or a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from mixc.emit.lock import read_lock
from mixc.page.plots import Bin, Link, Node, flow, histogram, stacked
from mixc.page.render import render
from mixc.plan.drops import RULES
from mixc.plan.tables import PlanSummary, StagePlan
from mixc.report.figures import FILL_BINS, LENGTH_BINS, TILE_BARS, Division, Drops, Figures
from mixc.report.forecast import GPU, MFU, Forecast, forecast
from mixc.report.gallery import gallery
from mixc.report.left_out import left_out
from mixc.report.opened import open_plan, read_summary
from mixc.report.spread import Spread, spreads
from shards.atomic import atomic_write
from shards.manifest import Manifest, StageEntry, read_manifest

_NARROW = 360
"""Pixels of a plot of which three stand side by side."""
_TALL, _LOW = 160, 20
"""Pixels of the plot of a division; of one among a single source there is nothing to see."""
WORDS = {
    "wished": "the share of the stage that the spec asks for",
    "met": "the share of the stage that it has: samples are whole, and budgets end",
    "epochs": "how often a sample of the source is used, in the mean",
    "eligible": "samples of the source that pass the thresholds of the stage and fit into a pack",
    "supervised": "tokens that the model learns to write; it only reads the others",
    "tiles": "pieces of equal size that images are cut into, thumbnails counted",
    "fill": "tokens over the room in packs that are not empty",
    "packs": "sequences that samples are put into, end to end, to be trained on as one",
    "packs a step": "a pack is a sequence that samples are put into, end to end",
    "rank skew": "how much more work the busiest process of a step has than the idlest, over the mean; of the worst number of processes",
    "rule": "a sample is dropped by the last rule that it meets in any stage",
}
"""Of tables and texts, in a few words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFigures:
    """What is plotted of a stage."""

    plan: StagePlan
    entry: StageEntry
    lengths: Markup
    fill: Markup
    tiles: Markup | None
    """None where no sample has an image."""
    curriculum: Markup
    division: Division


def write_page(build: Path, out: Path, *, model: str | None = None, device: str = GPU, mfu: float = MFU) -> None:
    """Write the page of `build` to the file `out`. `model`, `device` and `mfu` are what its cost is forecast for; without a
    model, the build's. Raises ShardError or MixcError when the build cannot be read, or no cost be told."""
    manifest = read_manifest(build)
    lock = read_lock(build / "mixture.lock")
    summary = read_summary(build)
    with open_plan(build) as plan:
        figures = Figures(plan)
        totals = [figures.totals(number) for number in range(len(summary.stages))]
        cost = forecast(
            [(stage.train.lr, total) for stage, total in zip(manifest.stages, totals, strict=True)],
            model=model or manifest.geometry.name,
            device=device,
            mfu=mfu,
        )
        drops = figures.drops()
        rejects = left_out(plan, lock)
        wanted = [figures.some(number) for number in range(len(summary.stages))]
        stages = [
            _stage(figures, number, plan, entry, sorted(lock.sources))
            for number, (plan, entry) in enumerate(zip(summary.stages, manifest.stages, strict=True))
        ]
    spread, unknown = spreads(build)
    page = render(
        "report/report.html.j2",
        manifest=manifest,
        lock=lock,
        summary=summary,
        stages=stages,
        drops=sorted(drops, key=lambda drop: (_met(drop.rule), drop.rule, drop.source)),
        dropped=sum(drop.samples for drop in drops),
        rejects=rejects,
        words=WORDS,
        flow=_flow(summary, drops, sorted(lock.sources)),
        cost=cost,
        costs=_costs(manifest, cost),
        gallery=gallery(build, wanted),
        spreads=[(each, _spread(each)) for each in spread],
        unknown_spreads=unknown,
    )
    with atomic_write(out) as file:
        file.write(page.encode())


def _met(rule: str) -> int:
    """When a sample meets a rule; rules of another version of mixc come last."""
    return RULES.index(rule) if rule in RULES else len(RULES)


def _stage(figures: Figures, number: int, plan: StagePlan, entry: StageEntry, sources: Sequence[str]) -> StageFigures:
    longest = plan.sequence_length
    lengths = [
        Bin(label=_between(place, LENGTH_BINS, longest, "tokens"), counts=[count])
        for place, count in enumerate(figures.lengths(number, longest))
    ]
    fill = [
        Bin(label=_between(place, FILL_BINS, 100, "% full"), counts=[count])
        for place, count in enumerate(figures.fill(number, longest))
    ]
    counts = figures.tiles(number)
    tiles = [
        Bin(label=f"{place}{' or more' if place == TILE_BARS - 1 else ''} tiles", counts=[count])
        for place, count in enumerate(counts)
    ]
    division = figures.division(number, plan.steps, sources)
    return StageFigures(
        plan=plan,
        entry=entry,
        lengths=histogram(
            lengths, f"{plan.name}: samples by length", low="0", high=f"{longest:,} tokens", width=_NARROW
        ),
        fill=histogram(fill, f"{plan.name}: packs by how full they are", low="0 %", high="100 %", width=_NARROW),
        tiles=histogram(
            tiles, f"{plan.name}: samples by tiles", low="0", high=f"{len(counts) - 1} tiles", width=_NARROW
        )
        if len(counts) > 1
        else None,
        curriculum=stacked(
            [_shares(tokens) for tokens in division.tokens],
            division.sources,
            f"{plan.name}: how the tokens of a step are divided among sources, from its first step to its last",
            low="step 0",
            high=f"step {plan.steps - 1:,}",
            height=_TALL if len(plan.sources) > 1 else _LOW,
        ),
        division=division,
    )


def _spread(spread: Spread) -> Markup:
    width = (spread.high - spread.low) / len(spread.used)
    bins = [
        Bin(label=f"{spread.low + place * width:.4g} to {spread.low + (place + 1) * width:.4g}", counts=counts)
        for place, counts in enumerate(zip(spread.used, spread.dropped, strict=True))
    ]
    label = f"{spread.signal} of {spread.source}: uses beside samples that are left out"
    return histogram(bins, label, low=f"{spread.low:.4g}", high=f"{spread.high:.4g}", width=_NARROW)


def _between(place: int, bins: int, whole: int, unit: str) -> str:
    return f"{place * whole // bins:,} to {(place + 1) * whole // bins:,} {unit}"


def _shares(tokens: Sequence[int]) -> list[float]:
    whole = sum(tokens)
    return [count / whole if whole else 0.0 for count in tokens]


def _flow(summary: PlanSummary, drops: list[Drops], sources: Sequence[str]) -> Markup:
    """From each source to the stages, tokens as trained, and to the rules, tokens of what they dropped."""
    links = [
        Link(source=f"source {name}", target=f"stage {number}", value=share.tokens)
        for number, stage in enumerate(summary.stages)
        for name, share in sorted(stage.sources.items())
        if share.tokens
    ]
    ordered = sorted(drops, key=lambda drop: (_met(drop.rule), drop.rule, drop.source))
    links += [
        Link(source=f"source {drop.source}", target=f"rule {drop.rule}", value=drop.tokens)
        for drop in ordered
        if drop.tokens
    ]
    rules = list(dict.fromkeys(link.target for link in links if link.target.startswith("rule ")))
    left = [Node(id=f"source {name}", name=name) for name in sources]
    right = [
        *(Node(id=f"stage {number}", name=stage.name) for number, stage in enumerate(summary.stages)),
        *(Node(id=id, name=f"out: {id.removeprefix('rule ')}") for id in rules),
    ]
    return flow(
        [left, right], links, "Tokens from sources to stages, and to the rules that dropped samples", unit="tokens"
    )


def _costs(manifest: Manifest, cost: Forecast) -> list[list[str]]:
    """Rows of the forecast by stage, and their sum."""
    parts = ("vision", "projector", "language", "head", "total")
    rows = [
        (stage.name, [getattr(flops, part) for part in parts])
        for stage, flops in zip(manifest.stages, cost.stages, strict=True)
    ]
    rows.append(("all", [sum(column) for column in zip(*(counts for _, counts in rows), strict=True)]))
    return [[name, *map(_scaled, counts), time_of(cost.hours(counts[-1]))] for name, counts in rows]


def _scaled(flops: int) -> str:
    """Three digits and a prefix."""
    power = min(max(len(str(flops)) - 1, 0) // 3, len(_PREFIXES) - 1)
    return f"{flops / 1000**power:.3g} {_PREFIXES[power]}".rstrip()


_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def time_of(hours: float) -> str:
    """In a unit that gives it two digits or three: a tiny model's is no share of an hour."""
    for unit, size in (("hours", 1.0), ("min", 1 / 60), ("s", 1 / 3600)):
        if hours >= (2 if unit == "hours" else 1) * size:
            count = hours / size
            return f"{count:,.0f} {unit}" if count >= 100 else f"{count:.2g} {unit}"
    return "under a second" if hours else "nothing"
