"""Perceptual hashes of images, and their near-duplicates against a plain model."""

from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mixc.clean.images import MOST_TABLES, NO_HASH, hash_of, near_duplicate_images, phash, tables

PHOTOS = sorted((Path(__file__).parents[2] / "specs/demo/data/chat/images").iterdir())


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in PHOTOS]


def test_smaller_and_coarser_copies_are_near_and_other_images_are_not(photos: list[Image.Image]) -> None:
    hashes = [phash(encoded(image)) for image in photos]
    assert len(hashes) > 20
    apart = []
    for image, value in zip(photos, hashes, strict=True):
        small = image.resize((image.width * 2 // 3, image.height * 2 // 3), Image.Resampling.LANCZOS)
        apart.append(distance(phash(encoded(image, "JPEG", quality=60)), value))
        apart.append(distance(phash(encoded(small, "WEBP", quality=70)), value))
    assert max(apart) <= 8
    assert sum(bits <= 4 for bits in apart) >= 0.9 * len(apart)
    assert min(distance(one, other) for one, other in combinations(hashes, 2)) >= 16


def test_the_hash_is_that_of_the_floating_point_transform() -> None:
    """Against NumPy's matrix of unrounded cosines: a bit may differ only where a frequency is at the median."""
    k, n = np.arange(8)[:, None], np.arange(32)[None, :]
    cosines = np.cos(np.pi * k * (2 * n + 1) / 64)
    for seed in range(50):
        grey = np.random.default_rng(seed).integers(0, 256, (32, 32))
        low = (cosines @ grey @ cosines.T).reshape(-1)
        bits = "".join("1" if value > np.median(low) else "0" for value in low)
        unsure = int((abs(low - np.median(low)) < 1).sum())
        assert distance(hash_of(grey), int(bits, 2)) <= unsure
        assert unsure <= 4


def test_orientation_and_transparency() -> None:
    image = Image.open(PHOTOS[0]).convert("RGB")
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    assert phash(encoded(turned, exif=exif)) == phash(encoded(image))
    assert distance(phash(encoded(turned)), phash(encoded(image))) > 8
    cut = image.convert("RGBA")
    mask = Image.new("L", image.size, 255)
    mask.paste(0, (0, 0, image.width // 2, image.height))
    cut.putalpha(mask)
    white = image.copy()
    white.paste((255, 255, 255), (0, 0, image.width // 2, image.height))
    assert phash(encoded(cut)) == phash(encoded(white))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_no_reason_to_fail() -> None:
    image = Image.open(PHOTOS[0]).convert("RGB")
    damaged = encoded(image, "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12")
    assert phash(damaged) == phash(encoded(Image.open(io.BytesIO(damaged)).convert("RGB")))


def test_flat_images_are_like_nothing() -> None:
    flat = [phash(encoded(Image.new("RGB", (90, 40), colour))) for colour in ("white", "black", (90, 91, 92))]
    assert flat == [NO_HASH] * 3
    won = near_duplicate_images(np.array(flat, np.uint64), np.arange(3), np.arange(3), bits=15)
    assert won.tolist() == [0, 1, 2]
    for seed in range(20):
        tiny = np.random.default_rng(seed).integers(0, 20, (32, 32))
        assert hash_of(tiny) >> 63 == 1
    spot = np.zeros((32, 32), np.int64)
    spot[0, 0] = 8
    assert hash_of(spot) != NO_HASH


def test_grey_palette_and_one_bit_images() -> None:
    image = ImageOps.autocontrast(Image.open(PHOTOS[0]).convert("L"))
    value = phash(encoded(image))
    assert phash(encoded(image.convert("RGB"))) == value
    assert distance(phash(encoded(image.convert("P"))), value) <= 2
    assert distance(phash(encoded(image.convert("1"))), value) <= 8


@pytest.mark.parametrize("bits", range(16))
@pytest.mark.parametrize("count", [1, 1000, 10**6, 10**8])
def test_some_table_finds_whatever_is_near(bits: int, count: int) -> None:
    masks = [int(mask) for mask in tables(count, bits)]
    assert len(masks) <= MOST_TABLES
    random = np.random.default_rng(bits)
    for _ in range(50):
        flipped = sum(1 << int(bit) for bit in random.choice(64, bits, replace=False))
        assert any(not mask & flipped for mask in masks)


def model(images: list[list[int]], ranks: list[int], bits: int) -> list[int]:
    winner = list(range(len(images)))
    kept: list[int] = []
    for sample in sorted(winner, key=lambda s: ranks[s]):
        mine = images[sample]
        if not mine or NO_HASH in mine:
            continue
        for other in kept:
            theirs = images[other]
            if len(theirs) == len(mine) and all(distance(a, b) <= bits for a, b in zip(mine, theirs, strict=True)):
                winner[sample] = other
                break
        else:
            kept.append(sample)
    return winner


BASES = [0, 1, (1 << 64) - 1, 0x0123456789ABCDEF, 0xF0F0F0F0F0F0F0F0]
HASHES = st.builds(
    lambda base, flips: base ^ sum(1 << bit for bit in flips),
    st.sampled_from(BASES),
    st.sets(st.integers(0, 63), max_size=8),
)


@given(st.lists(st.lists(HASHES, max_size=3), max_size=14), st.integers(0, 15), st.data())
def test_winners_follow_the_rule_whatever_the_order(images: list[list[int]], bits: int, data: st.DataObject) -> None:
    ranks = data.draw(st.permutations(range(len(images))))
    expected = model(images, ranks, bits)

    def found(order: list[int]) -> list[int]:
        hashes = np.array([value for i in order for value in images[i]], np.uint64)
        owners = np.array([place for place, i in enumerate(order) for _ in images[i]], np.int64)
        own = np.array([ranks[i] for i in order], np.int64)
        return near_duplicate_images(hashes, owners, own, bits=bits).tolist()

    assert found(list(range(len(images)))) == expected
    order = data.draw(st.permutations(range(len(images))))
    assert [order[w] for w in found(order)] == [expected[i] for i in order]


def test_many_like_images_end() -> None:
    """200,000 images within 2 bits of one: 2e10 pairs, of which only those with what stays are looked at."""
    flips = np.random.default_rng(1).integers(0, 64, (200_000, 1), np.uint64)
    hashes = np.uint64(0xF0F0F0F0F0F0F0F0) ^ (np.uint64(1) << flips[:, 0])
    won = near_duplicate_images(hashes, np.arange(len(hashes)), np.arange(len(hashes)), bits=2)
    assert (won == 0).all()


def test_samples_that_begin_with_one_image_are_looked_up_by_another() -> None:
    """As frames of a title card do: by the first image every sample would be compared with every other."""
    random = np.random.default_rng(2)
    hashes = random.integers(1, 2**64, (100_000, 2), np.uint64)
    hashes[:, 0] = 7
    hashes[-1, 1] = hashes[3, 1] ^ np.uint64(1)
    owners = np.repeat(np.arange(len(hashes)), 2)
    won = near_duplicate_images(hashes.reshape(-1), owners, np.arange(len(hashes)), bits=3)
    assert won.tolist() == [*range(len(hashes) - 1), 3]
