"""Questions asked while training: what is answered, that training does not notice, and that nothing is lost or told twice."""

from __future__ import annotations

import functools
import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from tokenizers import Tokenizer, models

from runtime import answers, generate, metrics
from runtime.answers import Answer, name
from shards import questions
from shards.manifest import Geometry, read_manifest, with_root, write_manifest
from shards.questions import Picture, Question, Questions
from tests.runtime import launching
from tests.runtime.launching import lines, weights
from tests.runtime.small import GEOMETRY, IMAGES, SETTINGS, steps_of, write_build

STOP = 7
MOST = 6


IMAGE_RUN = [
    GEOMETRY.image_start_id,
    *[GEOMETRY.image_context_id] * GEOMETRY.tokens_per_tile,
    GEOMETRY.image_end_id,
]


@functools.cache
def vocabulary() -> bytes:
    """A token a word, `w<id>`."""
    words = {f"w{token}": token for token in range(GEOMETRY.vocab_size)}
    return Tokenizer(models.WordLevel(words, unk_token="w0")).to_str().encode()


def asked(count: int, *, geometry: Geometry = GEOMETRY, **changes: Any) -> Questions:
    """Questions of different lengths, every second with an image, every third with two."""
    made = []
    for number in range(count):
        pictures = [number % 3] * (number % 3)
        tokens = IMAGE_RUN * len(pictures) + list(range(50 + number, 60 + 2 * number))
        made.append(
            Question(
                id=f"q{number}",
                text=f"question {number}",
                tokens=tokens,
                pictures=[Picture(image=picture, grids=[(1, 1)], thumbnail=False) for picture in pictures],
                reference="w1" if number == 1 else None,
            )
        )
    settled = Questions(
        format=questions.FORMAT,
        geometry=geometry,
        tokenizer="0" * 64,
        template="1" * 64,
        vocabulary=vocabulary(),
        stop=[STOP],
        max_new_tokens=MOST,
        questions=made,
        images=list(IMAGES),
    )
    return msgspec.structs.replace(settled, **changes)


def ask(run: Path, count: int = 11, **changes: Any) -> tuple[object, ...]:
    """The flags that ask a run so many questions, the file written as `mixc train` does."""
    return "--eval-questions", questions.write(run / questions.FOLDER, asked(count, **changes))


def answered(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Every file of RUN/answers, by name."""
    return {
        path.name: [json.loads(line) for line in path.read_bytes().splitlines()]
        for path in sorted((run / answers.FOLDER).iterdir())
    }


def exact(run: Path) -> list[tuple[str, int, int]]:
    return [(line["stage"], line["step"], line["exact"]) for line in lines(run) if "exact" in line]


POINTS = [("align", 0), ("align", 2), ("align", 3), ("tune", 0), ("tune", 2), ("tune", 4), ("tune", 5)]

Train = Callable[..., str]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reference") / "run"


@pytest.fixture
def reference(train: Train, build: Path, kept: Path) -> Path:
    """A run at ZeRO 0 that is asked after every second step."""
    if not kept.exists():
        train(build, "--out", kept, "--zero", 0, *ask(kept), "--eval-every", 2)
    return kept


def by_generate(folder: Path, made: Questions, images: Path) -> dict[str, tuple[list[int], str]]:
    """Of each question the answer's tokens and how it ended, as `mixc chat` has them, one asked at a time."""
    for number, data in enumerate(made.images):
        (images / f"{number}.png").write_bytes(data)
    model, _ = generate.open_model(generate.identify(folder, None), folder, torch.device("cpu"), torch.float32)
    found = {}
    for number, question in enumerate(made.questions):
        out = io.BytesIO()
        request = generate.Request(
            id=number,
            tokens=question.tokens,
            image_token=made.geometry.image_context_id,
            images=[generate.Picture(str(images / f"{p.image}.png"), p.grids, p.thumbnail) for p in question.pictures],
            stop=made.stop,
            max_new_tokens=made.max_new_tokens,
        )
        generate.answer(model, [request], out)
        *tokens, end = [json.loads(line) for line in out.getvalue().splitlines()]
        found[str(question.id)] = ([token for line in tokens for token in line["tokens"]], end["done"])
    return found


def test_after_a_kill_what_the_checkpoint_does_not_vouch_for_is_removed(tmp_path: Path) -> None:
    answers.cut(tmp_path, [], "a", 0)  # nothing there
    for stage, step in (("a", 0), ("a", 4), ("b-1", 0), ("b-1", 2), ("b-1", 4), ("c", 0)):
        line = Answer(stage=stage, step=step, id=1, question="", answer="", end="stop", tokens=0)
        answers.write(tmp_path, [line, line])
    (tmp_path / answers.FOLDER / ".a-00000004.jsonl.12.partial").write_bytes(b"{")
    (tmp_path / answers.FOLDER / "notes-mine.jsonl").write_bytes(b"")
    answers.cut(tmp_path, ["a"], "b-1", 2)
    kept = [name("a", 0), name("a", 4), name("b-1", 0), name("b-1", 2), "notes-mine.jsonl"]
    assert sorted(path.name for path in (tmp_path / answers.FOLDER).iterdir()) == kept
    answers.cut(tmp_path, ["a"], None, 0)
    assert sorted(path.name for path in (tmp_path / answers.FOLDER).iterdir()) == [*kept[:2], kept[-1]]


def test_the_step_that_a_resume_goes_on_from_gets_its_count_once(tmp_path: Path) -> None:
    """Also when the run was killed between the file of answers and the line."""
    lines_ = [
        Answer(stage="a", step=2, id=n, question="", answer="", end="stop", tokens=0, reference="", exact=n > 1)
        for n in range(4)
    ]
    answers.write(tmp_path, lines_)
    assert (answers.exact(tmp_path, "a", 2), answers.exact(tmp_path, "a", 3)) == (2, None)
    (tmp_path / metrics.NAME).write_bytes(b'{"stage":"a","step":0,"exact":1}\n{"stage":"a","step":1}\n')
    for count in (None, 2, 3):
        metrics.complete(tmp_path, count)
    assert exact(tmp_path) == [("a", 0, 1), ("a", 1, 2)]


@pytest.mark.slow
class TestARun:
    def test_is_asked_before_a_stage_after_every_second_step_and_at_the_end(self, reference: Path) -> None:
        found = answered(reference)
        assert list(found) == [name(*point) for point in POINTS]
        for (stage, step), made in zip(POINTS, found.values(), strict=True):
            assert [each["id"] for each in made] == [f"q{number}" for number in range(11)]
            assert {(each["stage"], each["step"]) for each in made} == {(stage, step)}
            assert [each["id"] for each in made if "exact" in each] == ["q1"]
        texts = [[each["answer"] for each in made] for made in found.values()]
        assert texts[2] == texts[3], "the same weights"
        assert texts[2] != texts[-1] and len(set(texts[-1])) > 3, "they hang on weights and questions"
        told = [
            (stage, step - 1, sum(each.get("exact", False) for each in found[name(stage, step)]))
            for stage, step in POINTS
            if step
        ]
        assert exact(reference) == told

    @pytest.mark.parametrize(("stage", "step"), [("align", 3), ("tune", 5)])
    def test_answers_as_mixc_chat_does(self, reference: Path, tmp_path: Path, stage: str, step: int) -> None:
        expected = by_generate(reference / stage, asked(11), tmp_path)
        for each in answered(reference)[name(stage, step)]:
            tokens, end = expected[each["id"]]
            assert (each["answer"], each["end"]) == (" ".join(f"w{token}" for token in tokens), end)
            assert each["tokens"] == len(tokens)

    def test_an_answer_ends_at_a_stop_and_is_compared_with_its_reference(
        self, train: Train, build: Path, reference: Path, tmp_path: Path
    ) -> None:
        plain = answered(reference)[name("tune", 5)]
        words = plain[1]["answer"].split()
        stop = int(words[3][1:])
        changed = [
            msgspec.structs.replace(q, reference=f"\n{' '.join(words[: words.index(words[3])])} " if n == 1 else "x")
            for n, q in enumerate(asked(11).questions)
        ]
        train(build, "--out", tmp_path, "--zero", 0, *ask(tmp_path, questions=changed, stop=[STOP, stop]))
        found = answered(tmp_path)
        assert list(found) == [
            name(*point) for point in POINTS if point in (("align", 0), ("align", 3)) or point[1] in (0, 5)
        ]
        last = found[name("tune", 5)]
        assert last[1]["exact"] and last[1]["end"] == "stop" and last[1]["tokens"] < MOST
        assert exact(tmp_path)[-1] == ("tune", 4, 1)
        for one, other in zip(last, plain, strict=True):
            before = other["answer"].split()
            cut = before.index(f"w{stop}") if f"w{stop}" in before else MOST
            assert one["answer"].split() == before[:cut]

    @pytest.mark.parametrize("zero", [0, 1, 2, 3])
    def test_trains_the_same_with_and_without(
        self, train: Train, build: Path, reference: Path, tmp_path: Path, zero: int
    ) -> None:
        train(build, "--out", tmp_path / "without", "--zero", zero)
        train(build, "--out", tmp_path / "with", "--zero", zero, *ask(tmp_path / "with"), "--eval-every", 1)
        assert weights(tmp_path / "with") == weights(tmp_path / "without") and len(weights(tmp_path / "with")) == 2
        for one, other in zip(lines(tmp_path / "with"), lines(tmp_path / "without"), strict=True):
            assert (one["loss"], one["grad_norm"], one["packs"]) == (other["loss"], other["grad_norm"], other["packs"])
        found = answered(tmp_path / "with")
        assert len(found) == 10
        assert {point: found[point] for point in answered(reference)} == answered(reference)

    def test_trains_the_same_also_where_training_and_generating_differ(self, train: Train, tmp_path: Path) -> None:
        """A mixture of experts, which counts their choices, with branches that are dropped, smoothing, a moving average and blocks
        that are computed twice."""
        settings = msgspec.structs.replace(SETTINGS, drop_path=0.5, label_smoothing=0.2, ema=0.9)
        build = write_build(tmp_path / "build", {"tune": (settings, steps_of(2, 3))})
        manifest = read_manifest(build)
        geometry = msgspec.structs.replace(manifest.geometry, name="sail-vl-tiny-moe")
        write_manifest(build, with_root(msgspec.structs.replace(manifest, geometry=geometry)))
        for zero in (1, 3):
            runs = [tmp_path / f"{zero}-{kind}" for kind in ("without", "with")]
            flags = ("--zero", zero, "--recompute", "vision,language")
            train(build, "--out", runs[0], *flags)
            train(build, "--out", runs[1], *flags, *ask(runs[1], geometry=geometry), "--eval-every", 1)
            assert weights(runs[1]) == weights(runs[0])
            assert weights(runs[1] / "averages") == weights(runs[0] / "averages") != {}
            expected = by_generate(runs[1] / "tune", asked(11, geometry=geometry), tmp_path)
            for each in answered(runs[1])[name("tune", 2)]:
                assert each["answer"] == " ".join(f"w{token}" for token in expected[each["id"]][0])

    def test_in_parts_tells_the_same_as_in_one_go(
        self, train: Train, build: Path, reference: Path, tmp_path: Path
    ) -> None:
        """Stopped where answers are due; a file beyond the checkpoint is made again, one of the checkpoint's is not."""
        train(build, "--out", tmp_path, "--zero", 0, *ask(tmp_path), "--eval-every", 2, "--max-steps", 5)
        assert list(answered(tmp_path))[-1] == name("tune", 2)
        (tmp_path / answers.FOLDER / name("tune", 4)).write_text("{}\n")
        before = (tmp_path / answers.FOLDER / name("tune", 2)).stat().st_ino
        train(build, "--out", tmp_path, "--resume")
        assert (tmp_path / answers.FOLDER / name("tune", 2)).stat().st_ino == before
        assert answered(tmp_path) == answered(reference) and exact(tmp_path) == exact(reference)
        assert weights(tmp_path) == weights(reference)

    def test_takes_questions_others_or_none_at_a_resume(
        self, train: Train, build: Path, reference: Path, tmp_path: Path
    ) -> None:
        train(build, "--out", tmp_path, "--zero", 0, "--max-steps", 2)
        assert not (tmp_path / answers.FOLDER).exists()
        train(build, "--out", tmp_path, "--resume", *ask(tmp_path), "--eval-every", 2, "--max-steps", 4)
        points = [name(*point) for point in (("align", 2), ("align", 3), ("tune", 0))]  # the checkpoint's: made up for
        assert answered(tmp_path) == {point: answered(reference)[point] for point in points}
        assert exact(tmp_path) == exact(reference)[:2]
        train(build, "--out", tmp_path, "--resume", *ask(tmp_path, 2), "--max-steps", 6)
        assert list(answered(tmp_path))[-1] == name("tune", 2) and len(answered(tmp_path)[name("tune", 2)]) == 2
        for path in (tmp_path / questions.FOLDER).iterdir():
            path.unlink()
        assert "cannot be read" in train(build, "--out", tmp_path, "--resume", status=2)
        train(build, "--out", tmp_path, "--resume", "--no-eval-questions")
        assert len(answered(tmp_path)) == 4 and weights(tmp_path) == weights(reference)

    @pytest.mark.parametrize("at", [1, 20, 26, 40, 79])
    def test_a_signal_gives_answers_up_and_they_are_made_after_the_resume(
        self,
        train: Train,
        build: Path,
        reference: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        at: int,
    ) -> None:
        """Before a run's first step, between steps, at a stage's end, before the next: wherever the token stands that it is sent at."""
        told, real = [0], answers.Asker._go_on

        def interrupted(self: answers.Asker, more: bool) -> bool:
            told[0] += 1
            if told[0] == at:
                os.kill(os.getpid(), signal.SIGINT)
            return real(self, more)

        with monkeypatch.context() as patched:
            patched.setattr(answers.Asker, "_go_on", interrupted)
            flags = ("--out", tmp_path, "--zero", 0, *ask(tmp_path), "--eval-every", 2)
            assert "is saved" in train(build, *flags, status=130)
        assert told[0] == at and len(list((tmp_path / answers.FOLDER).glob("*"))) < len(POINTS)
        train(build, "--out", tmp_path, "--resume")
        assert answered(tmp_path) == answered(reference) and exact(tmp_path) == exact(reference)
        assert weights(tmp_path) == weights(reference)

    def test_refuses_questions_for_another_model_before_training(
        self, train: Train, build: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        said = train(build, "--out", run, *ask(run, tokenizer="2" * 64), status=2)
        assert "these questions were prepared for another model" in said and "Traceback" not in said
        assert "differs: tokenizer (000000000000... -> 222222222222...)" in said
        good = asked(3)
        broken = {
            "an image of it cannot be read": {"images": [b"", b"", b""]},
            "it has token 151936, and the model knows": {
                "questions": [msgspec.structs.replace(good.questions[0], tokens=[151936])]
            },
            "its images have 0 rows, and there are 256 places": {
                "questions": [msgspec.structs.replace(good.questions[1], pictures=[])]
            },
            "positions for it and the answer": {
                "questions": [msgspec.structs.replace(good.questions[0], tokens=[1] * 200_000)]
            },
        }
        for why, changes in broken.items():
            said = train(build, "--out", run, *ask(run, 3, **changes), status=2)
            assert "cannot be asked" in said and why in said
        said = train(build, "--out", run, "--eval-questions", tmp_path / "q.jsonl", status=2)
        assert "that `mixc train --eval-questions` prepares" in said and "No such file" in said
        assert not (run / "run.json").exists()

    def test_is_shown(self, train: Train, build: Path, tmp_path: Path) -> None:
        said = train(build, "--out", tmp_path, "--zero", 0, *ask(tmp_path), "--max-steps", 1)
        assert "answers  align 0/3  exact 0 of 1  " in said
        assert "asked: 11 questions, 1 with a reference, at the stage's beginning and end\n" in said

    def test_is_told_to_tensorboard(self, train: Train, build: Path, tmp_path: Path) -> None:
        pytest.importorskip("tensorboard", reason="needs the package tensorboard")
        from tests.runtime.test_board import told

        flags = ("--out", tmp_path, "--zero", 0, "--tensorboard")
        train(build, *flags, *ask(tmp_path), "--eval-every", 2, "--max-steps", 4)
        assert [step for step, _ in told(tmp_path, "exact")] == [1, 2]


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("zero", [1, 3])
def test_two_processes_answer_the_same_and_train_the_same(
    train: Train, build: Path, together: Callable[[int], Path], tmp_path: Path, zero: int
) -> None:
    """Though one of them has three questions where the other has eight, or of 17 questions nothing in the last round."""
    flags = ("--zero", zero)
    launching.train(build, "--out", tmp_path / "with", *flags, *ask(tmp_path / "with", 17), processes=2)
    assert weights(tmp_path / "with") == weights(together(zero))
    found = answered(tmp_path / "with")
    assert list(found) == [name(*point) for point in (("align", 0), ("align", 3), ("tune", 0), ("tune", 5))]
    train(build, "--out", tmp_path / "alone", *flags, *ask(tmp_path / "alone", 17), "--max-steps", 1)
    assert answered(tmp_path / "alone") == {name("align", 0): found[name("align", 0)]}
    expected = by_generate(tmp_path / "with" / "tune", asked(17), tmp_path)
    for each in found[name("tune", 5)]:
        assert each["answer"] == " ".join(f"w{token}" for token in expected[each["id"]][0])


@pytest.mark.slow
@pytest.mark.dist
def test_killed_and_resumed_nothing_is_lost_or_told_twice(
    build: Path, kept: Path, reference: Path, tmp_path: Path
) -> None:
    """Killed as soon as some file of answers is there, again and again."""
    import time

    flags = ("--out", tmp_path, "--zero", 0, "--save-every", 1, "--workers", 0, "--resume", *ask(tmp_path))
    for number in (1, 4):
        process = launching.start(build, *flags, "--eval-every", 2)
        end = time.monotonic() + launching.TIMEOUT
        while len(list((tmp_path / answers.FOLDER).glob("*.jsonl"))) < number and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.001)
        launching.kill(process)
    launching.train(build, *flags, "--eval-every", 2)
    assert answered(tmp_path) == answered(reference) and exact(tmp_path) == exact(reference)
    ours, theirs = weights(tmp_path), weights(reference)
    assert ours.keys() == theirs.keys()
    differ = [
        stage for stage in ours if ours[stage] != theirs[stage]
    ]  # not the bytes: to show how those differ takes minutes
    assert differ == []
