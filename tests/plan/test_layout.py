"""Packs, steps and rows of a stage, computed again from docs/planning.md sections 5 and 6."""

from __future__ import annotations

from math import fsum
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixc.hashing import mix64
from mixc.plan.balance_ranks import balanced_order, rank_skews
from mixc.plan.keys import key64, make_key
from mixc.plan.layout import Layout
from mixc.plan.order import PIECE_STEP, SEGMENT
from mixc.plan.pack import pack
from mixc.plan.select import StageRules
from mixc.plan.tables import PACKS_SCHEMA, PLACEMENTS_SCHEMA
from mixc.spec.schema import Order, Stage, Train

NAMES = ["a", "b", "c"]
TOKEN, TILE = 35_890, 8_463_800
"""Of section 6."""


class Rows:
    """A table that keeps what is written."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.tables: list[pa.Table] = []

    def write(self, columns: dict[str, Any]) -> None:
        assert sorted(columns) == sorted(self.schema.names)
        arrays = [pa.array(columns[field.name], field.type) for field in self.schema]
        self.tables.append(pa.Table.from_arrays(arrays, schema=self.schema))

    def rows(self) -> list[dict[str, Any]]:
        return pa.concat_tables(self.tables).to_pylist() if self.tables else []


def window(number: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    segments = np.zeros(number, SEGMENT)
    for name in ("hi", "lo", "chi", "clo"):
        segments[name] = random.integers(0, 2**64, number, dtype=np.uint64)
    segments["tokens"] = random.integers(1, 60, number)
    segments["supervised"] = random.integers(0, segments["tokens"])
    segments["tiles"] = random.integers(0, 4, number)
    for name, top in (("source", 3), ("images", 3), ("epoch", 2), ("piece", 2), ("fragment", 9), ("row", 2**40)):
        segments[name] = random.integers(0, top, number)
    segments["start"], segments["length"] = random.integers(0, 2**40, number), random.integers(0, 2**20, number)
    segments["piece_end"] = segments["tokens"]
    return segments


def lay_out(
    windows: list[np.ndarray],
    batch: int,
    loss: Literal["token", "sample", "square"] = "square",
    steps: Literal["mixed", "alike"] = "mixed",
) -> Any:
    stage = Stage(
        name="s",
        budget=1,
        mix=["a"],
        sequence_length=64,
        train=Train(lr={"language": 1e-5}, batch=batch, loss=loss),
        order=Order(steps=steps),
    )
    places, packs = Rows(PLACEMENTS_SCHEMA), Rows(PACKS_SCHEMA)
    rules = StageRules(number=2, name="s", sequence_length=64, max_tiles=5, splits={})
    layout = Layout(number=2, stage=stage, rules=rules, names=NAMES, places=places, packs=packs)
    for each in windows:
        layout.add(each, seed=11)
    layout.finish()
    return layout, places.rows(), packs.rows()


def expected_packs(
    windows: list[np.ndarray], batch: int, steps: Literal["mixed", "alike"] = "mixed"
) -> list[np.ndarray]:
    """The packs of the stage in order, each with its segments."""
    ordered: list[tuple[int, np.ndarray]] = []
    waiting: list[tuple[int, np.ndarray]] = []
    for each in windows:
        numbers = pack(each["tokens"], each["tiles"], max_tokens=64, max_tiles=5)
        packs = []
        for number in range(int(numbers.max()) + 1):
            inside = each[numbers == number]
            head = inside[:1]
            key = key64(make_key(11, "pack", "s", int(head["epoch"][0])), head["hi"], head["lo"])
            packs.append((int(mix64(key + head["piece"].astype(np.uint64) * PIECE_STEP)[0]), inside))
        if steps == "mixed":
            ordered += sorted(packs, key=lambda item: item[0])
            continue
        by_cost = sorted([*waiting, *packs], key=lambda item: (-cost(item[1]), item[0]))
        whole = len(by_cost) // batch * batch
        groups = [by_cost[start : start + batch] for start in range(0, whole, batch)]
        ordered += [item for group in sorted(groups, key=lambda group: group[0][0]) for item in group]
        waiting = by_cost[whole:]
    ordered += waiting
    ordered += [(0, np.zeros(0, SEGMENT))] * (-len(ordered) % batch)
    result = []
    for start in range(0, len(ordered), batch):
        step = sorted(ordered[start : start + batch], key=lambda item: (-cost(item[1]), item[0]))
        places = balanced_order(np.array([cost(inside) for _, inside in step]), batch=batch)
        result += [step[place][1] for place in places.tolist()]
    return result


def cost(inside: np.ndarray) -> int:
    return sum(TOKEN * int(s["tokens"]) + TILE * int(s["tiles"]) + int(s["tokens"]) ** 2 for s in inside)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 80), min_size=1, max_size=4),
    st.sampled_from([1, 4, 7, 12]),
    st.sampled_from(["token", "sample", "square"]),
    st.sampled_from(["mixed", "alike"]),
    st.integers(0, 99),
)
def test_rows_are_those_of_the_page(
    sizes: list[int],
    batch: int,
    loss: Literal["token", "sample", "square"],
    steps: Literal["mixed", "alike"],
    seed: int,
) -> None:
    windows = [window(size, seed + i) for i, size in enumerate(sizes)]
    layout, places, packs = lay_out(windows, batch, loss, steps)
    expected = expected_packs(windows, batch, steps)
    assert [row["pack"] for row in packs] == list(range(len(expected)))
    assert layout.written == len(expected)
    assert layout.empty == sum(len(inside) == 0 for inside in expected) < batch
    at = 0
    for number, inside in enumerate(expected):
        row, own = packs[number], places[at : at + len(inside)]
        at += len(inside)
        assert (row["stage"], row["step"], row["samples"]) == (2, number // batch, len(inside))
        for place, (segment, found) in enumerate(zip(inside, own, strict=True)):
            assert (found["stage"], found["step"], found["pack"], found["place"]) == (2, number // batch, number, place)
            assert found["source"] == NAMES[segment["source"]]
            assert found["id"].int == int(segment["hi"]) << 64 | int(segment["lo"])
            assert found["content"].int == int(segment["chi"]) << 64 | int(segment["clo"])
            assert found["supervised_tokens"] == segment["supervised"]
            assert found["offset"] == segment["start"]
            for name in ("epoch", "piece", "piece_start", "piece_end", "tokens", "images", "tiles", "fragment", "row"):
                assert found[name] == segment[name]
            n = int(segment["supervised"])
            weight = {"token": 1.0, "sample": 1 / max(n, 1), "square": max(n, 1) ** -0.5}[loss] if n else 0.0
            assert found["weight"] == pytest.approx(weight, rel=2**-23)
        for column, name in (("tokens", "tokens"), ("supervised_tokens", "supervised"), ("tiles", "tiles")):
            assert row[column] == sum(int(s[name]) for s in inside)
        assert row["images"] == sum(int(s["images"]) for s in inside)
        assert row["denominator"] == fsum(found["weight"] * found["supervised_tokens"] for found in own)
    assert at == len(places)


def test_totals_and_skews() -> None:
    windows = [window(70, 1), window(30, 2)]
    layout, _, _ = lay_out(windows, 12)
    whole = np.concatenate(windows)
    for index in range(3):
        own = whole[whole["source"] == index]
        assert layout.totals["samples"][index] == len(own)
        assert layout.totals["whole"][index] == (own["piece"] == 0).sum()
        for name in ("tokens", "supervised", "images", "tiles"):
            assert layout.totals[name][index] == own[name].sum()
    costs = np.array([cost(inside) for inside in expected_packs(windows, 12)])
    skews = rank_skews(costs, batch=12).tolist()
    assert layout.skews == skews
    assert layout.empty > 0
    assert len(skews) > 2
    assert layout.rank_skew == fsum(skews[:-1]) / (len(skews) - 1)
    assert layout.rank_skew_max == max(skews[:-1])
    only, _, _ = lay_out([window(3, 1)], 512)
    assert only.rank_skew == only.rank_skew_max == only.skews[0] > 1


def test_steps_of_like_packs_are_even_with_one_pack_a_rank() -> None:
    windows = [window(4000, 5)]
    mixed, _, _ = lay_out(windows, 16)
    alike, _, _ = lay_out(windows, 16, steps="alike")
    assert alike.rank_skew < 0.03 < mixed.rank_skew


def test_an_empty_stage_has_no_rows() -> None:
    layout, places, packs = lay_out([], 4)
    assert (layout.written, layout.empty, places, packs) == (0, 0, [], [])
    assert layout.rank_skew == layout.rank_skew_max == 0
