"""Loss and gradients do not hang on how a step's samples are divided over processes, micro-steps and packs; at every ZeRO stage.

tests/runtime/invariance.py has the cases. Those in two processes run in one launch, as most of its time is imports.
"""

from __future__ import annotations

import itertools
import json

import pytest

from runtime.processes import Place
from tests.runtime import invariance, launching
from tests.runtime.invariance import ALONE, CASES, POISONS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(700)]


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("invariance")
    invariance.write(folder)
    return folder


@pytest.fixture(scope="module")
def together(builds):
    """What two processes found, by case."""
    printed = launching.train(builds, processes=2, module="tests.runtime.invariance", timeout=600)
    found = [json.loads(line) for line in printed.splitlines() if line.startswith('{"')]
    return {row.get("case") or tuple(row["poison"]): row for row in found}


def check(found: dict[str, float]) -> None:
    assert found["loss"] < 1e-5 and found["gradient"] < 1e-5 and found["norm"] < 1e-5, found
    assert found["share"] < 1e-4, found  # a small gradient is right too


@pytest.mark.dist
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_two_processes_come_to_what_plain_torch_does(together, case):
    check(together[repr(case)])


@pytest.mark.parametrize("case", ALONE, ids=repr)
@pytest.mark.usefixtures("alone")
def test_one_process_does_too(builds, case):
    check(invariance.apart(builds, case, Place(rank=0, world=1, local_rank=0, local_world=1)))


@pytest.mark.dist
@pytest.mark.parametrize("poison", POISONS, ids=repr)
def test_a_nan_in_one_process_changes_nothing_in_any(together, poison):
    """Neither weights nor moments nor Adam's count of steps: the step after comes to the same bits as if it had not been."""
    found = together[poison]
    assert found["finite"] == [[True, True], [False, False], [True, True]]
    assert found["same"]


def test_the_cases_are_not_all_alike(builds):
    """Rules of weights, what is dropped and what the routers' loss adds change gradients by much more than what is allowed."""
    kinds = [
        *(invariance.Case(loss=loss) for loss in invariance.LOSSES),
        invariance.Case(drop_path=0.5),
        invariance.Case(model="sail-vl-tiny-moe"),
        invariance.Case(model="sail-vl-tiny-moe", drop_path=0.5),
    ]
    found = [
        invariance.reference(builds, kind)[1].gradients["vision.encoder.embeddings.position_embedding.weight"]
        for kind in kinds
    ]
    for one, other in itertools.combinations(found, 2):
        assert float((one - other).abs().max() / one.abs().max()) > 0.01
