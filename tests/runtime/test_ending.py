from __future__ import annotations

from pathlib import Path

import pytest

from runtime import ending
from runtime.processes import Place
from shards.store import StoreUrl


def place(world: int, local_world: int) -> Place:
    return Place(rank=0, world=world, local_rank=0, local_world=local_world)


@pytest.mark.parametrize(
    ("processes", "command"),
    [
        (place(1, 1), "mixc train s3://b/uild --out 'my run' --resume"),
        (place(2, 2), "mixc train s3://b/uild --out 'my run' --nproc 2 --resume"),
        (place(4, 2), "the command that started it, with --resume"),
    ],
)
def test_the_command_that_goes_on(processes: Place, command: str) -> None:
    assert ending.go_on(StoreUrl("s3://b/uild"), Path("my run"), processes) == command


def test_the_command_that_asks_what_was_trained() -> None:
    told = ending.trained(Path("my run"), ["align", "sft"], left=[], images=True)
    assert told == [
        "my run: all stages are trained (align, sft); the weights are in my run/sft",
        "next: mixc chat 'my run' --image x.jpg \"...\"",
    ]
    assert ending.trained(Path("run"), ["sft"], left=[], images=False)[1] == 'next: mixc chat run "..."'


def test_steps_are_counted_as_the_lines_of_the_run_count_them() -> None:
    assert ending.stopped("align", 1, 3) == "stopped after 1 of 3 steps of stage align; what is done is saved"
    assert ending.stopped("align", 1, 1) == "stopped after 1 of 1 step of stage align; what is done is saved"
    assert ending.stopped("align", 0, 1000) == "stopped after 0 of 1,000 steps of stage align; what is done is saved"
