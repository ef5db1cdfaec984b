"""Does a model of each kind learn what it is shown? A tiny twin is trained on the demo's questions about pictures until it knows them
by heart, and is then asked them, through the programs that a user has: `mixc compile`, `mixc train`, `mixc chat --batch`.

A question counts as answered when the answer is the training data's, character by character, by greedy generation. Aim: 90 %.
All of the demo's questions of one turn about one picture are taken. No two of them have the same words, so they are asked once more
with another picture: how many answers are then others says whether the model looks at it.

    python benchmarks/overfit.py [MODEL ...] [--epochs N] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "specs/demo/data/chat"
TWINS = ("sail-vl-tiny", "sail-vl-tiny-v1", "sail-vl-tiny-v1.5", "sail-vl-tiny-moe")


def questions() -> list[dict[str, object]]:
    """The demo's questions of one turn about one picture, with their answers."""
    found = []
    for row in json.loads((DEMO / "knowledge.json").read_text()):
        turns = row["conversations"]
        if len(turns) == 2 and row.get("image"):
            asked = turns[0]["value"].replace("<image>\n", "")
            found.append({"id": row["id"], "question": asked, "image": row["image"], "answer": turns[1]["value"]})
    return found


def spec(model: str, epochs: int) -> str:
    return f"""
mixture: by-heart
seed: 1
model: {model}
tiles: {{max: 1}}
sources:
  questions: {{path: questions.json, kind: chat, image: image}}
stages:
  - name: learn
    budget: {epochs} epochs
    mix: {{questions: {{weight: 1, max_epochs: {epochs}}}}}
    sequence_length: 1024  # three questions with their pictures: small steps, but many
    train:
      lr: {{vision: 1e-3, projector: 2e-3, language: 5e-3}}
      batch: 1
      warmup: 5%
      weight_decay: 0
      betas: [0.9, 0.95]
"""


def run(*command: object, folder: Path) -> str:
    environment = os.environ | {"MIXC_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def by_heart(model: str, epochs: int) -> dict[str, object]:
    """Train and ask one model."""
    asked = questions()
    with tempfile.TemporaryDirectory(prefix="mixc-overfit-") as name:
        folder = Path(name)
        shutil.copytree(DEMO / "images", folder / "images")
        rows = [
            {
                "id": each["id"],
                "image": each["image"],
                "conversations": [
                    {"from": "human", "value": f"<image>\n{each['question']}"},
                    {"from": "gpt", "value": each["answer"]},
                ],
            }
            for each in asked
        ]
        (folder / "questions.json").write_text(json.dumps(rows))
        (folder / "spec.yaml").write_text(spec(model, epochs))
        pictures = list(dict.fromkeys(each["image"] for each in asked))
        other = dict(zip(pictures, [*pictures[1:], pictures[0]], strict=True))
        lines = [{"question": each["question"], "images": [each["image"]]} for each in asked]
        lines += [{"question": each["question"], "images": [other[each["image"]]]} for each in asked]
        (folder / "batch.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        run("mixc", "compile", "spec.yaml", "-o", "build", folder=folder)
        begun = time.monotonic()
        run("runtime", "build", "--out", "run", "--log-every", 100, folder=folder)
        seconds = time.monotonic() - begun
        steps = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
        run(
            "mixc", "chat", "run", "--batch", "batch.jsonl", "--out", "answers.jsonl", "--max-tiles", 1,
            "--max-new-tokens", 80, "--batch-size", 32, folder=folder,
        )  # fmt: skip
        answers = [json.loads(line)["answer"] for line in (folder / "answers.jsonl").read_text().splitlines()]
    answers, elsewhere = answers[: len(asked)], answers[len(asked) :]
    exact = [answer == each["answer"] for answer, each in zip(answers, asked, strict=True)]
    return {
        "model": model,
        "questions": len(asked),
        "exact": sum(exact),
        "share": sum(exact) / len(exact),
        "swayed": sum(here != there for here, there in zip(answers, elsewhere, strict=True)),
        "steps": len(steps),
        "loss": (steps[0]["loss"], steps[-1]["loss"]),
        "seconds": seconds,
        "missed": [
            {"question": each["question"], "wanted": each["answer"], "said": answer}
            for answer, each, right in zip(answers, asked, exact, strict=True)
            if not right
        ][:3],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=TWINS, metavar="MODEL")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    met = True
    if not options.json:
        print("| model | questions | exact | others with another picture | steps | loss | seconds |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
    for model in options.models:
        found = by_heart(model, options.epochs)
        met &= found["share"] >= 0.9
        if options.json:
            print(json.dumps(found), flush=True)
            continue
        first, last = found["loss"]
        print(
            f"| {model} | {found['questions']} | {found['exact']} | {found['swayed']} | {found['steps']} | "
            f"{first:.2f} to {last:.3f} | {found['seconds']:.0f} |",
            flush=True,
        )
        for each in found["missed"]:
            print(f"  {each['question']!r}: {each['wanted']!r}, not {each['said']!r}", file=sys.stderr)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
