"""One static HTML page about a build: opens from a disk or an object store, without a server or a script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import duckdb
import msgspec

from mixc.emit.lock import Lock, read_lock
from mixc.plan.tables import PlanSummary, StagePlan
from shards.atomic import atomic_write
from shards.manifest import Manifest, read_manifest

STYLE = """
:root { color-scheme: light dark; --bar: light-dark(#2a6fb0, #6fb1ee); --wish: light-dark(#d58a1e, #f0b45a);
        --line: light-dark(#ddd, #444); --dim: light-dark(#666, #aaa); }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; margin: .7rem 0; } caption { text-align: left; color: var(--dim); }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: baseline; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
tbody tr { border-top: 1px solid var(--line); } code { font-size: .9em; overflow-wrap: anywhere; }
.dim { color: var(--dim); } svg rect.met { fill: var(--bar); } svg line.wish { stroke: var(--wish); stroke-width: 2; }
@media print { body { max-width: none; } h2 { break-after: avoid; } table { break-inside: avoid; } }
"""

HISTOGRAM_BINS = 32


def write_page(build: Path, out: Path) -> None:
    """Write the page of `build` to the file `out`. Raises ShardError or MixcError when the build cannot be read."""
    manifest = read_manifest(build)
    lock = read_lock(build / "mixture.lock")
    summary = msgspec.json.decode((build / "plan/summary.json").read_bytes(), type=PlanSummary)
    page = "\n".join(_page(build, manifest, lock, summary))
    with atomic_write(out) as file:
        file.write(page.encode())


def _page(build: Path, manifest: Manifest, lock: Lock, summary: PlanSummary) -> Iterable[str]:
    title = escape(manifest.mixture)
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
    yield f"<h1>{title}</h1><p>root <code>{manifest.root}</code></p>"
    yield _table(
        "Stages in order of training",
        ["stage", "steps", "packs a step", "samples", "tokens", "supervised", "images", "tiles", "fill", "trains"],
        [
            [
                f'<a href="#{escape(s.name)}">{escape(s.name)}</a>',
                f"{s.steps:,}",
                f"{s.batch:,}",
                f"{s.samples:,}",
                f"{s.tokens:,}",
                f"{s.supervised_tokens:,}",
                f"{s.images:,}",
                f"{s.tiles:,}",
                f"{s.fill:.2%}",
                ", ".join(f"{escape(m)} {rate:g}" for m, rate in entry.train.lr.items()),
            ]
            for s, entry in zip(summary.stages, manifest.stages, strict=True)
        ],
        numbers=range(1, 9),
    )
    if summary.warnings:
        yield "<h2>Warnings</h2><ul>" + "".join(f"<li>{escape(w)}</li>" for w in summary.warnings) + "</ul>"
    for index, stage in enumerate(summary.stages):
        yield from _stage(build, index, stage)
    yield "<h2>What was left out</h2>"
    yield _table(
        "Samples that no stage uses, by the rule that dropped them",
        ["rule", "samples"],
        [[escape(rule), f"{count:,}"] for rule, count in sorted(summary.drops.items())],
        numbers=[1],
    )
    rejects = [
        [escape(source), escape(reason), f"{count:,}"]
        for source, reasons in sorted(summary.rejects.items())
        for reason, count in sorted(reasons.items())
    ]
    yield _table("Rows that cannot become a sample", ["source", "reason", "rows"], rejects, numbers=[2])
    yield "<h2>Sources</h2>"
    yield _table(
        "Fragments by digest; a path is where it lay when the build was made",
        ["source", "path", "digest", "samples", "rejects"],
        [
            [
                escape(name),
                f"<code>{escape(f.path)}</code>",
                f"<code>{f.digest[:16]}</code>",
                f"{f.samples:,}",
                f"{f.rejects:,}",
            ]
            for name, fragments in sorted(lock.sources.items())
            for f in fragments
        ],
        numbers=[3, 4],
    )
    yield _table(
        "Made with",
        ["library", "version"],
        [[escape(name), escape(version)] for name, version in sorted(lock.versions.items())],
    )
    yield "</html>"


def _stage(build: Path, index: int, stage: StagePlan) -> Iterable[str]:
    yield f'<h2 id="{escape(stage.name)}">{escape(stage.name)}</h2>'
    yield _table(
        f"Composition; shares count {escape(stage.unit.replace('_', ' '))}. The bar is the share met, the mark the share wished.",
        ["source", "", "wished", "met", "epochs", "eligible", "samples", "tokens", "supervised", "images"],
        [
            [
                escape(name),
                _share(share.wished, share.met),
                f"{share.wished:.2%}",
                f"{share.met:.2%}",
                f"{share.epochs:.2f}",
                f"{share.eligible:,}",
                f"{share.samples:,}",
                f"{share.tokens:,}",
                f"{share.supervised_tokens:,}",
                f"{share.images:,}",
            ]
            for name, share in sorted(stage.sources.items())
        ],
        numbers=range(2, 10),
    )
    yield (
        f"<p>{stage.packs:,} packs of at most {stage.sequence_length:,} tokens and {stage.max_tiles:,} tiles, "
        f"{stage.empty_packs:,} of them empty; full to {stage.fill:.2%}. "
        f"Work of any two ranks differs by {stage.rank_skew:.1%} of the mean rank's in the mean over steps, "
        f"{stage.rank_skew_max:.1%} at most.</p>"
    )
    yield _histogram(build, index, stage.sequence_length)


def _share(wished: float, met: float) -> str:
    width = 160
    return (
        f'<svg width="{width}" height="14" role="img" aria-label="met {met:.1%}, wished {wished:.1%}">'
        f'<rect class="met" y="2" height="10" width="{met * width:.1f}"/>'
        f'<line class="wish" x1="{wished * width:.1f}" x2="{wished * width:.1f}" y1="0" y2="14"/></svg>'
    )


def _histogram(build: Path, stage: int, longest: int) -> str:
    with duckdb.connect() as db:
        rows = db.execute(
            "SELECT least(tokens * ?::BIGINT // ?, ? - 1) AS bin, count(*) FROM read_parquet(?) WHERE stage = ? "
            "GROUP BY bin ORDER BY bin",
            [HISTOGRAM_BINS, longest, HISTOGRAM_BINS, str(build / "plan/placements.parquet"), stage],
        ).fetchall()
    if not rows:
        return ""
    top = max(count for _, count in rows)
    width, height = 16, 90
    bars = "".join(
        f'<rect class="met" x="{b * width}" y="{height - count / top * height:.1f}" width="{width - 2}" '
        f'height="{count / top * height:.1f}"><title>{b * longest // HISTOGRAM_BINS:,} to '
        f"{(b + 1) * longest // HISTOGRAM_BINS:,} tokens: {count:,} samples</title></rect>"
        for b, count in rows
    )
    return (
        f'<figure><svg width="{HISTOGRAM_BINS * width}" height="{height}" role="img" '
        f'aria-label="histogram of sample lengths">{bars}</svg>'
        f'<figcaption class="dim">Samples by length, 0 to {longest:,} tokens; the tallest bar is {top:,}.</figcaption></figure>'
    )


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """`head` is text; cells of `rows` are HTML. Nothing for no rows."""
    if not rows:
        return ""
    right = set(numbers)

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=n' if i in right else ''}>{cell}</{tag}>" for i, cell in enumerate(row))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f"<table><caption>{caption}</caption><thead><tr>{cells('th', [escape(h) for h in head])}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )
