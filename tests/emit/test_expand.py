"""From records to packs: image runs, moved spans, cut pieces, samples end to end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixc.emit.expand import Assembly, MismatchError, move
from mixc.emit.placements import Placements
from mixc.measure.facts import RECORD_IMAGE
from mixc.measure.records import Records, encode
from shards.pack import Pack, decode_pack, encode_pack

CONTEXT = 151671
PER_TILE = 4


@dataclass
class Made:
    """A sample as measured, and, token by token, what it is in a pack."""

    tokens: list[int]
    spans: list[tuple[int, int]]
    images: np.ndarray

    @property
    def expanded(self) -> list[tuple[int, bool, int | None]]:
        """Of every token: its id, whether it is supervised, and the image that begins there."""
        found: list[tuple[int, bool, int | None]] = []
        at = {int(image["position"]): number for number, image in enumerate(self.images)}
        for i, token in enumerate(self.tokens):
            if i in at:
                run = PER_TILE * tiles_of(self.images[at[i]])
                found += [(CONTEXT, False, at[i] if k == 0 else None) for k in range(run)]
            else:
                found.append((token, any(a <= i < b for a, b in self.spans), None))
        return found


def tiles_of(image: np.void) -> int:
    return int(image["cols"]) * int(image["rows"]) + int(image["thumbnail"])


@st.composite
def made(draw: st.DrawFn) -> Made:
    n = draw(st.integers(2, 30))
    tokens = draw(st.lists(st.integers(0, 151642), min_size=n, max_size=n))
    positions = sorted(draw(st.sets(st.integers(0, n - 1), max_size=3)))
    images = np.zeros(len(positions), RECORD_IMAGE)
    for i, position in enumerate(positions):
        tokens[position] = CONTEXT
        grid = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(0, 1)))
        images[i] = (bytes([i + 1] * 32), position, *grid, 0)
    supervised = [i > 0 and i not in positions and draw(st.booleans()) for i in range(n)]
    edges = np.flatnonzero(np.diff(np.array([False, *supervised, False]).astype(int)))
    return Made(tokens, [(int(a), int(b)) for a, b in edges.reshape(-1, 2)], images)


@dataclass
class Place:
    sample: int
    pack: int
    start: int
    end: int
    piece: int


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[Made], list[Place], int, list[int]]:
    """Samples, where they and their pieces stand, how many packs there are, and the fragment of each sample."""
    samples = draw(st.lists(made(), min_size=1, max_size=6))
    packs = draw(st.integers(1, 4))
    places = []
    for pack in range(packs):
        for _ in range(draw(st.integers(0, 4))):
            number = draw(st.integers(0, len(samples) - 1))
            length = len(samples[number].expanded)
            start, end, piece = 0, length, 0
            if not len(samples[number].images) and draw(st.booleans()):
                start = draw(st.integers(0, length - 1))
                end, piece = draw(st.integers(start + 1, length)), int(start > 0)
            places.append(Place(number, pack, start, end, piece))
    return samples, places, packs, [draw(st.integers(0, 2)) for _ in samples]


def assemble(samples: list[Made], places: list[Place], packs: int, fragments: list[int], *, first: int = 7):
    """As EmitStep does it: the samples of each fragment are records of one object."""
    words, offsets, lengths = {}, {}, {}
    for fragment in set(fragments):
        own = [i for i, f in enumerate(fragments) if f == fragment]
        chosen = [samples[i] for i in own]
        written, sizes = encode(
            Records(
                tokens=np.array([t for s in chosen for t in s.tokens], np.uint32),
                token_ends=np.cumsum([len(s.tokens) for s in chosen]),
                spans=np.array([span for s in chosen for span in s.spans], np.uint32).reshape(-1, 2),
                span_ends=np.cumsum([len(s.spans) for s in chosen]),
                images=np.concatenate([s.images for s in chosen]),
                image_ends=np.cumsum([len(s.images) for s in chosen]),
            )
        )
        words[fragment] = written
        offsets |= dict(zip(own, (np.cumsum(sizes) - sizes).tolist(), strict=True))
        lengths |= dict(zip(own, sizes.tolist(), strict=True))

    def column(values, dtype=np.int64):
        return np.array(list(values), dtype)

    of = [samples[place.sample] for place in places]
    placements = Placements(
        pack=column(place.pack + first for place in places),
        source=column((place.sample + 1 for place in places), np.uint64),
        id=column((bytes([place.sample + 1] * 16) for place in places), "V16"),
        epoch=column(place.sample % 3 for place in places),
        piece=column(place.piece for place in places),
        piece_start=column(place.start for place in places),
        piece_end=column(place.end for place in places),
        tokens=column(place.end - place.start for place in places),
        images=column(len(sample.images) for sample in of),
        tiles=column(sum(map(tiles_of, sample.images)) for sample in of),
        fragment=column(fragments[place.sample] for place in places),
        offset=column(offsets[place.sample] for place in places),
        length=column(lengths[place.sample] for place in places),
        weight=column((0.5 for _ in places), np.float32),
    )
    assembly = Assembly(placements, first=first, last=first + packs, tokens_per_tile=PER_TILE, image_context_id=CONTEXT)
    for fragment in sorted(set(fragments), reverse=True):
        placed = np.flatnonzero(placements.fragment == fragment)
        if len(placed):
            assembly.add(words[fragment], placed)
    return assembly, placements, words


def expected(
    samples: list[Made], places: list[Place], pack: int
) -> tuple[list[int], list[int], list[int], list[tuple[int, bytes]]]:
    """Of one pack, token by token: ids, supervised positions, segment starts, and images by start."""
    tokens: list[int] = []
    supervised, starts, images = [], [], []
    for place in places:
        if place.pack != pack:
            continue
        starts.append(len(tokens))
        for k, (token, is_supervised, image) in enumerate(samples[place.sample].expanded[place.start : place.end]):
            if is_supervised and k > 0:
                supervised.append(len(tokens))
            if image is not None:
                images.append((len(tokens), samples[place.sample].images[image]["digest"].tobytes()))
            tokens.append(token)
    return tokens, supervised, starts, images


def found(pack: Pack) -> tuple[list[int], list[int], list[int], list[tuple[int, bytes]]]:
    return (
        pack.tokens.tolist(),
        [i for a, b in pack.spans.tolist() for i in range(a, b)],
        pack.segments["start"].tolist(),
        [(int(image["start"]), image["digest"].tobytes()) for image in pack.images],
    )


@given(plans())
def test_packs_hold_their_samples_end_to_end(plan) -> None:
    samples, places, packs, fragments = plan
    assembly, placements, _ = assemble(samples, places, packs, fragments)
    made = assembly.packs()
    assert len(made) == packs
    for number in range(packs):
        pack = decode_pack(encode_pack(made[number]))  # it breaks no rule of a pack's
        assert found(pack) == expected(samples, places, number)
        own = placements.pack == number + 7
        for name in ("source", "epoch", "piece", "weight"):
            assert pack.segments[name].tolist() == getattr(placements, name)[own].tolist()
        assert pack.segments["id"].tobytes() == placements.id[own].tobytes()


@given(st.integers(2, 200), st.integers(1, 50))
def test_pieces_cover_a_text_and_supervise_all_but_their_first_token(n: int, size: int) -> None:
    text = Made(list(range(n)), [(1, n)], np.zeros(0, RECORD_IMAGE))
    cuts = range(0, n, size)
    places = [Place(0, k, start, min(start + size, n), k) for k, start in enumerate(cuts)]
    made = assemble([text], places, len(places), [0])[0].packs()
    assert np.concatenate([made[k].tokens for k in range(len(places))]).tolist() == list(range(n))
    for k in range(len(places)):
        assert [i for a, b in made[k].spans.tolist() for i in range(a, b)] == list(range(1, len(made[k].tokens)))


@pytest.mark.parametrize("change", ["offset", "length", "tokens", "piece_end", "images"])
def test_a_record_that_the_plan_was_not_made_from_is_refused(change: str) -> None:
    image = np.zeros(1, RECORD_IMAGE)
    image[0] = (bytes(32), 1, 2, 1, 0, 0)
    pictured = Made([5, CONTEXT, 6, 7], [(2, 4)], image)
    text = Made([1, 2, 3], [(1, 3)], image[:0])
    places = [Place(0, 0, 0, 11, 0), Place(1, 0, 0, 3, 0)]
    assembly, placements, words = assemble([pictured, text], places, 1, [0, 0])
    getattr(placements, change)[1 if change == "piece_end" else 0] += 4
    with pytest.raises(MismatchError) as refused:
        assembly.add(words[0], np.array([0, 1]))
    assert refused.value.args == (1 if change == "piece_end" else 0,)


@pytest.mark.parametrize(
    ("source", "length", "target"), [(-1, 2, 0), (0, -1, 0), (4, 2, 0), (0, 2, 7), (0, 2, -1), (1 << 40, 1, 0)]
)
def test_a_range_beyond_the_record_or_the_pack_is_not_moved(source: int, length: int, target: int) -> None:
    words, tokens = np.arange(5, dtype=np.uint32), np.full(8, -1, np.int32)
    given = (np.array([0, at], np.int64) for at in (source, length, target))
    sources, lengths, targets = given
    lengths[0] = 1
    assert move()(words, sources, lengths, tokens, targets) == 1
    assert tokens.tolist() == [0] + [-1] * 7
