"""Renders docs/spec.md: a hand-written introduction and a table of every key, from schema.py.

    python -m mixc.spec.reference > docs/spec.md

A test fails while docs/spec.md is not what this prints.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

import msgspec
import msgspec.inspect as mi

from mixc.spec.check import EVERY_SAMPLE
from mixc.spec.convert import describe
from mixc.spec.diagnostics import InvalidSpecError
from mixc.spec.expression import FUNCTIONS, INEXACT
from mixc.spec.jsonschema import field_docs, structs
from mixc.spec.yaml import MAX_BYTES, parse

EXAMPLE = """\
mixture: sail-vl-2b
seed: 20250110
model: sail-vl-2b

sources:
  captions:
    path: data/caption/*.parquet
    kind: caption
    text: caption
    where: clip_score >= 0.28 and width * height >= 200 * 200
  pages: {path: "data/ocr/**/*.tar", kind: ocr}
  chat: {path: [data/sft/*.jsonl, data/sft/*.json], kind: chat, messages: conversations}
  prose: {path: data/text/*.jsonl.zst, kind: text}

dedup: {exact: true}

stages:
  - name: alignment
    budget: 4B tokens
    mix: {captions: 0.7, pages: 0.3}
    sequence_length: 8192
    train: {lr: {projector: 2e-4}, batch: 512}      # no lr: the vision and language modules are frozen

  - name: advance
    budget: 16M samples
    unit: samples                                   # what the shares below count
    mix:
      captions: 5
      pages: {weight: 4, max_epochs: 3}
      prose: {weight: 1, where: "language in ('en', 'zh') and repetition < 0.2"}
    on_exhausted: renormalise
    sequence_length: 8192
    train: {lr: {vision: 2e-5, projector: 2e-5}, batch: 512}

  - name: sft
    budget: 2 epochs
    mix: [chat, prose]                              # each in proportion to its size
    order: {by: complexity, window: 10k}            # simple ones first
    sequence_length: 16384
    train:
      lr: {vision: 1e-5, projector: 1e-5, language: 1e-5}
      batch: 256
      warmup: 3%
      loss: square
"""
"""Complete and valid; a test loads and checks it."""

EXTENSION = """\
extends: base.yaml

mixture: sail-vl-2b-more-pages
stages:
  - name: alignment                 # merged into the base's stage of this name
    mix: {captions: 0.5, pages: 0.5}
  - name: sft
    mix: [chat]                     # a list of plain values replaces the base's
    order: null                     # removed: back to the default
"""

MISTAKEN = """\
mixture: demo
seed: 1
model: sail-vl-2b
sources:
  prose: {path: data/*.jsonl, kind: txt}
stages:
  - name: one
    budgte: 1 epoch
    mix: [prose]
    sequence_length: 4096
    train: {lr: {language: 1e-5}, batch: 8}
"""

MIXES = """\
groups:
  web: [captions, alt_text]                         # by size
  images: {web: 3, pages: 1}

held_out: {prose: 1%, pages: 500 samples}

stages:
  - name: advance
    budget: 100B tokens
    mix: {images: 0.9, prose: {weight: 0.1, balance: {by: language}}}
    mix_end: {images: 0.6, prose: 0.4}              # more prose, step by step
    mix_schedule: cosine
    temperature: 2                                  # of 0.9 and 0.1: 3 to 1
    sequence_length: 8192
    train: {lr: {projector: 2e-4}, batch: 512}
"""
"""A part of a spec; a test completes and checks it."""

_SECTIONS = [
    ("Spec", "", "The keys of the file."),
    ("Source", "sources.NAME", "A named set of rows. The name becomes part of each sample's identity."),
    ("Stage", "stages[]", "Stages run in the order in which they stand, each from the weights of the last."),
    ("MixEntry", "stages[].mix.NAME", "A share with more to say than its weight."),
    ("Order", "stages[].order", ""),
    ("Train", "stages[].train", ""),
    (
        "Spikes",
        "stages[].train.spikes",
        "Steps whose loss or gradient is far from those before leave the weights as they are.",
    ),
    ("AdaLRS", "stages[].train.adalrs", "[Training](training.md) has the rule."),
    ("Quantile", "stages[].mix.NAME.quantile", "Membership by rank: a part of the samples sorted by `by`."),
    (
        "Balance",
        "stages[].mix.NAME.balance",
        "Resampling within a source, towards equal amounts for each value of `by`.",
    ),
    ("Tiles", "tiles", "Overrides of the model's dynamic tiling."),
    ("Signal", "signals[]", "A signal with settings, or one of your own."),
    ("Dedup", "dedup", ""),
    ("MinHash", "dedup.minhash", ""),
    ("ImageDedup", "dedup.image", ""),
    ("Decontaminate", "decontaminate", ""),
    ("ContinueFrom", "continue_from", "What was trained up to there counts as used."),
]


def render() -> str:
    """The page, as Markdown."""
    parts = [_intro()]
    by_name = {struct.cls.__name__: struct for struct in structs()}
    for name, path, text in _SECTIONS:
        table = "\n".join(_table(by_name[name]))
        parts += [f"### `{path}`" if path else "### The spec", *([text] if text else []), table]
    return "\n\n".join(parts) + "\n"


def _intro() -> str:
    return f"""\
# The mixture spec

<!-- Made by `python -m mixc.spec.reference > docs/spec.md`: edit schema.py or reference.py in mixc/spec. -->

A mixture spec says which data a model is trained on, in which proportions and in which order. `mixc compile`
turns it into a build. The same spec over the same data gives the same build, byte for byte.

`mixc check SPEC` finds mistakes before anything runs. `mixc schema` prints a JSON Schema by which editors
complete and check specs. With the YAML language server, save it as `mixc.schema.json` and begin a spec with:

```yaml
# yaml-language-server: $schema=mixc.schema.json
```

## A complete example

```yaml
{EXAMPLE}```

## YAML

A spec is one YAML 1.2 document in UTF-8, of at most {MAX_BYTES:,} bytes. The core schema applies and
nothing else: `no`, `on`, `2024-01-01` and `1_000` are text, `1e-5` is a number, only `true` and `false` are
truth values. Anchors and aliases work. Refused are unknown keys, keys given twice, tags (`!!python/...`),
merge keys (`<<`; use `extends`), a second document, and aliases that expand beyond measure. All mistakes
are reported together, each at its place:

```text
{_mistakes()}
```

## Quantities

| written | means |
| --- | --- |
| `4B tokens`, `4_000_000_000 tokens` | a budget in tokens; also `supervised_tokens`, `samples`, `images` |
| `2 epochs`, `0.5 epochs` | passes over all that is eligible, divided by the shares |
| `16M` | a budget in the stage's `unit` |
| `10k`, `10k samples` | a window of `order` |
| `3%`, `2000`, `2k steps` | a warm-up: a share of the stage, or steps |
| `500 samples`, `1%` | an amount in `held_out`: of a source's samples |

Suffixes are decimal: k = 10^3, M = 10^6, B = 10^9, T = 10^12. Arithmetic is exact: `0.3B` is 300,000,000, and
what does not come out whole is an error.

## Mixes

A stage's shares are given by weights, which are divided by their sum, or follow from sizes (a list). They count the
stage's `unit`.

```yaml
{MIXES}```

- **Groups** stand for several sources. A group's share is divided among its members by their weights, or by their
  sizes when they are a list, and a group may hold groups. In a mix, `where`, `max_epochs`, `quantile`, `balance` and
  `held_out` of a group hold for each source in it, and no source may be reached twice.
- **`temperature`** makes shares w^(1/temperature) of weights w: 1 leaves them, a larger one evens them out.
- **`mix_end`** makes the shares go from those of `mix`, at the stage's start, to those of `mix_end`, at its end, in a
  straight line or along half a cosine (`mix_schedule`). Over the whole stage both come to the mean of the two. A share
  may be 0 at one of the two.
- **`quantile`** keeps a part of a source by rank, **`balance`** evens out its classes.
- **`held_out`** keeps samples from every stage. A spec that extends this one takes them up, to be evaluated on, with
  `held_out: true` in its mix ([cleaning](cleaning.md)).

## Expressions

`where`, `order.by`, `quantile.by` and `balance.by` are [DuckDB expressions](https://duckdb.org/docs/stable/sql/expressions/overview)
over one row: its columns, by their own names (in double quotes if they hold more than letters, digits and
`_`), and its signals. A `where` is a condition, and a row for which it is NULL is not eligible. Text is in
single quotes, so quote the whole expression for YAML in double quotes or write it as a block:

```yaml
where: "language = 'en' and repetition < 0.2"
where: >
  (clip_score >= 0.28 or source_rank <= 3)
  and not regexp_matches(caption, 'stock photo')
```

{_wrapped("Every sample has these signals:", EVERY_SAMPLE)}

There are comparisons, `and`, `or`, `not`, arithmetic, `||`, `case`, `between`, `in (...)`, `like`, `ilike`,
`is null`, casts to plain types (`x::double`, `try_cast(x as bigint)`), and these functions:

{_wrapped("", sorted(FUNCTIONS))}

An expression cannot reach a file, a setting, another row, a clock or a random number: subqueries,
aggregates, window functions and every function not listed are refused. These, and `^`, are refused because
their last digit differs between machines, and with it the mixture:

{_wrapped("", sorted(name for name in INEXACT if name.isidentifier()))}

## Specs that extend others

`extends` names one other spec, relative to the file that names it:

```yaml
{EXTENSION}```

Mappings merge key by key, at any depth. A list whose items all have a `name` (`stages`) merges by name:
known items in place, new ones at the end. Anything else replaces what the base has. `null` removes what the
base has, so `mix: {{pages: null}}` takes a source out of a mix; as the first item of a list it removes the base's
items, so with `- null` before its own stages a spec has no others. A base may extend another; a circle is an
error. Relative paths are relative to the file in which they are written.

## Overrides

`--set KEY=VALUE` changes one value of a spec on the command line, after merging. Stages are addressed by
name; the value is read as YAML and replaces what was there; an empty value removes the key:

```text
mixc plan SPEC --set seed=7 --set stages.sft.train.batch=64 --set 'stages.sft.mix={{chat: 2, prose: 1}}'
```

## Every key

Keys without a default are required."""


def _wrapped(lead: str, names: Iterable[str]) -> str:
    text = f"{lead} {', '.join(f'`{name}`' for name in names)}.".strip()
    return textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False)


def _mistakes() -> str:
    from mixc.spec.convert import convert

    try:
        convert(parse(MISTAKEN.encode(), "demo.yaml"))
    except InvalidSpecError as error:
        return str(error)
    raise AssertionError("the example of a mistaken spec has no mistake")


def _table(struct: mi.StructType) -> list[str]:
    docs = field_docs()[struct.cls.__name__]
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for each in struct.fields:
        cells = [f"`{each.encode_name}`", _type(each.type), _default(each), docs.get(each.encode_name, "")]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def _type(info: mi.Type) -> str:
    """A type in words, with its bounds and a link to the table of a struct."""
    if isinstance(info, mi.UnionType):
        return " or ".join(dict.fromkeys(_type(t) for t in info.types if not isinstance(t, mi.NoneType)))
    if isinstance(info, mi.StructType):
        path = next(path for name, path, _ in _SECTIONS if name == info.cls.__name__)
        anchor = "".join(c for c in path.lower() if c.isalnum() or c in "_-")
        return f"[a mapping](#{anchor})"
    if isinstance(info, mi.DictType):
        return f"a mapping from {_plain_key(info.key_type)} to {_type(info.value_type)}"
    if isinstance(info, mi.ListType) and isinstance(info.item_type, mi.StructType | mi.UnionType):
        return f"a list, each {_type(info.item_type)}"
    if isinstance(info, mi.IntType | mi.FloatType):
        bounds = [("above", info.gt), ("at least", info.ge), ("below", info.lt), ("at most", info.le)]
        words = [f"{word} {_bound(bound)}" for word, bound in bounds if bound is not None]
        return ", ".join([describe(info), *words])
    return describe(info)


def _bound(bound: float) -> str:
    return "2^63 - 1" if bound == (1 << 63) - 1 else f"{bound:,}"


def _plain_key(info: mi.Type) -> str:
    return "name" if isinstance(info, mi.StrType) else describe(info).removeprefix("one of ")


def _default(each: mi.Field) -> str:
    if each.required:
        return ""
    if each.default_factory is not msgspec.NODEFAULT:
        return "none"  # an empty list or mapping
    value: Any = each.default
    if value is None:
        return "none"
    if isinstance(value, msgspec.Struct):
        return "its defaults"
    return f"`{msgspec.json.encode(value).decode()}`" if not isinstance(value, str) else f"`{value}`"


if __name__ == "__main__":
    print(render(), end="")
