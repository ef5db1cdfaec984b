"""Keyed hashing: where every random choice of a plan comes from.

A choice is a pure function of (seed, purpose, stage, epoch, sample id). The first four are digested once into
a 128-bit `Key`; the id, itself a 128-bit digest and so uniform already, is mixed with it by two SplitMix64
finalisers:

    K     = blake3(b"mixc key 1" || seed u64 || epoch u32 || len(purpose) u32 || purpose || len(stage) u32 ||
    stage) K_hi, K_lo = K[0:8], K[8:16] as u64                 (all integers little-endian, names in UTF-8)
    id_hi, id_lo = id[0:8], id[8:16] as big-endian u64  (so that (id_hi, id_lo) sorts as the id's bytes do)
    key64 = mix64(mix64(id_hi ^ K_hi) ^ id_lo ^ K_lo)

    mix64(z): z ^= z >> 30; z *= 0xbf58476d1ce4e5b9; z ^= z >> 27; z *= 0x94d049bb133111eb; z ^= z >> 31

mix64 is the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014, with Stafford's variant 13 constants). It is a bijection, so for one key two ids of equal first
half never collide; a tie between others is broken by the id wherever keys are sorted. This is a hash for
order, not against an adversary. The function is part of the build format: it never changes, and
tests/plan/test_keys.py holds golden values.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from blake3 import blake3

if TYPE_CHECKING:
    import duckdb

U64 = npt.NDArray[np.uint64]

KEY_FUNCTION = "mixc_key"
DUPLICATE_FUNCTION = "mixc_duplicate_half"


class Key(NamedTuple):
    """The 128 bits that a purpose, a stage and an epoch give to `key64`."""

    hi: int
    lo: int


def make_key(seed: int, purpose: str, stage: str, epoch: int) -> Key:
    """Digest (seed, purpose, stage, epoch). `seed` is below 2^64, `epoch` below 2^32."""
    purpose_bytes, stage_bytes = purpose.encode(), stage.encode()
    digest = blake3(
        b"mixc key 1"
        + struct.pack("<QI", seed, epoch)
        + struct.pack("<I", len(purpose_bytes))
        + purpose_bytes
        + struct.pack("<I", len(stage_bytes))
        + stage_bytes
    ).digest(length=16)
    return Key(*struct.unpack("<QQ", digest))


def mix64(z: U64) -> U64:
    """SplitMix64's finaliser of uint64 [N], a bijection of the 64-bit integers."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key64(key: Key, hi: U64, lo: U64) -> U64:
    """Keys uint64 [N] of the ids whose halves are `hi` and `lo`, uint64 [N]."""
    return mix64(mix64(hi ^ np.uint64(key.hi)) ^ lo ^ np.uint64(key.lo))


def split_ids(ids: bytes | memoryview) -> tuple[U64, U64]:
    """Halves (hi, lo), uint64 [N] each, of N ids of 16 bytes end to end."""
    halves = np.frombuffer(ids, dtype=">u8").reshape(-1, 2).astype(np.uint64)
    return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])


def join_ids(hi: U64, lo: U64) -> bytes:
    """The inverse of `split_ids`: N ids of 16 bytes end to end."""
    return np.stack([hi, lo], axis=1).astype(">u8").tobytes()


def duplicate_id(id: bytes, rank: int) -> bytes:
    """The id of the rank-th (from 0) of samples that are equal in source and content: rank 0 keeps the common
    id."""
    if rank == 0:
        return id
    return blake3(b"mixc duplicate 1" + id + struct.pack("<I", rank)).digest(length=16)


def register(connection: duckdb.DuckDBPyConnection) -> None:
    """Give a connection the two functions as SQL. Close the connection before the interpreter ends: DuckDB's
    binding prints a list of leaks when one that holds a function of Python's stays open.

    - `mixc_key(hi UBIGINT, lo UBIGINT, key_hi UBIGINT, key_lo UBIGINT) -> UBIGINT` is `key64`.
    - `mixc_duplicate_half(hi UBIGINT, lo UBIGINT, rank UBIGINT, half UBIGINT) -> UBIGINT` is half 0 (hi) or 1
      (lo) of
      `duplicate_id`.
    """
    import pyarrow as pa

    def column(values: Any) -> U64:
        array: U64 = values.to_numpy(zero_copy_only=False)
        return array

    def key(hi: Any, lo: Any, key_hi: Any, key_lo: Any) -> Any:
        return pa.array(mix64(mix64(column(hi) ^ column(key_hi)) ^ column(lo) ^ column(key_lo)))

    def duplicate_half(hi: Any, lo: Any, rank: Any, half: Any) -> Any:
        ids = join_ids(column(hi), column(lo))
        renamed = b"".join(duplicate_id(ids[16 * i : 16 * i + 16], int(rank)) for i, rank in enumerate(column(rank)))
        halves = np.stack(split_ids(renamed))
        return pa.array(halves[column(half).astype(np.int64), np.arange(halves.shape[1])])

    # Types as strings: the module that names them moved between DuckDB 1.4 and 2.0.
    create: Any = connection.create_function
    for name, function in ((KEY_FUNCTION, key), (DUPLICATE_FUNCTION, duplicate_half)):
        create(name, function, ["UBIGINT"] * 4, "UBIGINT", type="arrow")
