"""Generating: the same tokens as without a cache, alone as together, and every way for a request to be wrong."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from runtime.generate import Picture, Request, answer, prompt_embeddings, ready, serve
from runtime.model.sail_vl import SailVL
from tests.runtime.test_model import IMAGE, TILE, Sample, build, logits, pack, toy

ROWS = 4  # of a tile
NEVER = 80  # a token to stop at that the model does not have
MOST = 12

LANGUAGES = ["qwen2", "qwen3", "qwen3_moe"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    made = []
    for number, (width, height) in enumerate([(60, 50), (200, 90), (90, 200)]):
        made.append(folder / f"{number}.png")
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(made[-1])
    return made


def cut(path: Path, *grids: tuple[int, int]) -> torch.Tensor:
    """Tiles by Pillow alone: of each grid in turn, row by row. Resized along the rows, then along the columns, which was Pillow's
    own order before 13.0."""
    image = Image.open(path)
    tiles = []
    for cols, rows in grids:
        whole = image.resize((TILE * cols, image.height)).resize((TILE * cols, TILE * rows))
        for row in range(rows):
            for col in range(cols):
                box = (col * TILE, row * TILE, (col + 1) * TILE, (row + 1) * TILE)
                tiles.append(np.asarray(whole.crop(box)).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(tiles))


@pytest.fixture(scope="module")
def asked(files: list[Path]) -> list[tuple[Request, torch.Tensor]]:
    """Requests with no image, one, two, and one cut twice, of different lengths, and the tiles of each."""
    random = np.random.default_rng(1)
    pictures = [
        ([], []),
        ([Picture(str(files[0]), [(1, 1)], False)], [cut(files[0], (1, 1))]),
        (
            [Picture(str(files[1]), [(2, 1)], True), Picture(str(files[0]), [(1, 1)], False)],
            [cut(files[1], (2, 1), (1, 1)), cut(files[0], (1, 1))],
        ),
        ([Picture(str(files[2]), [(1, 2), (1, 3)], True)], [cut(files[2], (1, 2), (1, 3), (1, 1))]),
    ]
    made = []
    for number, (images, tiles) in enumerate(pictures):
        tokens: list[int] = []
        for each in tiles:
            tokens += [*random.integers(0, 77, 3).tolist(), *[IMAGE] * (ROWS * len(each))]
        tokens += random.integers(0, 77, 5 + 2 * number).tolist()
        request = Request(
            id=10 + number, tokens=tokens, image_token=IMAGE, images=images, stop=[NEVER], max_new_tokens=MOST
        )
        made.append((request, torch.cat([torch.empty((0, 3, TILE, TILE), dtype=torch.uint8), *tiles])))
    return made


@pytest.fixture(scope="module", params=LANGUAGES)
def packed(request: pytest.FixtureRequest) -> SailVL:
    """The model as it is trained."""
    return build(toy("internvit" if request.param == "qwen2" else "aimv2", request.param)).eval()


@pytest.fixture(scope="module")
def model(packed: SailVL) -> SailVL:
    """The same for generating."""
    return ready(build(packed.shape))


@torch.no_grad()
def without_cache(packed: SailVL, request: Request, tiles: torch.Tensor, stop: int = NEVER) -> list[int]:
    """The likeliest token after all so far, computed from the beginning, again and again."""
    places = torch.tensor([place for place, token in enumerate(request.tokens) if token == IMAGE], dtype=torch.int64)
    tokens = list(request.tokens)
    while len(tokens) < len(request.tokens) + request.max_new_tokens:
        batch = pack(Sample(tuple(tokens), tiles, 1, 1.0))
        batch = dataclasses.replace(
            batch, image_positions=places
        )  # an answer's own <IMG_CONTEXT> is no place for an image
        token = int(logits(packed, batch)[-1].argmax())
        if token == stop:
            break
        tokens.append(token)
    return tokens[len(request.tokens) :]


def said(model: SailVL, *requests: Request) -> dict[int, tuple[list[int], str]]:
    """Tokens and end of every answer, asked together."""
    out = io.BytesIO()
    answer(model, requests, out)
    return heard(out)


def heard(out: io.BytesIO) -> dict[int, tuple[list[int], str]]:
    made: dict[int, list[int]] = {}
    ends: dict[int, str] = {}
    for line in map(json.loads, out.getvalue().splitlines()):
        assert line["id"] not in ends
        made.setdefault(line["id"], []).extend(line.get("tokens", []))
        if "tokens" not in line:
            ends[line["id"]] = line["done"] if "done" in line else f"error: {line['error']}"
    return {number: (made[number], end) for number, end in ends.items()}


class TestGreedy:
    def test_alone_it_equals_computing_everything_again(self, packed, model, asked) -> None:
        answers = []
        for request, tiles in asked:
            expected = without_cache(packed, request, tiles)
            assert said(model, request) == {request.id: (expected, "length")}
            answers.append(expected)
        assert len({tuple(each) for each in answers}) == len(asked)  # they do depend on the question
        assert any(len(set(each)) > 3 for each in answers)

    def test_together_it_equals_alone(self, packed, model, asked) -> None:
        """Padded on the left, to the longest."""
        found = said(model, *[request for request, _ in asked])
        assert found == {request.id: (without_cache(packed, request, tiles), "length") for request, tiles in asked}

    def test_it_ends_at_a_stop_that_is_no_part_of_it(self, packed, model, asked) -> None:
        answers = {request.id: without_cache(packed, request, tiles) for request, tiles in asked}
        stop = answers[11][6]  # inside one answer, wherever in the others
        expected = {}
        for number, tokens in answers.items():
            length = tokens.index(stop) if stop in tokens else MOST
            expected[number] = (tokens[:length], "stop" if length < MOST else "length")
        assert expected[11][1] == "stop"
        requests = [msgspec.structs.replace(request, stop=[NEVER, stop]) for request, _ in asked]
        assert said(model, *requests) == expected
        for request in requests:
            assert said(model, request) == {request.id: expected[request.id]}

    def test_other_images_give_other_answers(self, packed, model, asked, files) -> None:
        request, _ = asked[1]
        other = msgspec.structs.replace(request, images=[Picture(str(files[2]), [(1, 1)], False)])
        assert said(model, request) != said(model, other)
        assert said(model, other)[request.id][0] == without_cache(packed, other, cut(files[2], (1, 1)))

    def test_after_the_prompt_only_what_is_new_is_computed(self, model, asked) -> None:
        request, _ = asked[2]
        lengths: list[int] = []
        hook = model.language.model.layers[0].register_forward_pre_hook(
            lambda _, args: lengths.append(args[0].shape[1])
        )
        said(model, request)
        hook.remove()
        assert lengths == [len(request.tokens)] + [1] * (MOST - 1)

    def test_one_alone_is_told_token_by_token(self, model, asked) -> None:
        out = io.BytesIO()
        answer(model, [asked[0][0]], out)
        lines = [json.loads(line) for line in out.getvalue().splitlines()]
        assert [len(line["tokens"]) for line in lines[:-1]] == [1] * MOST and lines[-1] == {"id": 10, "done": "length"}


def test_tiles_come_in_order(asked) -> None:
    """Of the first grid, of the second, the thumbnail, each into its place."""
    model = ready(build(toy("aimv2", "qwen3")))
    request, tiles = asked[3]
    with torch.no_grad():
        found = prompt_embeddings(model, request).clone()
        rows = model.encode(tiles, torch.float32).flatten(0, 1)
        expected = model.language.get_input_embeddings()(torch.tensor(request.tokens))
    places = [place for place, token in enumerate(request.tokens) if token == IMAGE]
    assert len(tiles) == 6 and len(places) == 6 * ROWS
    expected[places] = rows
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


class TestSampling:
    @pytest.fixture
    def model(self) -> SailVL:
        return ready(build(toy("aimv2", "qwen3")))

    def test_the_seed_decides_whoever_is_beside(self, model, asked) -> None:
        requests = [msgspec.structs.replace(request, temperature=1.5, seed=3) for request, _ in asked]
        together = said(model, *requests)
        for request in requests:
            assert said(model, request) == {request.id: together[request.id]}
        others = said(model, *[msgspec.structs.replace(request, seed=4) for request in requests])
        assert all(others[number] != together[number] for number in together)

    def test_a_little_top_p_is_greedy(self, model, asked) -> None:
        requests = [request for request, _ in asked]
        narrow = [msgspec.structs.replace(request, temperature=1.0, top_p=1e-6) for request in requests]
        assert said(model, *narrow) == said(model, *requests)

    def test_tokens_are_drawn_by_their_probability(self, model, asked) -> None:
        request, tiles = asked[1]
        last = logits(build(model.shape), pack(Sample(tuple(request.tokens), tiles, 1, 1.0)))[-1].detach()
        temperature = float(last.std()) * 0.7  # so that several tokens are likely
        likely = (last / temperature).softmax(-1)
        first = [
            said(model, msgspec.structs.replace(request, temperature=temperature, seed=seed, max_new_tokens=1))[11][0][
                0
            ]
            for seed in range(300)
        ]
        counts = torch.bincount(torch.tensor(first), minlength=80)
        assert likely.max() < 0.9
        for token in likely.topk(3).indices.tolist():
            expected, deviation = 300 * float(likely[token]), (300 * float(likely[token] * (1 - likely[token]))) ** 0.5
            assert abs(int(counts[token]) - expected) < 4 * deviation


class TestOneWrongRequest:
    @pytest.fixture
    def model(self) -> SailVL:
        return ready(build(toy("internvit", "qwen2")))

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            (lambda r, d: {"images": [Picture(str(d / "none.png"), [(1, 1)], False)]}, "none.png"),
            (lambda r, d: {"images": [Picture(str(d), [(1, 1)], False)]}, "directory"),
            (lambda r, d: {"images": [Picture(str(d / "text.png"), [(1, 1)], False)]}, "no known image format"),
            (lambda r, d: {"images": [Picture(str(d / "half.png"), [(1, 1)], False)]}, "truncated"),
            (lambda r, d: {"images": []}, "the images have 0 rows, the prompt has 4 places"),
            (lambda r, d: {"images": r.images * 2}, "the images have 8 rows, the prompt has 4 places"),
            (
                lambda r, d: {"images": [msgspec.structs.replace(r.images[0], grids=[(2, 1)])]},
                "have 8 rows, the prompt has 4",
            ),
            (lambda r, d: {"tokens": [*r.tokens, 80]}, "token 80, and the model knows 80"),
            (lambda r, d: {"tokens": [*r.tokens, -1]}, "token -1"),
            (lambda r, d: {"tokens": [1] * 32768, "images": []}, "32768 positions"),
        ],
    )
    def test_is_told_and_disturbs_no_other(self, model, asked, files, tmp_path, wrong, says) -> None:
        (tmp_path / "text.png").write_text("no image")
        data = files[0].read_bytes()
        (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
        requests = [request for request, _ in asked]
        bad = msgspec.structs.replace(requests[1], id=99, **wrong(requests[1], tmp_path))
        found = said(model, requests[0], bad, *requests[1:])
        tokens, end = found.pop(99)
        assert tokens == [] and end.startswith("error: ") and says in end
        assert found == said(model, *requests)

    @pytest.mark.parametrize(
        "change", [{"tokens": []}, {"stop": []}, {"top_p": 0}, {"temperature": -1}, {"more": 1}, {"max_new_tokens": 0}]
    )
    def test_one_that_is_none_is_told_by_its_number(self, model, asked, change) -> None:
        good = msgspec.json.encode(asked[0][0])
        bad = msgspec.json.encode({**msgspec.to_builtins(asked[0][0]), "id": 99, **change})
        out = io.BytesIO()
        serve(model, io.BytesIO(bad + b"\n" + good + b"\n\n" + good + b"\n"), out)  # the end, too, says: answer
        lines = out.getvalue().splitlines(keepends=True)
        assert json.loads(lines[0])["id"] == 99 and "error" in json.loads(lines[0])
        middle = 1 + len(lines) // 2
        expected = said(model, asked[0][0])
        assert heard(io.BytesIO(b"".join(lines[1:middle]))) == heard(io.BytesIO(b"".join(lines[middle:]))) == expected

    def test_an_answer_ends_where_the_models_positions_do(self, asked) -> None:
        shape = toy("internvit", "qwen2")
        request = asked[0][0]
        most = len(request.tokens) + 3
        model = ready(
            build(dataclasses.replace(shape, language=dataclasses.replace(shape.language, max_positions=most)))
        )
        tokens, end = said(model, request)[10]
        assert (len(tokens), end) == (3, "length")
