"""What a diff says, as data: the one document behind the text, the JSON, the Markdown and the page.

Five levels, each from cause to effect: the specs, the sources, the selection of samples, the composition of what is trained,
and the order of training. Every list is sorted or in the order of training, every choice of an example is a function of the
two sides alone, so equal sides give equal documents, byte for byte.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from mixc.plan.tables import SourcePlan
from mixc.spec.changes import Change

SideKind = Literal["spec", "build", "lock"]
Level = Literal["selection", "composition", "order", "rows", "signals"]
"""What may be unknown; the spec and the sources' files never are."""

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Of a distribution, those that are given."""
BINS = 20
"""Bars of a distribution's histogram."""


class SideLabel(msgspec.Struct, frozen=True, kw_only=True):
    """One side, as the user named it and as a machine would."""

    path: str
    """As it was written: a path, or `git:REV:PATH`."""
    root: str | None
    """The build's root digest; None for a spec, which has no shards."""
    kind: SideKind
    mixture: str
    """The mixture's name."""
    planned: bool
    """Whether its plan is known: always for a build, for a spec (planned now), and for a lock whose objects the cache holds."""


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that differs, in the words of a reviewer."""

    kind: str
    """What it is, e.g. `threshold`, `weight`, `content`, `library`: docs/diff.md lists them."""
    text: str
    """The whole sentence: `threshold of source prose: repetition < 0.2 -> repetition < 0.1`."""
    key: str | None = None
    """The spec's key, as `--set` takes it; None for what no spec says (content, a library)."""
    stage: str | None = None
    """The stage that it is about, as A calls it (B, if A has none); None for what is about all."""
    source: str | None = None
    """The source that it is about, likewise."""
    a: Any = None
    """The value on side A, as the canonical spec has it; None for none."""
    b: Any = None
    why: str | None = None
    """Of what changes nothing: how that is known. Of what is possible: why it cannot be told."""


class RowChange(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a source that differs. Added: no `a`. Removed: no `b`. Changed: another sample in the same row."""

    change: Literal["changed", "added", "removed"]
    path_a: str | None
    row_a: int | None
    """From 0, in its file or part of a file."""
    id_a: str | None
    """The sample's id, 32 hexadecimal digits."""
    path_b: str | None
    row_b: int | None
    id_b: str | None


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a source's rows, told by the samples that they hold, not by where they lie."""

    kept: int
    """Samples that both sides have, wherever they lie."""
    changed: int
    """Rows that hold another sample than before: the same place in a file of the same name, one sample gone and one come."""
    added: int
    removed: int
    examples: list[RowChange]
    """Some of each kind, first by path and row."""


class Renamed(msgspec.Struct, frozen=True, kw_only=True):
    """A file of equal content by two names."""

    a: str
    b: str


class SourceChange(msgspec.Struct, frozen=True, kw_only=True):
    """How the content of one source differs. Paths are where each side found a fragment, relative to its spec's folder where it
    lies there."""

    added: list[str]
    """Fragments of a path and content that A has not."""
    removed: list[str]
    changed: list[str]
    """Fragments of one path whose content differs."""
    renamed: list[Renamed]
    kept: int
    """Fragments of equal content, wherever they lie."""
    samples_a: int
    samples_b: int
    rejects_a: int
    """Unusable rows."""
    rejects_b: int
    rows: Rows | None
    """None where a side is not planned, or the two read rows in another way (another column, another kind): then every sample
    differs, and no row is compared."""


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """Samples of one source that stood in stages `a` and stand in stages `b`. Together these are the matrix of moves."""

    source: str
    a: list[str]
    """Names in A's order of training; empty: no stage used them, by the rules in `rules`."""
    b: list[str]
    samples: int
    tokens: int
    """Of the samples, once each."""
    rules: dict[str, int]
    """What keeps them out where they do not stand, by samples. Of a sample that is in no stage on one side it is the plan's own
    rule (docs/planning.md), `absent` where that side has no such sample. Of one that left or came to a stage it is the rule of
    the stage where it does not stand: `new_stage`, `gone_stage`, `not_mixed`, `stage_where`, `quantile`, `too_long` or `budget`;
    of a build of an earlier version, whose plan does not tell the last four apart, those that are possible, as `stage_where or
    budget`. A sample counts once for each such stage."""


class StageUse(msgspec.Struct, frozen=True, kw_only=True):
    """How often a sample comes in one stage: its epochs there."""

    stage: str
    times: int


class StageRule(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps one sample out of one stage: a rule as in `Move.rules`."""

    stage: str
    rule: str


class SampleChange(msgspec.Struct, frozen=True, kw_only=True):
    """An example: one sample whose selection differs."""

    id: str
    """32 hexadecimal digits, as `mixc explain --sample` takes them."""
    source: str
    tokens: int
    uses_a: list[StageUse]
    uses_b: list[StageUse]
    not_in_a: list[StageRule]
    """Of a moved sample: the stages where B has it and A has not, each with the rule that keeps it out of A's."""
    not_in_b: list[StageRule]
    """Likewise for B."""
    rule_a: str | None
    """What keeps it out of A, where A does not use it: a rule of the plan, or `absent`."""
    rule_b: str | None
    detail_a: str | None
    """The rule's own words: the threshold, the duplicate that won, the stage."""
    detail_b: str | None
    path: str | None
    """The file and row where B has it, or A if B has not."""
    row: int | None


class SampleCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Samples by what became of them from A to B. A sample that stands in several stages counts once."""

    added: int
    """Used by B, not by A."""
    removed: int
    """Used by A, not by B."""
    moved: int
    """Used by both, not in the same stages."""
    repeated: int
    """In the same stages, but not as often: `more` and `less` together."""
    more: int
    """Of those, the ones that B uses more often in all, or as often in all but in other stages."""
    less: int
    kept: int
    """In the same stages as often."""
    added_tokens: int
    removed_tokens: int
    added_by_rule: dict[str, dict[str, int]]
    """Source -> the rule that had kept it out of A -> samples. `absent`: it was not in A's sources."""
    removed_by_rule: dict[str, dict[str, int]]
    """Source -> the rule that keeps it out of B -> samples."""
    moves: list[Move]
    """Added, removed and moved samples by source and stages, most samples first."""
    examples: dict[str, list[SampleChange]]
    """By `added`, `removed`, `moved`, `more`, `less`: a few, the least ids of each source and rule."""


class Composition(msgspec.Struct, frozen=True, kw_only=True):
    """One source in one stage, on both sides; None where it has no part."""

    stage: str
    source: str
    a: SourcePlan | None
    b: SourcePlan | None


class StageTotals(msgspec.Struct, frozen=True, kw_only=True):
    """What a whole stage trains on one side. Counts with repetition."""

    batch: int
    sequence_length: int
    steps: int
    packs: int
    samples: int
    tokens: int
    supervised_tokens: int
    images: int
    tiles: int
    fill: float


class StageChange(msgspec.Struct, frozen=True, kw_only=True):
    """One stage on both sides; None where there is none."""

    stage: str
    a: StageTotals | None
    b: StageTotals | None


class Distance(msgspec.Struct, frozen=True, kw_only=True):
    """How far two mixtures are apart, from 0 to 1: p and q are the parts of the tokens that each source gives.

    total_variation = 1/2 * sum |p - q|: the part of the tokens that would have to come from another source.
    jensen_shannon = H((p + q) / 2) - (H(p) + H(q)) / 2 in bits, H(p) = -sum p log2 p (Lin, "Divergence measures based on the
    Shannon entropy", IEEE Trans. Inf. Theory 37, 1991).
    """

    total_variation: float
    jensen_shannon: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A signal's values over the uses of a source's samples on one side."""

    count: int
    """Uses whose value is a finite number."""
    mean: float
    quantiles: list[float]
    """At QUANTILES, each a value that occurs."""
    bins: list[int]
    """Uses in BINS bins of equal width from `low` to `high` of the distribution, the last one closed."""


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """A signal before and after, of one source over all stages. Only signals that the specs name, and only those that differ."""

    source: str
    signal: str
    """A signal's name or a column's."""
    low: float
    high: float
    """Least and largest value of both sides."""
    a: Summary
    b: Summary


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A point of a training: before this step of this stage; `pack` is the first that differs in it."""

    stage: str
    step: int
    pack: int


class StageOrder(msgspec.Struct, frozen=True, kw_only=True):
    first_difference: Place | None
    """The first pack that differs. A stage that only one side has differs from its first step on."""
    steps_a: int
    steps_b: int
    equal_steps: int
    """Steps that train the same packs at the same place in both."""
    equal_share: float
    """Of the steps of the longer side, those that are equal: 1 of a stage that is the same."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A point of a run: `step` steps of `stage` are trained, and all stages before it."""

    stage: str
    step: int
    steps: int
    """Steps trained by then in all stages together."""


class Overlap(msgspec.Struct, frozen=True, kw_only=True):
    """What B would train again, if it went on with its own steps from the first difference after a run of A up to here."""

    stage: str
    """A's run is over with this stage."""
    samples: int
    """Different samples that B trains from the first difference on."""
    repeated: int
    """Of them those that A has trained by then, from the first difference on."""


class Continuation(msgspec.Struct, frozen=True, kw_only=True):
    """From where in A's run B may go on. None of both: the first step differs already."""

    data: Point
    """Up to here both train the same packs in the same steps: a checkpoint of A saved here or before has trained nothing that B
    does not, in no other order, and B goes on from there without a repeated sample."""
    training: Point
    """Up to here everything is the same, learning rates too: a checkpoint of A is a checkpoint of B."""
    overlap: list[Overlap]
    """By stage of A from the first difference on."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    first_difference: Place | None
    """The first pack in the order of training that differs."""
    stages: dict[str, StageOrder]
    """A's stages in order, then those that only B has. A renamed stage stands by A's name."""
    steps: int
    """Steps of the longer side, all stages together."""
    equal_steps: int
    equal_share: float
    continuation: Continuation | None
    """None when nothing differs: any checkpoint will do."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a diff says. What cannot be said is None or empty, and `unknown` says why."""

    a: SideLabel
    b: SideLabel
    equal: bool
    """Whether a training run sees the same on both sides: equal roots where both are known, else equal plans and settings, else
    (a lock that cannot be planned) equal inputs."""
    causes: list[Cause]
    """What makes them differ, the first to look at first: the spec, then content, then libraries. Empty if `equal`."""
    possible: list[Cause]
    """What differs too and may have a part in it; it cannot be told."""
    no_effect: list[Cause]
    """What differs and changes nothing that is trained."""
    unknown: dict[Level, str]
    """Levels that cannot be told, and why; empty if `equal`."""
    spec: list[Change]
    """The canonical specs, key by key: comments, order of keys and defaults that are spelled out are not in them."""
    settings: list[Change]
    """What a training run sees beside packs: tokenizer, template, geometry, seed, training settings."""
    sources: dict[str, SourceChange]
    """Only those that differ, by name; a renamed source by A's."""
    samples: SampleCounts | None
    stages: list[StageChange]
    """Only those that differ, in the order of training."""
    composition: list[Composition]
    """Only what differs."""
    distance: Distance | None
    """Of all tokens; None when unknown."""
    distances: dict[str, Distance]
    """By stage, those that both sides have."""
    distributions: list[Distribution]
    """Only those that differ."""
    order: Order | None
