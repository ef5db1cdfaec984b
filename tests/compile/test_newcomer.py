"""A newcomer's way: a folder of pictures with captions and a file of conversations, no knowledge of mixc, five commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.compile.conftest import REPO

pytestmark = [pytest.mark.slow, pytest.mark.dist]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The demo's photographs as plain files with captions beside them, and its conversations as lines of JSON."""
    folder = tmp_path / "data"
    (folder / "photos").mkdir(parents=True)
    rows = pq.read_table(REPO / "specs/demo/data/captions/photographs.parquet").to_pylist()
    for number, row in enumerate(rows[:6]):
        image = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
        (folder / f"photos/{number:02}.jpg").write_bytes(image)
        (folder / f"photos/{number:02}.txt").write_text(row["caption"])
    shutil.copytree(REPO / "specs/demo/data/chat", folder / "chat")
    (folder / "chat/knowledge.json").unlink()
    chats = folder / "chat/reasoning.jsonl"
    chats.write_text("".join(chats.read_text().splitlines(keepends=True)[:10]))
    return folder


def test_from_a_folder_to_a_trained_model_and_a_report(mixc, data: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        return mixc(*arguments, cwd=tmp_path, DS_ACCELERATOR="cpu").stdout

    told = run("init", "data")
    assert "photos: caption, data/photos" in told and "reasoning: chat, data/chat/reasoning.jsonl" in told
    # the next commands are those that `init` names
    assert [line.strip() for line in told.splitlines() if line.startswith("  mixc")] == [
        "mixc plan spec.yaml",
        "mixc compile spec.yaml -o build",
        "mixc train build --out run",
        "mixc report build",
    ]
    assert "photos" in run("plan", "spec.yaml")
    run("compile", "spec.yaml", "-o", "build")
    run("train", "build", "--out", "run", "--log-every", "10")
    run("report", "build")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    for stage in ("align", "sft"):
        assert (tmp_path / f"run/{stage}/model.safetensors").stat().st_size > 1_000_000
    assert "sft" in (tmp_path / "build.html").read_text()
