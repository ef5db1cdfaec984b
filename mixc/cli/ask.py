"""The command that asks a model: `mixc chat`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mixc.ask.answers import Answers, Generation
    from mixc.ask.model import Model
    from mixc.ask.prompt import Looking, Picture
    from mixc.sources.sample import Turn


def chat(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="a run, RUN/STAGE, or a released model's folder")],
    question: Annotated[
        str | None, typer.Argument(help="what to ask; left out, a conversation on the terminal")
    ] = None,
    image: Annotated[list[Path], typer.Option("--image", "-i", help="an image; several may be given")] = [],  # noqa: B006
    frame: Annotated[list[Path], typer.Option("--frame", help="a frame of a video, in order; each is one tile")] = [],  # noqa: B006
    batch: Annotated[Path | None, typer.Option("--batch", help="questions, one JSON object a line, instead")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="file for the answers of --batch (stdout)")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="questions of --batch answered at a time")] = 8,
    thinking: Annotated[bool, typer.Option("--thinking", help="ask as the thinking models want to be asked")] = False,
    system: Annotated[str | None, typer.Option(help="system message, instead of the template's")] = None,
    max_tiles: Annotated[int | None, typer.Option(min=1, help="tiles of an image at most (the model's own)")] = None,
    msac: Annotated[bool, typer.Option("--msac", help="a second set of tiles of each image, of another grid")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="length of an answer at most")] = 1024,
    temperature: Annotated[float, typer.Option(min=0, help="0: always the likeliest token")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="of the tokens drawn from, by probability")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="of what is drawn")] = 0,
    tokenizer: Annotated[
        str | None, typer.Option(help="a name, a folder or a tokenizer.json (the model's own)")
    ] = None,
    template: Annotated[str | None, typer.Option(help="chat template (the model's own)")] = None,
    name: Annotated[
        str | None, typer.Option("--model", help="which model it is, where its config.json does not say")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16 (bf16 on a GPU, fp32 on a CPU)")] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON document on stdout")] = False,
) -> None:
    """Ask a trained or a released model, about images or without; one question, a file of them, or a conversation."""
    from mixc.ask.answers import Answers, Generation
    from mixc.ask.model import find
    from mixc.ask.prompt import Looking
    from mixc.errors import MixcError
    from shards.cache_folder import cache_folder

    if precision not in (None, "fp32", "bf16"):
        raise MixcError(f"--precision is fp32 or bf16, not {precision!r}")
    if batch is not None and (question is not None or image or frame):
        raise MixcError("--batch has its questions and images in its file")
    if image and frame:
        raise MixcError("a question is about images or about a video's frames, not both")
    asked = find(model, tokenizer=tokenizer, template=template, cache=cache_folder())
    generation = Generation(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    looking = Looking(max_tiles=max_tiles, msac=msac)
    if batch is not None:
        _batch(asked, batch, out, batch_size, looking, generation, thinking, system, name, precision)
        return
    # before the model is loaded: a mistyped name is said at once
    pictures = _pictures(asked, image, frame, looking)
    with Answers(asked, name=name, precision=precision) as answers:
        if question is not None:
            _one(asked, answers, question, pictures, bool(frame), generation, thinking, system, json)
        else:
            _talk(asked, answers, pictures, bool(frame), generation, thinking, system)


def _pictures(model: Model, images: list[Path], frames: list[Path], looking: Looking) -> list[Picture]:
    from mixc.ask.prompt import picture

    return [picture(path, model, looking) for path in images] + [
        picture(path, model, looking, frame=True) for path in frames
    ]


def _first(question: str, pictures: int, frames: bool, thinking: bool, system: str | None) -> list[Turn]:
    from mixc.ask.prompt import question as asked
    from mixc.sources.sample import Turn

    text = asked(question, images=0 if frames else pictures, frames=pictures if frames else 0, thinking=thinking)
    return [*([Turn("system", system)] if system is not None else []), Turn("user", text)]


def _one(
    model: Model,
    answers: Answers,
    question: str,
    pictures: list[Picture],
    frames: bool,
    generation: Generation,
    thinking: bool,
    system: str | None,
    json: bool,
) -> None:
    from mixc.ask.prompt import prompt
    from mixc.cli.console import print_json

    made = prompt(_first(question, len(pictures), frames, thinking, system), pictures, model)
    text, end = _print(answers, made, generation, quiet=json)
    if json:
        print_json(
            {
                "model": str(model.folder),
                **answers.about,
                "question": question,
                "images": [{"path": str(each.path), "tiles": each.tiles} for each in pictures],
                "prompt_tokens": len(made.tokens),
                "answer": text,
                "end": end,
            }
        )


def _print(answers: Answers, made: Any, generation: Generation, *, quiet: bool = False) -> tuple[str, str]:
    """One answer, shown as it comes. Raises MixcError when there is none."""
    from mixc.errors import MixcError

    text, end = "", ""
    for part in answers.ask([made], generation):
        if part.end == "error":
            raise MixcError("it was not answered", why=part.text)
        text, end = text + part.text, part.end or end
        if not quiet:
            print(part.text, end="", flush=True)
    if not quiet:
        print()
    return text, end


def _talk(
    model: Model,
    answers: Answers,
    pictures: list[Picture],
    frames: bool,
    generation: Generation,
    thinking: bool,
    system: str | None,
) -> None:
    from mixc.ask.prompt import prompt
    from mixc.sources.sample import Turn

    print(f"{answers.about['model']} on {answers.about['device']}; an empty line or ctrl-D ends", file=sys.stderr)
    turns: list[Turn] = []
    while True:
        try:
            said = input("> ").strip()
        except EOFError:
            return
        if not said:
            return
        turns += [Turn("user", said)] if turns else _first(said, len(pictures), frames, thinking, system)
        text, _ = _print(answers, prompt(turns, pictures, model), generation)
        turns.append(Turn("assistant", text))


def _batch(
    model: Model,
    path: Path,
    out: Path | None,
    size: int,
    looking: Looking,
    generation: Generation,
    thinking: bool,
    system: str | None,
    name: str | None,
    precision: str | None,
) -> None:
    import msgspec

    from mixc.ask.answers import Answers
    from mixc.ask.batch import read
    from mixc.ask.prompt import prompt
    from mixc.cli.console import progress_bar
    from shards.atomic import atomic_write

    lines, prompts = [], []
    for line, asked in read(path):
        images, frames = ([path.parent / each for each in some] for some in (asked.images, asked.frames))
        pictures = _pictures(model, images, frames, looking)
        prompts.append(prompt(_first(asked.question, len(pictures), bool(frames), thinking, system), pictures, model))
        lines.append(line)
    answered = bytearray()
    with Answers(model, name=name, precision=precision) as answers, progress_bar() as progress:
        for start in range(0, len(prompts), size):
            some = lines[start : start + size]
            texts, ends = [""] * len(some), [""] * len(some)
            for part in answers.ask(prompts[start : start + size], generation):
                texts[part.id] += part.text
                ends[part.id] = part.end or ends[part.id]
            for line, text, end in zip(some, texts, ends, strict=True):
                told = {"error": text} if end == "error" else {"answer": text, "end": end}
                answered += msgspec.json.encode({**line, **told}) + b"\n"
            progress("answer", start + len(some), len(prompts))
    if out is None:
        sys.stdout.buffer.write(answered)
        return
    with atomic_write(out) as file:
        file.write(answered)
