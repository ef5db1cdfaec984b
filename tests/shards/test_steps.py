from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.digest import digest_file
from shards.errors import ShardError
from shards.pack import EMPTY_PACK, SEGMENT_DTYPE, SPAN_DTYPE, Pack
from shards.steps import STEP_DTYPE, pack_denominator, read_steps, step_record, write_steps


def text_pack(weights: list[float], lengths: list[int]) -> Pack:
    """One text a segment, all but its first token supervised."""
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(int)
    return Pack(
        tokens=np.zeros(sum(lengths), np.int32),
        segments=np.array(
            [(bytes(16), 0, start, 0, 0, w) for start, w in zip(starts, weights, strict=False)], SEGMENT_DTYPE
        ),
        spans=np.array(
            [(start + 1, start + length) for start, length in zip(starts, lengths, strict=False) if length > 1],
            SPAN_DTYPE,
        ),
        images=EMPTY_PACK.images,
    )


PARTS = st.lists(st.tuples(st.floats(0, 1e6, width=32), st.integers(1, 50)), min_size=1, max_size=12)


def test_records_are_64_bytes() -> None:
    assert STEP_DTYPE.itemsize == 64
    assert [STEP_DTYPE.fields[name][1] for name in STEP_DTYPE.names] == [0, 8, 16, 24, 32, 40, 48]


@given(PARTS)
def test_a_packs_denominator_is_the_exact_sum_rounded_once(parts: list[tuple[float, int]]) -> None:
    weights, lengths = [abs(w) for w, _ in parts], [n for _, n in parts]
    exact = sum(Fraction(float(np.float32(w))) * (n - 1) for w, n in zip(weights, lengths, strict=True))
    assert pack_denominator(text_pack(weights, lengths)) == float(exact)


def test_small_weights_beside_a_large_one_are_not_lost() -> None:
    pack = text_pack([2.0**53, 1.0, 1.0], [2, 2, 2])
    assert pack_denominator(pack) == 2.0**53 + 2  # added one by one, each 1.0 is rounded away


@given(st.lists(PARTS, min_size=1, max_size=5), st.randoms())
def test_a_steps_denominator_does_not_depend_on_the_order_of_packs(
    packs: list[list[tuple[float, int]]], random
) -> None:
    made = [text_pack([abs(w) for w, _ in parts], [n for _, n in parts]) for parts in packs]
    record = step_record(made)
    assert record["denominator"] == math.fsum(pack_denominator(pack) for pack in made)
    random.shuffle(made)
    assert step_record(made).tobytes() == record.tobytes()


def test_counts(tiny_packs: dict[str, list[Pack]]) -> None:
    first, second = tiny_packs["align"][:2]
    record = step_record([first, second])
    assert record["tokens"] == len(first.tokens) + len(second.tokens)
    assert record["supervised"] == sum(end - start for pack in (first, second) for start, end in pack.spans.tolist())
    assert (record["images"], record["tiles"], record["samples"]) == (2, 1 + 3, 3 + 1)
    assert record["reserved"].tobytes() == bytes(16)


def test_an_empty_step_is_all_zeros() -> None:
    assert step_record([EMPTY_PACK, EMPTY_PACK]).tobytes() == bytes(64)


@pytest.mark.parametrize("steps", [0, 1, 1000])
def test_round_trip(tmp_path: Path, steps: int) -> None:
    array = np.zeros(steps, STEP_DTYPE)
    array["tokens"] = np.arange(steps)
    path = tmp_path / "stage" / "steps"
    digest = write_steps(path, array)
    assert digest == digest_file(path)
    for found in (read_steps(path), read_steps(path, digest)):
        assert found.tobytes() == array.tobytes()
        assert not found.flags.writeable
    assert write_steps(tmp_path / "again", array) == digest


def test_damage(tmp_path: Path) -> None:
    path = tmp_path / "steps"
    digest = write_steps(path, np.zeros(3, STEP_DTYPE))
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at] + b"\1" + good[at + 1 :])
        with pytest.raises(ShardError, match="steps: blake3"):
            read_steps(path, digest)
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(ShardError, match=r"steps: (blake3|.* truncated)"):
            read_steps(path, digest)
    path.unlink()
    with pytest.raises(ShardError, match="steps: missing"):
        read_steps(path)


def test_wrong_dtype(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="steps are float64"):
        write_steps(tmp_path / "steps", np.zeros(3))
    assert list(tmp_path.iterdir()) == []
