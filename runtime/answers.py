"""Questions that a model is asked while it is trained, and `RUN/answers`.

    RUN/questions/<blake3>.msgpack      the questions, as `mixc train` has prepared them: shards/questions.py
    RUN/answers/<stage>-<step>.jsonl    a line a question, in their order: what the weights after so many steps answer

Answers are the likeliest ones. A file of them appears whole or not at all, so one that is there stands for weights that the run
has passed through: a resume keeps those up to its checkpoint, and makes up for one that is missing there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import tokenizers
import torch
from rich.console import Console

from runtime import record
from runtime.engine import Engine
from runtime.errors import ArgumentError
from runtime.greedy import Prompt, answers, generating
from runtime.images import tile
from runtime.model.zoo import architecture
from runtime.processes import Place, from_first
from shards import questions
from shards.atomic import atomic_write
from shards.counted import counted
from shards.images import ImageError
from shards.manifest import Manifest, StageEntry
from shards.questions import Question, Questions

FOLDER = "answers"
GROUP = 8
"""Questions that are answered together: always the same, so that an answer hangs on no number of processes."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of a file in RUN/answers."""

    stage: str
    step: int
    """Steps of the stage that these weights have been trained for."""
    id: str | int
    question: str
    answer: str
    end: str
    """`stop`: the model ended it; `length`: it became too long."""
    tokens: int
    """Of the answer."""
    reference: str | None = None
    exact: bool | None = None
    """Of a question with a reference: whether the answer is that, but for white space around the two."""


def find(out: Path, name: str) -> Path:
    """Where a run keeps the questions of a name."""
    return out / questions.FOLDER / name


def check(path: Path, manifest: Manifest) -> None:
    """Raises ShardError when there are no questions at `path`, ArgumentError when they were prepared for another model than the one
    that is trained from, or one cannot be asked."""
    asked = questions.read(path)
    where = f"--eval-questions {path}"
    agreed = ("geometry", "tokenizer", "template")
    ours, theirs = (msgspec.to_builtins({name: getattr(each, name) for name in agreed}) for each in (manifest, asked))
    if differences := record.moved(ours, theirs):
        raise ArgumentError(
            "these questions were prepared for another model than the one that is trained",
            where=where,
            why=f"differs: {', '.join(differences)}",
            mend="let `mixc train BUILD --eval-questions FILE` prepare them for this build",
        )
    language = architecture(manifest.geometry.name, manifest.geometry).language
    for question in asked.questions:
        why = _amiss(question, asked, positions=language.max_positions, vocab=language.vocab)
        if why:
            raise ArgumentError(f"question {question.id!r} cannot be asked", where=where, why=why)


def _amiss(question: Question, asked: Questions, *, positions: int, vocab: int) -> str:
    """Why a question cannot be asked; empty where it can."""
    geometry = asked.geometry
    if len(question.tokens) >= positions:
        return f"it has {len(question.tokens)} tokens, and the model {positions} positions for it and the answer"
    if odd := [token for token in question.tokens if not 0 <= token < vocab]:
        return f"it has token {odd[0]}, and the model knows {vocab}"
    rows = sum(picture.tiles for picture in question.pictures) * geometry.tokens_per_tile
    if rows != (places := question.tokens.count(geometry.image_context_id)):
        return f"its images have {rows} rows, and there are {places} places for them"
    try:
        _tiles(question, asked)
    except (ImageError, IndexError) as error:
        return f"an image of it cannot be read: {error}"
    return ""


def _tiles(question: Question, asked: Questions) -> torch.Tensor:
    """uint8 [M, 3, side, side]: of its pictures in order, of each grid in turn, the thumbnail last."""
    side = asked.geometry.tile_size
    cut = [np.empty((0, 3, side, side), np.uint8)]
    for picture in question.pictures:
        last = len(picture.grids) - 1
        for number, (cols, rows) in enumerate(picture.grids):
            thumbnail = picture.thumbnail and number == last
            cut.append(tile(asked.images[picture.image], cols=cols, rows=rows, thumbnail=thumbnail, side=side))
    return torch.from_numpy(np.concatenate(cut))


class Asker:
    """Asks a run's model the questions of one file. In all processes."""

    def __init__(
        self,
        path: Path,
        out: Path,
        place: Place,
        device: torch.device,
        *,
        every: int | None,
        console: Console,
        stopping: Callable[[], bool],
    ) -> None:
        """`every`: steps; None is a stage's beginning and end alone. `stopping` says whether this process was asked to stop."""
        self._asked = questions.read(path)
        self._out, self._place, self._device, self._every = out, place, device, every
        self._console, self._stopping = console, stopping
        self._text = tokenizers.Tokenizer.from_str(self._asked.vocabulary.decode())
        self.stopped = False
        """Whether some process was asked to stop while questions were answered, which gives those answers up."""
        self._made = set(from_first([path.name for path in (out / FOLDER).glob("*.jsonl")] if place.first else None))

    @property
    def described(self) -> str:
        count, references = len(self._asked.questions), sum(q.reference is not None for q in self._asked.questions)
        often = f", every {counted(self._every, 'step')}" if self._every else ""
        return f"{counted(count, 'question')}, {references} with a reference, at the stage's beginning and end{often}"

    def at(self, engine: Engine, entry: StageEntry, step: int) -> int | None:
        """Ask the weights after `step` steps of a stage, if it is time and has not been done. How many answers are exact; None
        where nothing was asked, no question has a reference, or the answers were given up (`stopped`)."""
        due = step in (0, entry.steps) or (self._every is not None and step % self._every == 0)
        if not due or name(entry.name, step) in self._made:
            return None
        begun = time.monotonic()
        with generating(engine.model):
            made = self._answers(engine)
        if made is None:
            return None
        self._made.add(name(entry.name, step))
        lines = [
            self._line(entry.name, step, question, tokens)
            for question, tokens in zip(self._asked.questions, made, strict=True)
        ]
        if self._place.first:
            write(self._out, lines)
        count = _exact(lines)
        told = "" if count is None else f"  exact {count} of {sum(line.exact is not None for line in lines)}"
        self._console.print(
            f"answers  {entry.name} {step}/{entry.steps}{told}  {sum(line.tokens for line in lines):,} tok  "
            f"{time.monotonic() - begun:.2f} s",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return count

    def _line(self, stage: str, step: int, question: Question, made: list[int]) -> Answer:
        """`made`: the answer's tokens, and after them the one that ended it, if any did."""
        ended = bool(made) and made[-1] in self._asked.stop
        tokens = made[:-1] if ended else made
        text = str(self._text.decode(tokens, skip_special_tokens=False))
        reference = question.reference
        return Answer(
            stage=stage,
            step=step,
            id=question.id,
            question=question.text,
            answer=text,
            end="stop" if ended else "length",
            tokens=len(tokens),
            reference=reference,
            exact=None if reference is None else text.strip() == reference.strip(),
        )

    def _answers(self, engine: Engine) -> list[list[int]] | None:
        """The tokens of all answers, with those that ended them, in every process. None when some process was asked to stop."""
        asked, place = self._asked, self._place
        groups = [
            range(first, min(first + GROUP, len(asked.questions))) for first in range(0, len(asked.questions), GROUP)
        ]
        # of each question the number of tokens, then these
        sums = torch.zeros(len(asked.questions), asked.max_new_tokens + 1, dtype=torch.int64, device=self._device)
        positions = engine.model.shape.language.max_positions
        for first in range(0, len(groups), place.world):
            mine = groups[first + place.rank] if first + place.rank < len(groups) else range(0)
            prompts = [self._prompt(asked.questions[number], positions) for number in mine]
            made = answers(
                engine,
                prompts or [self._nothing()],
                image_token=asked.geometry.image_context_id,
                stop=asked.stop,
                go_on=self._go_on,
            )
            if self.stopped:
                return None
            for number, tokens in zip(mine, made, strict=False):
                sums[number, : len(tokens) + 1] = torch.tensor([len(tokens), *tokens], device=self._device)
        torch.distributed.all_reduce(sums)
        return [row[1 : 1 + row[0]] for row in sums.tolist()]

    def _go_on(self, more: bool) -> bool:
        """Whether a process has more tokens to make, and none was asked to stop: known to all after the same token, or one would
        wait for another for ever."""
        said = torch.tensor([float(more), float(self._stopping())], device=self._device)
        torch.distributed.all_reduce(said)
        some, stop = said.tolist()
        self.stopped = stop > 0
        return some > 0 and not self.stopped

    def _prompt(self, question: Question, positions: int) -> Prompt:
        most = min(self._asked.max_new_tokens, positions - len(question.tokens))
        return Prompt(tokens=question.tokens, tiles_M=_tiles(question, self._asked), most=most)

    def _nothing(self) -> Prompt:
        """For a process that is dealt no question."""
        side = self._asked.geometry.tile_size
        return Prompt(tokens=[0], tiles_M=torch.empty((0, 3, side, side), dtype=torch.uint8), most=0)


def name(stage: str, step: int) -> str:
    """Of the file of these weights' answers."""
    return f"{stage}-{step:08d}.jsonl"


def write(out: Path, lines: Sequence[Answer]) -> None:
    """The answers of one stage and step, in a file of their own."""
    (out / FOLDER).mkdir(exist_ok=True)
    with atomic_write(out / FOLDER / name(lines[0].stage, lines[0].step)) as file:
        for line in lines:
            file.write(msgspec.json.encode(line) + b"\n")


def exact(out: Path, stage: str, step: int) -> int | None:
    """How many answers in the file of these weights are exact; None without one, or where no question has a reference."""
    path = out / FOLDER / name(stage, step)
    lines = path.read_bytes().splitlines() if path.exists() else []
    return _exact([msgspec.json.decode(line, type=Answer) for line in lines])


def _exact(lines: Sequence[Answer]) -> int | None:
    found = [line.exact for line in lines if line.exact is not None]
    return sum(found) if found else None


def cut(out: Path, done: Sequence[str], stage: str | None, step: int) -> None:
    """Keep the answers of stages that are `done`, and those of `stage` up to the weights after `step` steps, which are in the
    checkpoint. Remove the rest, and what a killed process left of a file."""
    for path in (out / FOLDER).glob(".*.partial"):
        path.unlink()
    for path in (out / FOLDER).glob("*.jsonl"):
        of, _, at = path.stem.rpartition("-")
        if at.isdigit() and not (of in done or (of == stage and int(at) <= step)):
            path.unlink()
