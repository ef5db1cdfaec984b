"""The command that asks a model: `mixc chat`."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mixc.ask.answers import Answers, Generation
    from mixc.ask.batch import Question
    from mixc.ask.model import Model
    from mixc.ask.prompt import Looking, Picture, Prompt
    from mixc.sources.sample import Turn

NOT_ANSWERED = 1


def chat(
    context: typer.Context,
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
    max_tiles: Annotated[
        int | None, typer.Option(min=1, max=1024, help="tiles of an image at most (the model's own)")
    ] = None,
    msac: Annotated[
        bool, typer.Option("--msac", help="a second set of tiles, of another grid, where a question has one image")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=1 << 20, help="length of an answer at most")] = 1024,
    temperature: Annotated[float, typer.Option(min=0, help="0: always the likeliest token; else at least 0.001")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.001, max=1, help="of the tokens drawn from, by probability")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 63) - 1, help="of what is drawn")] = 0,
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
    """Ask a trained or a released model, about images or without; one question, a file of them, or a conversation.

    Exit code 1: some of the questions of --batch were not answered, as their lines say.
    """
    from mixc.ask.answers import Answers, Generation
    from mixc.ask.model import find
    from mixc.ask.prompt import Looking, look
    from mixc.errors import MixcError
    from shards.cache_folder import cache_folder

    _only_a_question(str(model), question, context.args)
    if precision not in (None, "fp32", "bf16"):
        raise MixcError(f"--precision is fp32 or bf16, not {precision!r}")
    if not math.isfinite(temperature) or 0 < temperature < 0.001:
        raise MixcError(f"--temperature is 0, or at least 0.001, not {temperature}")
    if not 0 < top_p <= 1:
        raise MixcError(f"--top-p is above 0 and at most 1, not {top_p}")
    if batch is not None and (question is not None or image or frame):
        raise MixcError("--batch has its questions and images in its file")
    if json and (batch is not None or question is None):
        raise MixcError("--json is for one question", mend="what --batch writes is JSON, a line a question")
    if out is not None and batch is None:
        raise MixcError("--out is for --batch")
    if image and frame:
        raise MixcError("a question is about images or about a video's frames, not both")
    model_ = find(model, tokenizer=tokenizer, template=template, cache=cache_folder())
    asking = _Asking(
        model=model_,
        answers=Answers(model_, name=name, precision=precision),
        looking=Looking(max_tiles=max_tiles, msac=msac),
        generation=Generation(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed),
        thinking=thinking,
        system=system,
    )
    if model_.unfinished:
        from mixc.cli.console import remark

        left = " and ".join(model_.unfinished)
        remark(
            f"the weights of stage {model_.folder.name} answer: {left} {_are(model_.unfinished)} not trained to the end"
        )
    if batch is not None:
        _batch(asking, batch, out, batch_size)
        return
    # before the model is loaded: a mistyped name is said at once
    pictures = look(image, frame, model_, asking.looking)
    if question is None:
        _talk(asking, pictures, frames=bool(frame))
    else:
        _one(asking, question, pictures, frames=bool(frame), json=json)


def _only_a_question(model: str, question: str | None, more: list[str]) -> None:
    """Raises MixcError where a picture stands in the place of the question, or words beside it."""
    from mixc.errors import MixcError
    from mixc.sources.formats.imagefolder import IMAGE_SUFFIXES

    words = [*([question] if question is not None else []), *more]
    pictures = [word for word in words if word.lower().endswith(IMAGE_SUFFIXES) and " " not in word.strip()]
    if pictures and (more or Path(pictures[0]).is_file()):
        rest = " ".join(word for word in words if word not in pictures) or "..."
        named = " ".join(f"--image {shlex.quote(picture)}" for picture in pictures)
        raise MixcError(
            "a picture is no question", where=pictures[0], mend=f'mixc chat {shlex.quote(model)} {named} "{rest}"'
        )
    if more:
        raise MixcError(
            "one question is asked at a time",
            why=f"after it came {' '.join(map(repr, more))}",
            mend=f"put it into quotes: mixc chat {shlex.quote(model)} {shlex.quote(' '.join(words))}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asking:
    """Who is asked, and how."""

    model: Model
    answers: Answers
    looking: Looking
    generation: Generation
    thinking: bool
    system: str | None

    def first(self, question: str, pictures: list[Picture], *, frames: bool) -> list[Turn]:
        """The turns that a conversation about these pictures begins with."""
        from mixc.ask.prompt import question as asked
        from mixc.sources.sample import Turn

        count = len(pictures)
        text = asked(question, images=0 if frames else count, frames=count if frames else 0, thinking=self.thinking)
        return [*([Turn("system", self.system)] if self.system is not None else []), Turn("user", text)]

    def next(self, question: str) -> Turn:
        """A later question."""
        from mixc.ask.prompt import question as asked
        from mixc.sources.sample import Turn

        return Turn("user", asked(question, thinking=self.thinking))

    def show(self, made: Prompt, *, quiet: bool = False) -> tuple[str, str]:
        """One answer and how it ended, shown as it comes. Raises MixcError when there is none."""
        from mixc.cli.console import remark, waiting
        from mixc.errors import MixcError

        text, end, tokens = "", "", 0
        with waiting("answering", quiet=quiet) as begin:
            for part in self.answers.ask([made], self.generation):
                if part.end == "error":
                    raise MixcError("it was not answered", why=part.text)
                text, end, tokens = text + part.text, part.end or end, part.tokens
                if not quiet:
                    begin()
                    print(part.text, end="", flush=True)
        if not quiet:
            print()
            if end == "length":
                remark(self._stopped(tokens))
        return text, end

    def _stopped(self, tokens: int) -> str:
        from shards.counted import counted

        if tokens < self.generation.max_new_tokens:
            return f"stopped after {counted(tokens, 'token')}: the model has positions for no more"
        return f"stopped at the limit of {counted(tokens, 'token')} (--max-new-tokens)"


def _one(asking: _Asking, question: str, pictures: list[Picture], *, frames: bool, json: bool) -> None:
    from mixc.ask.prompt import prompt
    from mixc.cli.console import print_json

    made = prompt(asking.first(question, pictures, frames=frames), pictures, asking.model)
    with _loaded(asking, quiet=json) as answers:
        text, end = asking.show(made, quiet=json)
    if json:
        print_json(
            {
                "folder": str(asking.model.folder),
                **answers.about,
                "question": question,
                "images": [{"path": str(each.path), "tiles": each.tiles} for each in pictures],
                "prompt_tokens": len(made.tokens),
                "answer": text,
                "end": end,
            }
        )


def _talk(asking: _Asking, pictures: list[Picture], *, frames: bool) -> None:
    """Until an empty line or the end of what is typed. A question that cannot be asked is told, and the talk goes on."""
    from mixc.ask.prompt import prompt
    from mixc.errors import MixcError
    from mixc.sources.sample import Turn

    with _loaded(asking) as answers:
        about = answers.about
        print(f"{about['model']} on {about['device']}; an empty line or ctrl-D ends", file=sys.stderr)
        turns: list[Turn] = []
        while said := _typed():
            try:
                asked = [*turns, asking.next(said)] if turns else asking.first(said, pictures, frames=frames)
                made = prompt(asked, pictures, asking.model)
            except MixcError as error:
                print(f"{error.prefix}{error}", file=sys.stderr)
                continue
            text, _ = asking.show(made)
            turns = [*asked, Turn("assistant", text)]


@contextmanager
def _loaded(asking: _Asking, *, quiet: bool = False) -> Iterator[Answers]:
    """The program with the model, which takes some seconds to load."""
    from mixc.cli.console import waiting

    with ExitStack() as stack:
        with waiting("loading the model", quiet=quiet):
            answers = stack.enter_context(asking.answers)
        yield answers


def _are(things: Sequence[str]) -> str:
    return "is" if len(things) == 1 else "are"


def _typed() -> str:
    """A line, without the blanks around it; empty at the end."""
    from mixc.errors import MixcError

    try:
        if sys.stdin.isatty():
            return input("> ").strip()
        return sys.stdin.readline().strip()
    except EOFError:
        print()
        return ""
    except UnicodeDecodeError as error:
        raise MixcError("what was typed is not UTF-8", why=str(error)) from None


def _batch(asking: _Asking, path: Path, out: Path | None, size: int) -> None:
    """Answers of a file's questions, in their order, to `out` or stdout. A question whose image cannot be read has an error for an
    answer; a line that is no question stops all before it begins."""
    from mixc.ask.batch import read
    from mixc.cli.console import progress_bar
    from mixc.errors import MixcError
    from shards.atomic import atomic_write
    from shards.counted import counted

    questions = list(read(path))
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise MixcError("no file can be written there", where=str(out))
    failed = 0
    with (
        asking.answers,
        nullcontext(sys.stdout.buffer) if out is None else atomic_write(out) as file,
        progress_bar() as progress,
    ):
        for start in range(0, len(questions), size):
            some = questions[start : start + size]
            for line, answered in _answered(asking, some):
                file.write(line)
                failed += not answered
            if out is None:
                sys.stdout.buffer.flush()
            progress("answer", start + len(some), len(questions))
    if failed:
        print(
            f"not answered: {failed} of {counted(len(questions), 'question')}; the lines of the answers say why",
            file=sys.stderr,
        )
        raise typer.Exit(NOT_ANSWERED)


def _answered(asking: _Asking, questions: list[Question]) -> list[tuple[bytes, bool]]:
    """The lines of some questions asked together, and whether each was answered."""
    import msgspec

    from mixc.ask.batch import ANSWER, END, ERROR
    from mixc.ask.prompt import look, prompt
    from mixc.errors import MixcError

    told: dict[int, dict[str, str]] = {}
    prompts: dict[int, Prompt] = {}
    for place, question in enumerate(questions):
        try:
            pictures = look(question.images, question.frames, asking.model, asking.looking)
            turns = asking.first(question.text, pictures, frames=bool(question.frames))
            prompts[place] = prompt(turns, pictures, asking.model)
        except MixcError as error:
            told[place] = {ERROR: str(error)}
    places, texts = list(prompts), dict.fromkeys(prompts, "")
    for part in asking.answers.ask(list(prompts.values()), asking.generation):
        place = places[part.id]
        texts[place] += part.text
        if part.end is not None:
            told[place] = {ERROR: part.text} if part.end == "error" else {ANSWER: texts[place], END: part.end}
    return [
        (msgspec.json.encode({**question.fields, **told[place]}) + b"\n", ERROR not in told[place])
        for place, question in enumerate(questions)
    ]
