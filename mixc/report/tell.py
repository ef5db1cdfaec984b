"""What `mixc explain` says, as lines of text for a terminal or a file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rich.text import Text

from mixc.report.dropped import Dropped
from mixc.report.explain import FileStory, Row, SampleStory, Use
from mixc.report.reasons import Reason
from mixc.report.search import Search
from mixc.spec.diagnostics import printable
from shards.counted import counted

SHORT = 12
"""Digits of an id in a table: enough to ask for the sample again."""
RULES_OF_SOURCES = ("where", "decontaminate", "dedup_exact", "dedup_minhash", "dedup_image", "held_out")
"""The same in every stage."""
MOST_DOCUMENTS = 8
"""Documents whose own part in a rule is told; JSON has all."""


def step_lines(stage: str, what: str, uses: Sequence[Use]) -> Iterator[Text]:
    """Documents by pack, then the rules that chose them by source."""
    packs = [(pack, list(own)) for pack, own in groupby(uses, lambda use: use.pack)]
    yield Text.assemble((f"stage {stage}, {what}", "bold"), f": {_counted(uses)}")
    if not uses:
        yield Text("every pack is empty: they fill the last step", "dim")
        return
    wide = max(len(use.source) for use in uses)
    for pack, own in packs:
        yield Text()
        yield Text.assemble((f"pack {pack}", "bold"), f": {_counted(own)}")
        for use in own:
            yield Text.assemble(
                f"{use.place:>4}  ",
                (use.id[:SHORT], "cyan"),
                f"  {use.source:{wide}}  {use.tokens:>6,} tokens {use.supervised_tokens:>6,} supervised"
                f" {_times(use.images, 'image'):>9}  epoch {use.epoch}{_piece(use)}  ",
                (f"{use.path} row {use.row}", "dim"),
            )
    yield Text()
    yield Text("why they stand here", "bold")
    for source in sorted({use.source for use in uses}):
        yield from _common_rules(source, [use for use in uses if use.source == source])


def sample_lines(story: SampleStory) -> Iterator[Text]:
    yield Text.assemble(("sample ", "bold"), (story.id, "bold cyan"))
    rows = {(use.source, use.path, use.row) for use in story.uses}
    for source, path, row in sorted(rows | {(drop.source, drop.path, drop.row) for drop in story.drops}):
        yield Text(f"  {source}, {path} row {row}")
    if story.uses:
        yield Text()
        yield Text(f"used {_times(len(story.uses))}", "bold")
    told, stage = list[Reason](), ""
    for use in story.uses:
        told, stage = (told if use.stage == stage else [r for r in told if r.rule in RULES_OF_SOURCES]), use.stage
        yield Text.assemble(
            ("  stage ", ""),
            (use.stage, "bold"),
            f", step {use.step}, pack {use.pack}, place {use.place}, epoch {use.epoch}{_piece(use)}: {counted(use.tokens, 'token')},"
            f" {use.supervised_tokens:,} supervised of weight {use.weight:.4g}, {counted(use.images, 'image')}",
        )
        yield from _reasons([reason for reason in use.why if reason not in told], "      ")
        told += use.why
    for drop in story.drops:
        yield Text()
        yield Text.assemble(("not used: ", "bold"), (drop.rule, "bold red"), f"  ({counted(drop.tokens, 'token')})")
        yield from _reasons(drop.why, "      ")
    if story.not_in:
        yield Text()
        yield Text("not in stage" if len(story.not_in) == 1 else "not in stages", "bold")
        wide = max(len(each.stage) for each in story.not_in)
        for each in story.not_in:
            yield Text.assemble(f"  {each.stage:{wide}}  ", (f"{each.rule:13} ", "magenta"), each.text)


def file_lines(story: FileStory) -> Iterator[Text]:
    """Counts first, then rows."""
    yield Text(story.path, "bold")
    read = "source" if len(story.sources) == 1 else "sources"
    yield Text(f"  {read} {', '.join(story.sources)}; digest {', '.join(digest[:16] for digest in story.digests)}")
    unusable = sum(story.rejects.values())
    yield Text(
        f"  {counted(story.samples, 'sample')}: {story.used:,} used, {sum(story.drops.values()):,} not; {counted(unusable, 'unusable row')}"
    )
    for stage in story.stages:
        yield Text.assemble(
            "  ",
            (stage.stage, "bold"),
            f": {counted(stage.samples, 'sample')} {_times(stage.placements)} in all, at most {_times(stage.epochs, 'epoch')} each,"
            f" {counted(stage.tokens, 'token')}, steps {stage.first_step:,} to {stage.last_step:,}",
        )
    for rule, count in story.drops.items():
        yield Text.assemble("  not used: ", (rule, "red"), f" {count:,}")
    for reason, count in story.rejects.items():
        yield Text.assemble("  unusable: ", (reason, "red"), f" {count:,}")
    yield Text()
    yield from (row_line(row) for row in story.rows)
    if left := story.samples + unusable - len(story.rows):
        yield Text(f"  and {left:,} more (--limit)", "dim")


def picture_lines(path: str, became: SampleStory | Row) -> Iterator[Text]:
    """Of a picture that is a row of its own, in a folder of pictures."""
    yield Text(path, "bold")
    yield from sample_lines(became) if isinstance(became, SampleStory) else [row_line(became)]


def row_line(row: Row) -> Text:
    name = (row.id or "no sample")[:SHORT]
    became = (
        f"used {_times(row.uses)} in {', '.join(row.stages)}"
        if row.uses
        else f"{row.rule}{f': {row.detail}' if row.detail else ''}"
    )
    return Text.assemble(
        f"  row {row.row:>6}  ", (f"{name:{SHORT}}", "cyan"), "  ", (became, "" if row.uses else "red")
    )


def search_lines(search: Search) -> Iterator[Text]:
    yield Text.assemble(
        (f"{_times(search.places, 'place')}, {_times(search.samples, 'sample')}", "bold"),
        f" of {counted(search.packs, 'pack')}: {search.what[:80]!r}",
    )
    for found in search.found:
        use = found.use
        yield Text.assemble(
            "  ",
            (use.id[:SHORT], "cyan"),
            f"  {use.source}  stage {use.stage}, step {use.step}, pack {use.pack}, place {use.place}, epoch {use.epoch}"
            f"{_piece(use)}  ",
            (f"{use.path} row {use.row}", "dim"),
        )
        if found.excerpt:
            yield Text(f"      … {_safe(found.excerpt)} …", "green")
    if left := search.places - len(search.found):
        yield Text(f"  and {left:,} more (--limit)", "dim")
    if search.dropped is not None:
        yield from _dropped_lines(search.dropped)
    for where in search.not_searched:
        yield Text(f"not searched: {where}", "dim")


def _dropped_lines(dropped: Dropped) -> Iterator[Text]:
    rules = ", ".join(f"{rule} {count:,}" for rule, count in dropped.rules.items())
    yield Text.assemble(
        (f"not used: {_times(dropped.samples, 'sample')}", "bold"),
        f" of {dropped.searched:,} that were dropped{f' ({rules})' if rules else ''}",
    )
    for each in dropped.found:
        yield Text.assemble(
            "  ",
            (each.id[:SHORT], "cyan"),
            f"  {each.source}  ",
            (each.rule, "red"),
            f"{f': {_safe(each.detail)}' if each.detail else ''}  {each.tokens:,} tokens  ",
            (f"{each.path} row {each.row}", "dim"),
        )
        yield Text(f"      … {_safe(each.excerpt)} …", "green")
    if left := dropped.samples - len(dropped.found):
        yield Text(f"  and {left:,} more (--limit)", "dim")


def _safe(text: str) -> str:
    """What stood in data, for a terminal."""
    return printable(text, len(text))


def _common_rules(source: str, uses: Sequence[Use]) -> Iterator[Text]:
    """What a source's documents have in common once, the rest by document."""
    yield Text.assemble("  ", (source, "bold"), f" ({_times(len(uses), 'document')})")
    texts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for use in uses:
        for reason in use.why:
            texts[reason.rule][reason.text].append(use.id[:SHORT])
    for rule, told in texts.items():
        if len(told) == 1 and len(next(iter(told.values()))) == len(uses):
            yield from _reasons([Reason(rule=rule, text=next(iter(told)))], "    ")
            continue
        yield Text.assemble("    ", (rule, "magenta"))
        for text, ids in list(told.items())[:MOST_DOCUMENTS]:
            more = f" and {len(ids) - 1:,} more" if len(ids) > 1 else ""
            yield Text.assemble("      ", (ids[0], "cyan"), f"{more}  {text}")
        if len(told) > MOST_DOCUMENTS:
            yield Text(f"      and {len(told) - MOST_DOCUMENTS:,} more (--json)", "dim")


def _reasons(reasons: Iterable[Reason], before: str) -> Iterator[Text]:
    for reason in reasons:
        yield Text.assemble(before, (f"{reason.rule:13} ", "magenta"), reason.text)


def _counted(uses: Sequence[Use]) -> str:
    total = Counter[str]()
    for use in uses:
        total.update(tokens=use.tokens, supervised=use.supervised_tokens, images=use.images)
    return (
        f"{_times(len(uses), 'document')}, {counted(total['tokens'], 'token')}, {total['supervised']:,} supervised,"
        f" {_times(total['images'], 'image')}"
    )


def _times(count: int, word: str = "time") -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _piece(use: Use) -> str:
    return f" piece {use.piece}" if use.piece else ""
