"""Small mixtures of every rule a stage has, and the rule that keeps each sample out of each stage, found again from
docs/planning.md: row by row, in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any

from hypothesis import strategies as st

from mixc.plan import keys
from mixc.spec.schema import MixEntry, Quantile, Source, Spec, Stage, Train
from tests.plan.conftest import Row, digest

SEED = 7
CONDITIONS: dict[str | None, Callable[[Row], bool]] = {
    None: lambda row: True,
    "level < 3": lambda row: row.columns["level"] < 3,
    "level >= 2": lambda row: row.columns["level"] >= 2,
    "score > 0.3": lambda row: row.columns["score"] is not None and row.columns["score"] > 0.3,
    "tokens <= 40": lambda row: row.tokens <= 40,
}
QUANTILES = (None, None, (0.0, 0.5), (0.25, 1.0), (0.4, 0.6))


@dataclass(frozen=True)
class Mixture:
    spec: Spec
    rows: dict[str, list[Row]]

    def id(self, source: str, number: int) -> bytes:
        """Contents are all different, so none is renamed."""
        return digest(source, self.rows[source][number].content)


def rows(source: str) -> st.SearchStrategy[list[Row]]:
    numbers = st.tuples(
        st.integers(1, 70), st.integers(0, 3), st.integers(0, 4), st.none() | st.sampled_from([0.1, 0.3, 0.5, 0.9])
    )
    return st.lists(numbers, min_size=16, max_size=40).map(
        lambda drawn: [
            Row(
                content=(source, n),
                tokens=tokens + 10 * tiles * (source == "b"),
                images=int(tiles > 0 and source == "b"),
                tiles=tiles * (source == "b"),
                columns={"level": level, "score": score},
            )
            for n, (tokens, tiles, level, score) in enumerate(drawn)
        ]
    )


def _entries() -> st.SearchStrategy[MixEntry]:
    def make(where: str | None, part: tuple[float, float] | None, epochs: int) -> MixEntry:
        quantile = None if part is None else Quantile(by="score", at_least=part[0], below=part[1])
        return MixEntry(weight=1, where=where, quantile=quantile, max_epochs=epochs)

    return st.builds(make, st.sampled_from(list(CONDITIONS)), st.sampled_from(QUANTILES), st.integers(1, 2))


def stages(least: int = 1) -> st.SearchStrategy[list[dict[str, Any]]]:
    stage = st.fixed_dictionaries(
        {
            "mix": st.one_of(
                st.fixed_dictionaries({"a": _entries(), "b": _entries()}), st.fixed_dictionaries({"a": _entries()})
            ),
            "budget": st.sampled_from(["0.3 epochs", "0.7 epochs", "1 epoch", "200 tokens", "9 samples"]),
            "sequence_length": st.sampled_from([30, 64, 200]),
            "max_tiles": st.sampled_from([1, 3]),
            "reuse": st.sampled_from([True, True, False]),
        }
    )
    return st.lists(stage, min_size=least, max_size=3)


def make_spec(stages: list[dict[str, Any]], where: str | None, too_long: str | None) -> Spec:
    return Spec(
        mixture="m",
        seed=SEED,
        model="sail-vl-tiny",
        sources={
            "a": Source(path="*", kind="text", where=where, too_long=too_long),
            "b": Source(path="*", kind="caption"),
        },
        stages=[
            Stage(
                name=f"s{n}",
                on_exhausted="renormalise",
                train=Train(lr={"language": 1e-5}, batch=2, loss="token"),
                **own,
            )
            for n, own in enumerate(stages)
        ],
    )


def kept_out(mixture: Mixture) -> dict[tuple[int, bytes], str]:
    """By stage and id of every sample that some stage judges and whose source it mixes: the first of the stage's own rules that
    it does not pass, `budget` for one that passes all."""
    found = {}
    for number, stage in enumerate(mixture.spec.stages):
        for source, entry in stage.mix.items():
            given = mixture.spec.sources[source]
            own = [n for n, row in enumerate(mixture.rows[source]) if CONDITIONS[given.where](row)]
            passing = [n for n in own if CONDITIONS[entry.where](mixture.rows[source][n])]
            ranked = passing
            if entry.quantile is not None:
                key = keys.make_key(SEED, "quantile", "", 0)

                def place(n: int, source: str = source, key: keys.Key = key) -> tuple[float, int, bytes]:
                    id = mixture.id(source, n)
                    value = mixture.rows[source][n].columns["score"]
                    return value, int(keys.key64(key, *keys.split_ids(id))[0]), id

                ordered = sorted(
                    (n for n in passing if mixture.rows[source][n].columns["score"] is not None), key=place
                )
                first, last = (floor(part * len(ordered)) for part in _fractions(entry.quantile))
                ranked = ordered[first:last]
            for n in own:
                row = mixture.rows[source][n]
                splits = given.kind == "text" and given.too_long != "drop"
                long = row.tiles > stage.max_tiles or (not splits and row.tokens > stage.sequence_length)
                found[number, mixture.id(source, n)] = (
                    "stage_where"
                    if n not in passing
                    else "quantile"
                    if n not in ranked
                    else "too_long"
                    if long
                    else "budget"
                )
    return found


def _fractions(quantile: Quantile) -> list[Fraction]:
    return [Fraction(str(part)) for part in (quantile.at_least, quantile.below)]
