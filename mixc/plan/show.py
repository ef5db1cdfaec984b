"""A plan's summary as tables for a terminal. Imports neither DuckDB nor pyarrow."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mixc.spec.check import mix_entries
from shards.counted import counted

if TYPE_CHECKING:
    from mixc.plan.tables import PlanSummary, StagePlan
    from mixc.spec.schema import Spec

SUFFIXES = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))


MUCH_SKEW = 0.05
"""Of the mean rank's work: from here on it is told that ranks wait for each other."""
LEGEND = (
    "wished: the share asked for; met: the share that comes of whole samples; epochs: passes over the eligible samples, those that pass"
    " every threshold; supervised: tokens with a loss"
)


def show(
    summary: PlanSummary, console: Console, rejected: Sequence[str] = (), *, by_size: Collection[str] = ()
) -> None:
    """Everything that `mixc plan` prints: stages, drops, rejects, warnings. `rejected` are lines that name some of the rejects;
    `by_size`: stages whose spec asks for no shares."""
    for part in _parts(summary, rejected, by_size):
        console.print(part)


def unweighted(spec: Spec) -> list[str]:
    """Stages whose shares are their sources' sizes."""
    return [
        stage.name
        for stage in spec.stages
        if stage.temperature == 1
        and all(name in spec.sources and entry.weight is None for name, entry in mix_entries(stage.mix).items())
    ]


def stage_table(stage: StagePlan, *, by_size: bool = False) -> Table:
    """Shares wished and met and what they come to, one row a source; fits 80 columns."""
    table = _table(f"{stage.name}, shares of {stage.unit.replace('_', ' ')}", footer=True)
    sources = stage.sources.values()
    table.add_column("source", footer="total", overflow="fold")
    for header, footer in (
        ("wished", ""),
        ("met", ""),
        ("epochs", ""),
        ("eligible", short(sum(source.eligible for source in sources))),
        ("samples", short(stage.samples)),
        ("tokens", short(stage.tokens)),
        ("supervised", short(stage.supervised_tokens)),
        ("images", short(stage.images)),
        ("tiles", short(stage.tiles)),
    ):
        table.add_column(header, footer=footer, justify="right", no_wrap=True)
    for name, source in stage.sources.items():
        counts = (source.eligible, source.samples, source.tokens, source.supervised_tokens)
        table.add_row(
            escape(name),
            "by size" if by_size else f"{source.wished:.2%}",
            f"{source.met:.2%}",
            f"{source.epochs:.2f}",
            *map(short, (*counts, source.images, source.tiles)),
        )
    return table


def short(count: int) -> str:
    """All digits up to 9,999, then four of them: 12.35k, 4.568M, 1.235T. `--json` has the exact numbers."""
    if count < 10_000:
        return f"{count:,}"
    unit, suffix = next((unit, suffix) for unit, suffix in SUFFIXES if count >= unit)
    return f"{count / unit:.4g}{suffix}"


def stage_line(stage: StagePlan) -> str:
    """Steps, packs and how full they are."""
    empty = f", {stage.empty_packs:,} of them empty" if stage.empty_packs else ""
    skew = ""
    if stage.rank_skew >= MUCH_SKEW:
        skew = (
            f"; of several GPUs the busiest has {stage.rank_skew:.1%} of the mean's work more than the idlest in the mean step,"
            f" {stage.rank_skew_max:.1%} in the worst (rank skew)"
        )
    return (
        f"{counted(stage.steps, 'step')} of {counted(stage.batch, 'pack')}{empty}; at most {counted(stage.sequence_length, 'token')}"
        f" and {counted(stage.max_tiles, 'tile')} a pack, {stage.fill:.2%} filled;"
        f" {counted(stage.warmup_steps, 'step')} of warm-up{skew}"
    )


def _parts(summary: PlanSummary, rejected: Sequence[str], by_size: Collection[str]) -> Iterator[Any]:
    for stage in summary.stages:
        yield stage_table(stage, by_size=stage.name in by_size)
        yield Text(stage_line(stage) + "\n")
    yield Text(LEGEND + "\n", "dim")
    if summary.continues is not None:
        point = summary.continues
        yield Text(
            f"continues {point.root[:16]} at step {point.step:,} of {point.stage}: of the {point.consumed:,} samples"
            f" trained so far {point.again:,} are used again, {point.unknown:,} are in no source\n"
        )
    if summary.drops:
        yield _counts("samples in no stage", "rule", summary.drops)
    rejects = {
        f"{source}: {reason}": count for source, reasons in summary.rejects.items() for reason, count in reasons.items()
    }
    if rejects:
        yield _counts("rows rejected", "source and reason", rejects)
        yield Text("".join(f"{line}\n" for line in rejected))
    for warning in summary.warnings:
        yield Text.assemble(("warning: ", "yellow"), warning)


def _counts(title: str, header: str, counts: Mapping[str, int]) -> Table:
    table = _table(title)
    table.add_column(header)
    table.add_column("count", justify="right")
    for name, count in counts.items():
        table.add_row(escape(name), f"{count:,}")
    return table


def _table(title: str, *, footer: bool = False) -> Table:
    return Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_footer=footer,
    )
