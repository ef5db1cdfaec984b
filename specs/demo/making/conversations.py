"""The written conversations, as the two kinds of chat file that users have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Entry = Sequence[Any]
"""[complexity, question, answer, question, answer, ...]"""


def llava_rows(written: Mapping[str, Sequence[Entry]], files: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Rows of LLaVA's JSON: `from` human or gpt, one image path; `written` is picture -> entries."""
    for picture, entries in written.items():
        for number, (complexity, *turns) in enumerate(entries):
            turns = [f"<image>\n{turns[0]}", *turns[1:]]
            yield {
                "id": f"{picture}-{number}",
                "image": files[picture],
                "complexity": complexity,
                "conversations": [
                    {"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(turns)
                ],
            }


def openai_rows(written: Mapping[str, Sequence[Entry]], files: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Rows of OpenAI's messages, images as content parts whose files a list of paths names; the entries under
    `pairs` begin with their two pictures."""
    for picture, entries in written.items():
        for number, entry in enumerate(entries):
            pictures, (complexity, *turns) = (entry[0], entry[1:]) if picture == "pairs" else ([picture], entry)
            images: list[dict[str, str]] = [{"type": "image"} for _ in pictures]
            contents = [[*images, {"type": "text", "text": turns[0]}], *turns[1:]]
            yield {
                "id": f"{'-'.join(pictures)}-{number}",
                "images": [files[name] for name in pictures],
                "complexity": float(complexity),
                "messages": [
                    {"role": ("user", "assistant")[place % 2], "content": content}
                    for place, content in enumerate(contents)
                ],
            }
