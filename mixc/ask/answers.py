"""Starts the program that generates, and gives what it says as text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from mixc.ask.model import Model
from mixc.ask.prompt import Prompt
from mixc.errors import MixcError
from mixc.measure.template import TEXT_END, TURN_END


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


class Answers:
    """The program with a model loaded, as a context."""

    def __init__(self, model: Model, *, name: str | None = None, precision: str | None = None) -> None:
        self._model = model
        command = [sys.executable, "-m", "runtime.generate", str(model.folder)]
        command += ["--model", name] if name else []
        command += ["--precision", precision] if precision else []
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.about: dict[str, Any] = {}

    def __enter__(self) -> Answers:
        self.about = self._line()["ready"]
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, prompts: Sequence[Prompt], generation: Generation) -> Iterator[Part]:
        """Answer `prompts` together; parts are numbered by place. Raises MixcError when the program ends meanwhile."""
        tokenizer = self._model.tokenizer
        requests = [
            {
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
            for number, prompt in enumerate(prompts)
        ]
        assert self._process.stdin
        try:
            for request in requests:
                self._process.stdin.write(msgspec.json.encode(request) + b"\n")
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        made: dict[int, list[int]] = {number: [] for number in range(len(prompts))}
        said = dict.fromkeys(made, "")
        left = set(made)
        while left:
            line = self._line()
            number = line["id"]
            if "error" in line:
                left.discard(number)
                yield Part(number, line["error"], "error")
                continue
            made[number] += line.get("tokens", [])
            whole = tokenizer.decode(made[number])
            if "done" in line:
                left.discard(number)
                yield Part(number, whole[len(said[number]) :], line["done"])
            elif not whole.endswith("\ufffd"):  # the rest of a character is yet to come
                yield Part(number, whole[len(said[number]) :])
                said[number] = whole

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        found: dict[str, Any] = msgspec.json.decode(line)
        return found

    def _ended(self) -> MixcError:
        status = self._process.wait()
        return MixcError("the model's program has ended", why=f"its exit status is {status}; what it said stands above")
