"""Starts the program that generates, and gives what it says as text."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from mixc.ask.model import Model
from mixc.ask.prompt import Prompt
from mixc.errors import MixcError
from mixc.measure.template import TEXT_END, TURN_END
from mixc.measure.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """How an answer is generated."""

    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an answer's text, or its end."""

    id: int
    text: str
    end: str | None = None
    """`stop`: the model ended it; `length`: it became too long; `error`: it was not answered, `text` says why."""
    tokens: int = 0
    """Of the answer so far."""


class Answers:
    """The program with a model loaded, as a context. Raises MixcError when it has something to object to, or dies."""

    def __init__(self, model: Model, *, name: str | None = None, precision: str | None = None) -> None:
        self._model = model
        self._command = [sys.executable, "-m", "runtime.generate", str(model.folder)]
        self._command += ["--model", name] if name else []
        self._command += ["--precision", precision] if precision else []
        self.about: dict[str, Any] = {}

    def __enter__(self) -> Answers:
        # Out of the terminal's reach: ctrl-C is for us to answer, wherever in its work the program is.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            self.about = self._line()["ready"]
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # It waits for questions: with none to come it ends. After an error or ctrl-C it may be in the middle of an answer.
        if kind is None:
            assert self._process.stdin
            self._process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
        self._kill()

    def ask(self, prompts: Sequence[Prompt], generation: Generation) -> Iterator[Part]:
        """Answer `prompts` together; parts are numbered by place. Raises MixcError when the program ends meanwhile."""
        tokenizer = self._model.tokenizer
        assert self._process.stdin
        try:
            for number, prompt in enumerate(prompts):
                self._process.stdin.write(msgspec.json.encode(self._request(number, prompt, generation)) + b"\n")
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        texts = {number: Text(tokenizer) for number in range(len(prompts))}
        made = dict.fromkeys(texts, 0)
        while texts:
            line = self._line()
            number = line["id"]
            made[number] += len(line.get("tokens", ()))
            if "error" in line:
                del texts[number]
                yield Part(number, line["error"], "error")
            elif "done" in line:
                yield Part(number, texts.pop(number).rest(), line["done"], made[number])
            elif said := texts[number].add(line["tokens"]):
                yield Part(number, said, tokens=made[number])

    def _request(self, number: int, prompt: Prompt, generation: Generation) -> dict[str, Any]:
        tokenizer = self._model.tokenizer
        return {
            "id": number,
            "tokens": prompt.tokens,
            "image_token": self._model.geometry.image_context_id,
            "images": [
                {
                    "path": str(each.path),
                    "grids": [[grid.cols, grid.rows] for grid in each.grids],
                    "thumbnail": each.grids[-1].thumbnail,
                }
                for each in prompt.pictures
            ],
            "stop": [tokenizer.special(TURN_END), tokenizer.special(TEXT_END)],
            "max_new_tokens": generation.max_new_tokens,
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "seed": generation.seed,
        }

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):  # nothing, or what it was saying when it died
            raise self._ended()
        found: dict[str, Any] = msgspec.json.decode(line)
        if "refused" in found:
            raise MixcError(found["refused"])
        return found

    def _ended(self) -> MixcError:
        status = self._process.wait()
        how = f"it was killed by {signal.Signals(-status).name}" if status < 0 else f"its exit status is {status}"
        killed = status == -signal.SIGKILL
        return MixcError(
            "the model's program has ended",
            why=f"{how}; what it said, if anything, stands above",
            mend="most often memory ran out: ask fewer at a time (--batch-size) or with fewer tiles (--max-tiles)"
            if killed
            else "",
        )

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            with suppress(BrokenPipeError):  # what it was still to be asked
                pipe.close()


class Text:
    """An answer's text, from tokens as they come: only whole characters, each once.

    A token may be the first bytes of a character, so text is made of what was last said and all since; that much before it is
    context enough for decoders that look at a token's neighbours.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._last: list[int] = []
        self._since: list[int] = []

    def add(self, tokens: Sequence[int]) -> str:
        """What can be said after these tokens and could not before."""
        self._since += tokens
        said = self.rest()
        if said.endswith("\ufffd"):  # the rest of a character is yet to come
            return ""
        if said:
            self._last, self._since = self._since, []
        return said

    def rest(self) -> str:
        """What is not said yet, bytes that are no character as U+FFFD."""
        before = self._tokenizer.decode(self._last) if self._last else ""
        return self._tokenizer.decode([*self._last, *self._since])[len(before) :] if self._since else ""
