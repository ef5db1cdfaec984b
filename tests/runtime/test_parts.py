"""Parts of parameters: written by some, read by others."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from runtime.errors import CheckpointError
from runtime.parts import MOMENTS, Part, Saved, contents, write

SIZES = {"a.weight": 35, "a.bias": 1, "b.weight": 64, "b.bias": 7}


@pytest.fixture(scope="module")
def values():
    generator = torch.Generator().manual_seed(1)
    return {
        (what, name): torch.randn(size, generator=generator)
        for what in ("weight", *MOMENTS)
        for name, size in SIZES.items()
    }


def cut(world: int, how: int) -> list[dict[str, tuple[int, int]]]:
    """For each of `world` processes, the elements that it has of each parameter: anywhere, by number `how`."""
    choose = random.Random(how)
    made: list[dict[str, tuple[int, int]]] = [{} for _ in range(world)]
    for name, size in SIZES.items():
        ends = [0, *sorted(choose.randint(0, size) for _ in range(world - 1)), size]
        for rank, (start, end) in enumerate(pairwise(ends)):
            if start < end:
                made[rank][name] = (start, end)
    return made


def save(folder, cuts, values, buffers=None, updates=5):
    """As ZeRO 1 lays them out: what a process has, end to end in one tensor with padding. The files."""
    paths = []
    folder.mkdir()
    for rank, had in enumerate(cuts):
        state, parts, offset = {}, [], 0
        flat = torch.full((sum(end - start for start, end in had.values()) + 3,), 9e9)
        moments = {moment: flat.clone() for moment in MOMENTS}
        for name, (start, end) in had.items():
            part = Part(name=name, start=start, numel=end - start, flat=flat, offset=offset)
            part.of(flat).copy_(values["weight", name][start:end])
            for moment in MOMENTS:
                part.of(moments[moment]).copy_(values[moment, name][start:end])
            parts.append(part)
            offset += part.numel
        if updates:
            state[flat] = moments | {"step": torch.tensor(float(updates))}
        paths.append(folder / f"{rank:05d}.safetensors")
        write(paths[-1], *contents(parts, state, buffers or {} if rank == 0 else {}))
    return paths


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 2), (2, 1), (3, 2), (2, 5), (7, 3)])
def test_any_cut_is_read_from_any_other(tmp_path, values, before, after):
    for how in range(5):
        paths = save(tmp_path / str(how), cut(before, how), values)
        saved = Saved(paths)
        saved.check(SIZES, [], tmp_path)
        for had in cut(after, how + 100):
            for name, (start, end) in had.items():
                part = Part(name=name, start=start, numel=end - start, flat=torch.zeros(0), offset=0)
                for what in ("weight", *MOMENTS):
                    into = torch.zeros(end - start)
                    saved.fill(into, what, part)
                    assert torch.equal(into, values[what, name][start:end]), (what, name, start, end)
                assert saved.updates(name) == 5


def test_a_file_is_safetensors_to_others_and_holds_what_is_there_alone(tmp_path, values):
    buffers = {"mean": torch.randn(3, 2).bfloat16(), "count": torch.tensor(7), "odd": torch.tensor([True])}
    (path,) = save(tmp_path / "one", cut(1, 0), values, buffers)
    found = load_file(path)
    assert all(torch.equal(found[f"{what}/{name}"], value) for (what, name), value in values.items())
    assert all(torch.equal(found[f"buffer/{name}"], value) for name, value in buffers.items())
    assert len(found) == len(values) + len(buffers)
    assert all(torch.equal(Saved([path]).buffers[name], value) for name, value in buffers.items())
    (path,) = save(tmp_path / "new", cut(1, 0), values, updates=0)
    assert set(load_file(path)) == {f"weight/{name}" for name in SIZES}


def test_what_does_not_make_a_model_is_refused(tmp_path, values):
    paths = save(tmp_path / "two", [{name: (0, size) for name, size in SIZES.items()}, {}], values)
    halves = [{name: (0, size // 2) for name, size in SIZES.items()} for _ in range(2)]
    overlapping = save(tmp_path / "overlapping", halves, values)
    for files, sizes, buffers, what in (
        (paths, SIZES | {"c.weight": 3}, [], "c.weight"),
        (paths, {"a.weight": 35}, [], "a.bias"),
        (paths, SIZES, ["mean"], "mean"),
        (paths, SIZES | {"b.bias": 8}, [], "do not make a tensor of 8 elements"),
        (overlapping, SIZES, [], "0 to 17, 0 to 17"),
        (overlapping[:1], SIZES, [], "0 to 17"),
    ):
        with pytest.raises(CheckpointError) as caught:
            Saved(files).check(sizes, buffers, tmp_path)
        assert what in str(caught.value)


class Harmful:
    def __reduce__(self):
        return print, ("code of a checkpoint has run",)


def test_a_file_that_is_another_thing_is_refused_and_runs_nothing(tmp_path, values, capsys):
    (path,) = save(tmp_path / "one", cut(1, 0), values)
    data = path.read_bytes()
    torch.save({"weight": Harmful()}, tmp_path / "pickle")
    for name, content in (("short", data[:-1]), ("empty", b""), ("pickle", (tmp_path / "pickle").read_bytes())):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="not the parts of a model") as caught:
            Saved([tmp_path / name])
        assert str(tmp_path / name) in str(caught.value)
    assert "has run" not in capsys.readouterr().out
