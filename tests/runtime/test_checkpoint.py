"""The room of checkpoints: copies, threads, errors, and what a killed run leaves. Whole runs are in test_train.py, those that are
killed in test_processes.py."""

from __future__ import annotations

import io
import resource
import threading
import time
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from runtime import memory, metrics, parts
from runtime.begin import clear
from runtime.checkpoint import files, host
from runtime.checkpoint.saver import Saver
from runtime.loader import Division, Play
from runtime.processes import Place
from runtime.trials import Trials
from shards.manifest import SearchSettings
from tests.runtime.small import ALIGN, GEOMETRY
from tests.runtime.test_search import descent

CPU = torch.device("cpu")
PLACE = Place(rank=0, world=1, local_rank=0, local_world=1)
STATE = files.State(
    format=files.FORMAT,
    root="0" * 64,
    stage="align",
    step=1,
    world=1,
    zero=0,
    precision="fp32",
    skipped=0,
    skipped_in_a_row=0,
    files={},
)


def flat(tensors: list[torch.Tensor]) -> bytes:
    return b"".join(parts.flat_bytes(tensor).numpy().tobytes() for tensor in tensors)


TENSORS = st.lists(
    st.tuples(
        st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]), st.integers(0, 40), st.integers(0, 9)
    ),
    max_size=6,
).map(lambda given: [torch.full((size,), value).to(dtype) for dtype, size, value in given])


@given(first=TENSORS, second=TENSORS, piece=st.integers(1, 64))
def test_a_copy_has_all_bytes_in_order_wherever_its_pieces_end(first, second, piece) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "PIECE", piece)
        copy = host.HostCopy(CPU)
        for tensors in (first, second, first):  # larger or smaller than what there is room for
            expected = flat(tensors)
            copy.reserve(len(expected))
            taken = copy.take(tensors)
            for tensor in tensors:
                tensor.zero_()
            assert flat(taken) == expected
        assert copy.size == max(sum(tensor.nbytes for tensor in tensors) for tensors in (first, second))


def test_the_memory_that_is_left_is_the_containers(tmp_path, monkeypatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  1000 kB\nMemAvailable:   400 kB\n")
    monkeypatch.setattr(memory, "_FACTS", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.available() == 400 * 1024
    (tmp_path / "memory.max").write_text("300000\n")
    (tmp_path / "memory.current").write_text("250000\n")
    (tmp_path / "memory.stat").write_text("anon 100000\ninactive_file 50000\n")
    assert memory.available() == 100000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() == 400 * 1024
    monkeypatch.undo()
    assert memory.available() > 0


@pytest.fixture
def make(alone, build):
    """Engines that train the projector alone, after one step, so that they have moments."""
    from runtime.engine import Engine
    from runtime.model.sail_vl import build_model

    made = []
    division = Division(batch=4, world=1, micro_batch=4)
    batch = Play(build, "tune", division, 0)[0].row.expand()

    def engine(zero: int) -> Engine:
        model = build_model("sail-vl-tiny", GEOMETRY, 7, torch.float32)
        made.append(Engine(model, ALIGN, division, zero=zero, precision="fp32", device=CPU))
        made[-1].backward(made[-1].forward(batch), denominator=1.0)
        made[-1].step(ALIGN.lr)
        return made[-1]

    yield engine
    for each in made:
        each.close()


@pytest.fixture
def saving(alone, tmp_path):
    """A saver, its folder, and what it prints."""
    (tmp_path / metrics.NAME).touch()
    printed = io.StringIO()
    with Saver(tmp_path, PLACE, CPU, Console(file=printed)) as saver:
        yield saver, tmp_path, printed


def forget_nothing(_: Path) -> None:
    """Of a test with one checkpoint."""


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "room"), [(0, True), (1, True), (2, True), (3, True), (0, False)])
def test_it_has_what_was_there_when_it_began_though_training_goes_on(make, saving, monkeypatch, zero, room) -> None:
    """Without room for a copy, too: the step waits until it is written."""
    saver, folder, printed = saving
    engine, gate = make(zero), threading.Event()
    if room:
        saver.prepare(engine)
        saver._thread.submit(gate.wait)  # nothing is written before what is trained has changed
    else:
        monkeypatch.setattr(memory, "available", lambda: 100)
    expected = flat(engine.contents(PLACE).tensors)
    saver.begin(engine, folder, STATE, forget_nothing)
    for tensor in engine.contents(PLACE).tensors:
        tensor.fill_(9.0)
    gate.set()
    assert files.latest(folder) is None  # not before all processes know that all have written
    saver.finish()
    path, state = files.latest(folder)
    (name,) = state.files
    assert (path / name).read_bytes().endswith(expected) and len(expected) > 12 * 5000
    files.load(engine, path, state, PLACE)
    assert flat(engine.contents(PLACE).tensors) == expected
    assert ("no memory for a copy" in printed.getvalue()) == (not room)


@pytest.mark.slow
def test_one_is_under_way_at_a_time_and_what_it_cost_is_told_once(make, saving) -> None:
    saver, folder, _ = saving
    engine = make(1)
    for step in (1, 2, 3):
        saver.begin(engine, folder, msgspec.structs.replace(STATE, step=step), files.keep_furthest(1, ["align"]))
        names = {path.name for path in (folder / files.FOLDER).glob("align-*")}
        assert names == ({f"align-{step - 1:08d}"} if step > 1 else set())
    told = saver.at(metrics.Flags(writing=True))
    assert [save.checkpoint for save in told] == ["align-00000001", "align-00000002"] and all(
        save.blocked > 0 and save.behind >= 0 for save in told
    )
    saver.finish()
    assert [save.checkpoint for save in saver.at(saver.flags())] == ["align-00000003"] and saver.at(saver.flags()) == []


@pytest.mark.slow
def test_an_error_is_told_at_the_next_step_and_the_last_checkpoint_is_whole(make, saving) -> None:
    saver, folder, _ = saving
    engine = make(0)
    saver.begin(engine, folder, STATE, forget_nothing)
    saver.finish()
    before = {path: path.read_bytes() for path in (folder / files.FOLDER).rglob("*") if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # less than its file
    try:
        saver.begin(engine, folder, msgspec.structs.replace(STATE, step=2), forget_nothing)
        while saver.flags().writing:
            time.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saver.flags().failed
    with pytest.raises(OSError, match="File too large"):
        saver.at(saver.flags())
    assert saver.flags() == metrics.Flags()
    assert {path: path.read_bytes() for path in before} == before
    files.load(engine, *files.latest(folder), PLACE)


@pytest.mark.slow
def test_a_copy_is_kept_while_a_checkpoint_of_the_run_would_go_back_to_it(make, saving) -> None:
    """A run that is killed may have begun any number of trials since its last checkpoint. Losses by hand, and the rest real."""
    saver, folder, _ = saving
    engine, settings = make(0), SearchSettings(window=3, up=1.5, down=1.43, decay=1.0, start=0, end=1000)
    trials, state = Trials(folder, saver, PLACE), msgspec.structs.replace(STATE, step=0)
    copies = folder / "search/checkpoints"

    def play(state: files.State, losses: list[float]) -> files.State:
        for loss in losses:
            engine.contents(PLACE).tensors[0].add_(1.0)  # a step
            state = trials.after(engine, msgspec.structs.replace(state, step=state.step + 1), loss, settings)
        return state

    def kept() -> list[int]:
        saver.finish()
        return sorted(int(path.name.split("-")[1]) for path in copies.glob("align-*"))

    # the descent slows down, so that a trial begins; each is better than the one before, and the next one follows it
    losses = descent([-0.02, -0.01, -0.03, -0.05, -0.07, -0.09], window=3)
    state = play(state, losses[:6])
    copied = flat(engine.contents(PLACE).tensors)
    state = play(state, losses[6:7])
    saver.begin(engine, folder, state, files.keep_furthest(1, ["align"]))  # in the first trial
    play(state, losses[7:])
    assert kept() == [6, 18]

    path, state = files.latest(folder)
    assert state.step == 7 and state.search.kept == 6
    files.load(engine, path, state, PLACE)
    state = play(state, [99.0])  # undone
    assert flat(engine.contents(PLACE).tensors) == copied

    state = play(state, descent([-0.02, -0.01], start=9.0, window=3))
    saver.begin(engine, folder, state, files.keep_furthest(1, ["align"]))
    state = play(state, descent([-0.03], start=8.9, window=3))
    assert state.search.kept == 17 and kept() == [14, 17]  # nothing needs the sixth step's any more


def test_what_a_killed_run_has_left_is_removed_and_nothing_else(tmp_path) -> None:
    ours = [
        ".align.partial",
        "averages/.align.partial",
        "checkpoints/.align-00000003.partial/parts",
        "search/checkpoints/.align-00000003.partial/parts",
    ]
    theirs = [
        ".notes.partial",
        "align",
        "checkpoints/align-00000002",
        "checkpoints/.other-00000003.partial",
        ".lock.partial",
    ]
    for folder in (*ours, *theirs):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").touch()
    loose = [
        ".run.json.0123456789abcdef.partial",
        ".metrics.jsonl.partial",
        "checkpoints/.latest.0123456789abcdef.partial",
    ]
    for name in (*loose, "run.json", ".mine.0123456789abcdef.partial"):
        (tmp_path / name).touch()
    clear(tmp_path, ["align"])
    assert not any((tmp_path / name).exists() for name in (*ours, *loose))
    assert all((tmp_path / name / "file").exists() for name in theirs)
    assert (tmp_path / "run.json").exists() and (tmp_path / ".mine.0123456789abcdef.partial").exists()
