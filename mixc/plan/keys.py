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
from typing import NamedTuple

import numpy as np
from blake3 import blake3

from mixc.hashing import U64, mix64


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
