"""What a run is made of, and what it refuses to go on with."""

from __future__ import annotations

import copy
from pathlib import Path

import msgspec
import pytest

from runtime import record
from runtime.arguments import Arguments
from runtime.errors import ArgumentError, ResumeError
from shards.build import Build


@pytest.fixture
def manifest(build):
    return Build.open(build).manifest


@pytest.fixture
def settle(manifest, tmp_path):
    def settled(begun=False, manifest=manifest, **flags):
        arguments = Arguments(build=Path("b"), out=tmp_path, **flags)
        return record.settle(arguments, manifest, begun=begun, world=2, threads=1, precision="fp32")

    return settled


def test_a_new_run_takes_defaults_and_flags(settle):
    made = settle()
    assert (made.stages, made.zero, made.precision, made.micro_batch) == (["align", "tune"], 1, "fp32", 1)
    made = settle(stages=("tune", "align"), zero=0, precision="bf16", micro_batch=2)
    assert (made.stages, made.zero, made.precision, made.micro_batch) == (["align", "tune"], 0, "bf16", 2)


def test_a_resumed_run_takes_what_it_began_with(settle, tmp_path):
    begun = settle(zero=0, precision="bf16", micro_batch=2, init=tmp_path)
    record.write(tmp_path, begun)
    assert record.read(tmp_path) == begun
    assert settle(begun=True, resume=True) == begun
    assert settle(begun=True, resume=True, micro_batch=4).micro_batch == 4


def test_where_the_optimizer_is_can_change(settle, tmp_path):
    assert not settle().offload
    begun = settle(offload=True)
    record.write(tmp_path, begun)
    assert settle(begun=True, resume=True).offload
    assert not settle(begun=True, resume=True, offload=False).offload


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"zero": 0}, "began with --zero 1, not 0"),
        ({"precision": "bf16"}, "began with --precision fp32, not bf16"),
        ({"init": Path("/elsewhere")}, "began with --init None"),
    ],
)
def test_a_resumed_run_keeps_what_its_checkpoints_hang_on(settle, tmp_path, flags, what):
    record.write(tmp_path, settle())
    with pytest.raises(ResumeError, match=what):
        settle(begun=True, resume=True, **flags)


def test_a_resumed_run_can_go_on_with_later_stages_only(settle, tmp_path):
    record.write(tmp_path, settle(stages=("align",)))
    assert settle(begun=True, resume=True).stages == ["align"]
    assert settle(begun=True, resume=True, stages=("tune",)).stages == ["align", "tune"]
    record.write(tmp_path, settle(stages=("tune",)))
    with pytest.raises(ResumeError, match="later stages only"):
        settle(begun=True, resume=True, stages=("align", "tune"))


def test_a_run_is_not_begun_over_another(settle):
    with pytest.raises(ArgumentError, match="a run in this folder already") as caught:
        settle(begun=True)
    assert "--resume" in caught.value.mend


def test_an_unknown_stage_is_said_with_the_known(settle):
    with pytest.raises(ArgumentError, match="no stage 'tuen'") as caught:
        settle(stages=("tuen",))
    assert "align, tune" in caught.value.why


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        (lambda m: {"tokenizer": "f" * 64}, "tokenizer (000000000000... -> ffffffffffff...)"),
        (lambda m: {"seed": 8}, "seed (7 -> 8)"),
        (lambda m: {"stages": m.stages[:1]}, "stages.tune (gone)"),
        (
            lambda m: {"stages": [msgspec.structs.replace(m.stages[0], digest="e" * 64), m.stages[1]]},
            "stages.align.digest (",
        ),
        (
            lambda m: {
                "stages": [
                    msgspec.structs.replace(m.stages[0], train=msgspec.structs.replace(m.stages[0].train, clip=2.0)),
                    m.stages[1],
                ]
            },
            "stages.align.train.clip (1.0 -> 2.0)",
        ),
    ],
)
def test_another_build_is_refused_with_what_moved(settle, manifest, tmp_path, change, moved):
    record.write(tmp_path, settle())
    other = msgspec.structs.replace(manifest, root="d" * 64, **change(manifest))
    with pytest.raises(ResumeError) as caught:
        settle(begun=True, resume=True, manifest=other)
    assert f"moved: {moved}" in caught.value.why


def test_parts_cover_what_the_root_does(manifest):
    """Each part that changes the root is told apart, so that "moved" is never empty."""
    from shards.manifest import with_root

    assert record.moved(record.parts(manifest), copy.deepcopy(record.parts(manifest))) == []
    for field in ("batch", "sequence_length", "max_tiles", "steps"):
        stage = msgspec.structs.replace(manifest.stages[0], **{field: getattr(manifest.stages[0], field) + 1})
        other = msgspec.structs.replace(manifest, stages=[stage, manifest.stages[1]])
        assert with_root(other).root != manifest.root
        assert len(record.moved(record.parts(manifest), record.parts(other))) == 1
    turned = msgspec.structs.replace(manifest, stages=manifest.stages[::-1])
    assert record.moved(record.parts(manifest), record.parts(turned)) == ["stages in order (align tune -> tune align)"]


def test_the_folder_is_for_one_process(tmp_path):
    with (
        record.lock(tmp_path / "run"),
        pytest.raises(ArgumentError, match="another process is training"),
        record.lock(tmp_path / "run"),
    ):
        pass
    with record.lock(tmp_path / "run"):
        pass


def test_a_damaged_record_is_said(settle, tmp_path):
    (tmp_path / record.NAME).write_text("{")
    with pytest.raises(ResumeError, match="not the description of a run"):
        settle(begun=True, resume=True)
