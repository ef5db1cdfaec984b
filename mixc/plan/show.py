"""A plan's summary as tables for a terminal. Imports neither DuckDB nor pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from mixc.plan.tables import PlanSummary, StagePlan


def show(summary: PlanSummary, console: Console) -> None:
    """Everything that `mixc plan` prints: stages, drops, rejects, warnings."""
    for part in _parts(summary):
        console.print(part)


def stage_table(stage: StagePlan) -> Table:
    """Shares wished and met and what they come to, one row a source."""
    table = Table(title=escape(stage.name), title_justify="left", title_style="bold", show_footer=True)
    table.add_column("source", footer="total")
    wished = sum(source.wished for source in stage.sources.values())
    met = sum(source.met for source in stage.sources.values())
    for header, footer in (
        (f"wished, {stage.unit}", f"{wished:.2%}"),
        ("met", f"{met:.2%}"),
        ("epochs", ""),
        ("eligible", f"{sum(source.eligible for source in stage.sources.values()):,}"),
        ("samples", f"{stage.samples:,}"),
        ("tokens", f"{stage.tokens:,}"),
        ("supervised", f"{stage.supervised_tokens:,}"),
        ("images", f"{stage.images:,}"),
        ("tiles", f"{stage.tiles:,}"),
    ):
        table.add_column(header, footer=footer, justify="right")
    for name, source in stage.sources.items():
        table.add_row(
            escape(name),
            f"{source.wished:.2%}",
            f"{source.met:.2%}",
            f"{source.epochs:.2f}",
            *(f"{count:,}" for count in (source.eligible, source.samples, source.tokens)),
            *(f"{count:,}" for count in (source.supervised_tokens, source.images, source.tiles)),
        )
    return table


def stage_line(stage: StagePlan) -> str:
    """Steps, packs and how full they are."""
    empty = f", {stage.empty_packs:,} of them empty" if stage.empty_packs else ""
    return (
        f"{stage.steps:,} steps of {stage.batch:,} packs{empty}; at most {stage.sequence_length:,} tokens"
        f" and {stage.max_tiles:,} tiles a pack, {stage.fill:.2%} filled;"
        f" rank skew at most {stage.rank_skew:.2f}; {stage.warmup_steps:,} steps of warm-up"
    )


def _parts(summary: PlanSummary) -> Iterator[Any]:
    for stage in summary.stages:
        yield stage_table(stage)
        yield Text(stage_line(stage) + "\n")
    if summary.drops:
        yield _counts("samples in no stage", "rule", summary.drops)
    rejects = {
        f"{source}: {reason}": count for source, reasons in summary.rejects.items() for reason, count in reasons.items()
    }
    if rejects:
        yield _counts("rows rejected", "source and reason", rejects)
    for warning in summary.warnings:
        yield Text.assemble(("warning: ", "yellow"), warning)


def _counts(title: str, header: str, counts: Mapping[str, int]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(header)
    table.add_column("count", justify="right")
    for name, count in counts.items():
        table.add_row(escape(name), f"{count:,}")
    return table
