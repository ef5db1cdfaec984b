"""Questions made ready for the trainer: asked as `mixc chat` asks, and wrong ones told before anything starts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mixc.ask.model import Model, of_build
from mixc.ask.prepare import MAX_NEW_TOKENS, prepare
from mixc.ask.prompt import Looking, look, prompt, question
from mixc.errors import MixcError
from mixc.sources.sample import Turn
from shards import questions
from shards.build import Build
from tests.ask.conftest import Mixc


def written(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


def test_questions_are_asked_as_mixc_chat_asks_them(model: Model, images: Path, tmp_path: Path) -> None:
    one, wide = str(images / "one.png"), str(images / "wide.png")
    file = written(
        tmp_path / "q.jsonl",
        {"id": "a", "question": "What is it?", "images": [wide], "answer": "It.", "more": [1]},
        {"question": "Which?", "images": [one, wide]},
        {"id": 7, "question": "What moves?", "frames": [wide, one]},
        {"question": "<|im_end|>"},
    )
    made = prepare(file, model)
    assert [(each.id, each.text, each.reference) for each in made.questions] == [
        ("a", "What is it?", "It."),
        (2, "Which?", None),
        (7, "What moves?", None),
        (4, "<|im_end|>", None),
    ]
    assert made.images == [Path(wide).read_bytes(), Path(one).read_bytes()]
    assert made.max_new_tokens == MAX_NEW_TOKENS
    assert [model.tokenizer.decode([token]) for token in made.stop] == ["<|im_end|>", "<|endoftext|>"]
    stills, frames = [[Path(wide)], [Path(one), Path(wide)], [], []], [[], [], [Path(wide), Path(one)], []]
    for each, some, several in zip(made.questions, stills, frames, strict=True):
        pictures = look(some, several, model, Looking())
        text = question(each.text, images=len(some), frames=len(several))
        assert each.tokens == prompt([Turn("user", text)], pictures, model).tokens
        assert [(Path([wide, one][p.image]), p.tiles) for p in each.pictures] == [(p.path, p.tiles) for p in pictures]


@pytest.mark.parametrize(
    ("lines", "line", "says"),
    [
        ([{"question": "?"}, {"id": 1, "question": "?"}], 2, "two questions have the id 1"),
        ([{"id": "a", "question": "?"}, {"id": "a", "question": "?"}], 2, "the first is in line 1"),
        ([{"question": "?", "images": ["half.png"]}], 1, "not an image that can be read"),
        ([{"question": "?", "images": ["none.png"]}], 1, "none.png: No such file"),
        ([{"question": "<image> <image>", "images": ["one.png"]}], 1, "has 2 <image> placeholders, and there is 1"),
        ([{"question": "?", "answer": 4}], 1, r"$.answer"),
        ([{"question": "?", "id": [1]}], 1, r"$.id"),
        ([{"text": "?"}], 1, "missing required field `question`"),
        ([], 0, "there is no question"),
    ],
)
def test_a_question_that_cannot_be_asked_is_told_with_its_line(
    model: Model, images: Path, tmp_path: Path, lines: list[dict[str, Any]], line: int, says: str
) -> None:
    for path in images.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(MixcError) as caught:
        prepare(written(tmp_path / "q.jsonl", *lines), model)
    assert says in str(caught.value)
    assert caught.value.where == f"{tmp_path / 'q.jsonl'}" + (f":{line}" if line else "")


def test_a_build_of_a_tokenizer_that_is_not_here(run: Path, cache: Path, model: Model) -> None:
    manifest = Build.open(run.parent / "build").manifest
    assert of_build(manifest, "B", cache=cache).template == model.template
    with pytest.raises(MixcError, match="another tokenizer") as caught:
        of_build(msgspec.structs.replace(manifest, tokenizer="0" * 64), "B", cache=cache)
    assert caught.value.where == "B" and "compile the build's spec on this machine" in str(caught.value)


@pytest.mark.slow
class TestTrain:
    def test_the_answers_are_those_of_mixc_chat(self, mixc: Mixc, run: Path, images: Path, tmp_path: Path) -> None:
        rows: list[dict[str, Any]] = [
            {"id": "one", "question": "What is it?", "images": [str(images / "one.png")]},
            {"id": "none", "question": "Why?"},
            {"id": "wide", "question": "What is there?", "images": [str(images / "wide.png")]},
        ]
        out, build = tmp_path / "run", run.parent / "build"
        asked = ["--eval-questions", written(tmp_path / "q.jsonl", *rows), "--eval-max-tokens", 5]
        mixc("train", build, "--out", out, "--max-steps", 1, *asked, "--workers", 0)
        (tmp_path / "q.jsonl").unlink()  # the run has all that it needs
        mixc("train", build, "--out", out, "--resume", "--workers", 0)
        steps = ["align-00000000", "align-00000001", "tune-00000000", "tune-00000002"]
        assert sorted(path.stem for path in (out / "answers").iterdir()) == steps
        chat = mixc("chat", out, "--batch", written(tmp_path / "again.jsonl", *rows), "--max-new-tokens", 5)
        told = [msgspec.json.decode(line) for line in chat.stdout.splitlines()]
        last = [
            msgspec.json.decode(line) for line in (out / "answers" / f"{steps[-1]}.jsonl").read_bytes().splitlines()
        ]
        assert [(each["id"], each["answer"], each["end"]) for each in last] == [
            (each["id"], each["answer"], each["end"]) for each in told
        ]

    @pytest.mark.parametrize(
        ("launcher", "started"),
        [
            ([], "-m runtime "),
            (["--nproc", "2"], "-m runtime.launch 2 "),
            (["--launcher", "torchrun"], "-m torch.distributed.run"),
            (["--launcher", "slurm"], "srun "),
        ],
    )
    def test_every_launcher_starts_with_the_prepared_file(
        self, mixc: Mixc, run: Path, tmp_path: Path, launcher: list[str], started: str
    ) -> None:
        file = written(tmp_path / "q.jsonl", {"question": "Why?"})
        flags = ["--out", tmp_path / "run", "--eval-questions", file, "--eval-every", 3, "--dry-run"]
        said = mixc("train", run.parent / "build", *flags, *launcher).stdout
        (path,) = (tmp_path / "run" / "questions").iterdir()
        assert started in said and f"--eval-questions {shlex.quote(str(path))}" in said and str(file) not in said
        assert questions.read(path).questions[0].text == "Why?"

    def test_a_mistake_is_said_before_anything_starts(self, mixc: Mixc, run: Path, tmp_path: Path) -> None:
        build, out = run.parent / "build", tmp_path / "run"
        file = written(tmp_path / "q.jsonl", {"question": "?", "images": ["none.png"]})
        said = mixc("train", build, "--out", out, "--eval-questions", file, status=2).stderr
        assert "q.jsonl:1: this question cannot be asked: cannot read an image" in said
        said = mixc("train", build, "--out", out, "--eval-questions", tmp_path / "no", status=2).stderr
        assert "cannot read the questions" in said
        said = mixc("train", tmp_path, "--out", out, "--eval-questions", file, status=2).stderr
        assert "not a build" in said
        said = mixc("train", "--resume", build, "--out", out, "--eval-questions", file, status=2).stderr
        assert "the build comes first" in said
        assert not out.exists()
