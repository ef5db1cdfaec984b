"""Questions for a model that is being trained, made ready: the trainer knows no text and no chat template."""

from __future__ import annotations

from pathlib import Path

from mixc.ask.batch import Question, read
from mixc.ask.model import Model
from mixc.ask.prompt import Looking, look, prompt, question
from mixc.errors import MixcError
from mixc.measure.image import ImageError, probe
from mixc.measure.template import TEXT_END, TURN_END
from mixc.sources.sample import Turn
from shards import questions

MAX_NEW_TOKENS = 128
"""Of an answer. Every process waits for the longest, so this is less than `mixc chat` allows."""


def prepare(path: Path, model: Model, *, max_new_tokens: int = MAX_NEW_TOKENS) -> questions.Questions:
    """The questions of a file as `mixc chat --batch` reads it, with an `id`, by default the line's number, and the right `answer` if
    a line has them. They are asked as `mixc chat` asks. Raises MixcError, with the line, for one that cannot be asked."""
    images: dict[bytes, int] = {}
    ready: list[questions.Question] = []
    lines: dict[str | int, int] = {}
    for each in read(path, references=True):
        where = f"{path}:{each.line}"
        id = each.line if each.id is None else each.id
        if id in lines:
            raise MixcError(
                f"two questions have the id {id!r}",
                where=where,
                why=f"the first is in line {lines[id]}; one without an id has its line's number",
                mend="give each its own",
            )
        lines[id] = each.line
        try:
            ready.append(_ready(each, id, model, images))
        except MixcError as error:
            raise MixcError(
                f"this question cannot be asked: {error.what}",
                where=where,
                why=": ".join(part for part in (error.where, error.why) if part),
                mend=error.mend,
            ) from None
    if not ready:
        raise MixcError(
            "there is no question", where=str(path), mend='a line is {"question": "...", "images": ["a.jpg"]}'
        )
    tokenizer = model.tokenizer
    return questions.Questions(
        format=questions.FORMAT,
        geometry=model.geometry,
        tokenizer=tokenizer.digest,
        template=model.template.digest,
        vocabulary=tokenizer.path.read_bytes(),
        stop=[tokenizer.special(TURN_END), tokenizer.special(TEXT_END)],
        max_new_tokens=max_new_tokens,
        questions=ready,
        images=list(images),
    )


def _ready(each: Question, id: str | int, model: Model, images: dict[bytes, int]) -> questions.Question:
    """`images` grows by those that are not in it yet."""
    pictures = look(each.images, each.frames, model, Looking())
    asked = question(each.text, images=len(each.images), frames=len(each.frames))
    made = prompt([Turn("user", asked)], pictures, model)
    return questions.Question(
        id=id,
        text=each.text,
        tokens=made.tokens,
        pictures=[
            questions.Picture(
                image=images.setdefault(_whole(picture.path), len(images)),
                grids=[(grid.cols, grid.rows) for grid in picture.grids],
                thumbnail=picture.grids[-1].thumbnail,
            )
            for picture in pictures
        ],
        reference=each.answer,
    )


def _whole(path: Path) -> bytes:
    """An image's bytes. Raises MixcError when it does not decode: a run of days is not to end at it."""
    data = path.read_bytes()
    try:
        probe(data)
    except ImageError as error:
        raise MixcError("not an image that can be read", where=str(path), why=str(error)) from None
    return data
