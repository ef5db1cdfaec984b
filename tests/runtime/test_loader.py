"""Which packs are trained on is a pure function of the step; the workers only bring them."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
import shutil

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from runtime.batch import Batch
from runtime.errors import ArgumentError
from runtime.loader import Division, Play, play, source_index, source_names
from shards.build import Build
from shards.errors import ShardError
from shards.layout import token_shard_name
from shards.pack import pack_digest

CPU = torch.device("cpu")


@st.composite
def divisions(draw):
    world, micro_batch, micro_steps = (draw(st.integers(1, 12)) for _ in range(3))
    return Division(batch=world * micro_batch * micro_steps, world=world, micro_batch=micro_batch)


@given(division=divisions(), step=st.integers(0, 10**6))
def test_every_pack_of_a_step_is_trained_once(division, step):
    taken = [
        pack
        for micro in range(division.micro_steps)
        for rank in range(division.world)
        for pack in division.packs(step, micro, rank)
    ]
    assert sorted(taken) == list(range(step * division.batch, (step + 1) * division.batch))


@given(division=divisions(), step=st.integers(0, 1000))
def test_ranks_do_neighbours_in_the_order_of_cost(division, step):
    """So that, packs of a step being sorted by cost, a rank never does more than one pack's range more than
    another."""
    for micro in range(division.micro_steps):
        ranks = [division.packs(step, micro, rank) for rank in range(division.world)]
        for place in range(division.micro_batch):
            row = [packs[place] for packs in ranks]
            assert row == list(range(row[0], row[0] + division.world))


def test_the_formula():
    division = Division(batch=12, world=2, micro_batch=3)
    assert [list(division.packs(1, micro, rank)) for micro in (0, 1) for rank in (0, 1)] == [
        [12, 14, 16],
        [13, 15, 17],
        [18, 20, 22],
        [19, 21, 23],
    ]


@given(batch=st.integers(1, 64), world=st.integers(1, 16), micro_batch=st.integers(1, 16))
def test_what_does_not_divide_is_refused_with_what_would(batch, world, micro_batch):
    assume(batch % (world * micro_batch))
    with pytest.raises(ArgumentError) as caught:
        Division(batch=batch, world=world, micro_batch=micro_batch)
    if batch % world == 0:
        assert "--micro-batch can be 1" in caught.value.mend
    else:
        assert f" {batch}" in caught.value.mend  # as many processes as packs always divide


def test_sources_are_numbered_by_name(build):
    stages = Build.open(build).manifest.stages
    assert source_names(stages) == ["captions", "chat", "prose"]
    assert sorted(source_index(stages).values()) == [0, 1, 2]


def test_a_micro_step_holds_what_the_build_does(build):
    opened = Build.open(build)
    reader = opened.stage("tune")
    micro = Play(build, "tune", Division(batch=4, world=2, micro_batch=2), rank=1)[2]
    assert (micro.step, micro.micro, micro.packs) == (2, 0, (9, 11))
    assert [f"{digest:016x}" for digest in micro.digests] == [
        pack_digest(reader.pack_bytes(number)).hex()[:16] for number in micro.packs
    ]
    packs = [reader.pack(number) for number in micro.packs]
    assert micro.tokens == sum(len(pack.tokens) for pack in packs)
    assert micro.tiles == sum(len(pack.images) for pack in packs)
    lengths = [length for pack in packs for length in _lengths(pack)]
    assert micro.pairs == sum(length**2 for length in lengths)
    assert sum(micro.weights) == pytest.approx(float(micro.row.expand().weights_N.double().sum()))


def _lengths(pack):
    starts = [*pack.segments["start"].tolist(), len(pack.tokens)]
    return [end - start for start, end in itertools.pairwise(starts)]


def test_shares_of_the_ranks_add_up_to_the_denominator(build):
    opened = Build.open(build)
    division = Division(batch=4, world=2, micro_batch=1)
    for step, record in enumerate(opened.stage("tune").steps):
        micros = [Play(build, "tune", division, rank)[2 * step + k] for rank in (0, 1) for k in (0, 1)]
        assert sum(sum(micro.weights) for micro in micros) == pytest.approx(float(record["denominator"]))
        assert sum(micro.tokens for micro in micros) == record["tokens"]


def test_workers_change_nothing(build):
    dataset = Play(build, "tune", Division(batch=4, world=1, micro_batch=2), rank=0)
    alone, helped = (list(play(dataset, range(1, 4), workers=workers, device=CPU)) for workers in (0, 2))
    assert [micro.packs for micro in alone] == [(4, 5), (6, 7), (8, 9), (10, 11), (12, 13), (14, 15)]
    for one, other in zip(alone, helped, strict=True):
        assert (one.packs, one.digests, one.weights) == (other.packs, other.digests, other.weights)
        assert_equal(one.row.expand(), other.row.expand())


def assert_equal(one, other):
    for field in dataclasses.fields(Batch):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b


def test_a_row_is_whole_again_after_its_way_from_a_worker(build):
    dataset = Play(build, "tune", Division(batch=4, world=1, micro_batch=2), rank=0)
    rows = [dataset[item].row for item in range(8)]
    assert {len(row.tiles_M) for row in rows} > {0}
    for row in rows:
        assert_equal(pickle.loads(pickle.dumps(row)).expand(), row.expand())


def test_a_row_of_text_is_handed_over_in_little_more_than_four_bytes_a_token(build):
    row = Play(build, "tune", Division(batch=4, world=1, micro_batch=4), rank=0)[0].row
    text = dataclasses.replace(row, tiles_M=row.tiles_M[:0])
    assert pickle.loads(pickle.dumps(text)).tiles_M.shape == (0, 3, 448, 448)
    assert len(pickle.dumps(text)) < 4 * row.tokens + 1500


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_named_without_a_traceback(build, tmp_path, workers):
    damaged = shutil.copytree(build, tmp_path / "damaged")
    shard = damaged / token_shard_name("align", 0)
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    dataset = Play(damaged, "align", Division(batch=4, world=1, micro_batch=1), rank=0)
    with pytest.raises(ShardError) as caught:
        list(play(dataset, range(1), workers=workers, device=CPU))
    assert str(shard) in str(caught.value)
    assert "Traceback" not in str(caught.value)
