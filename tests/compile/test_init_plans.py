"""A spec that `mixc init` wrote can be planned as it is, and with what its comments suggest."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.compile.conftest import Mixc


def test_a_spec_from_init_is_planned_as_written_and_by_shares(mixc: Mixc, tmp_path: Path) -> None:
    def chats(name: str, rows: int, words: int) -> None:
        turns = [{"role": "user", "content": "why? " * words}, {"role": "assistant", "content": "so " * words}]
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.jsonl").write_text(f"{json.dumps({'messages': turns})}\n" * rows)

    chats("few", 2, 1)
    chats("many", 90, 300)
    with (tmp_path / "few/few.jsonl").open("a") as file:
        file.write("{broken\n")
    spec = tmp_path / "spec.yaml"
    said = mixc("init", tmp_path, "-o", spec)
    assert "warning: 1 of the first 3 rows of few cannot be used" in said.stderr
    assert "max_reject_rate: 0.34" in said.stderr
    refused = mixc("plan", spec, "--set", "max_reject_rate=0.1", check=2)
    assert "or let that many pass: `max_reject_rate: 0.34` at the top level of the spec" in refused.stderr
    mixc.json("plan", spec, "--set", "dedup.exact=false")

    text = spec.read_text()
    lines = re.sub(r"^    mix: .*\n", "", text, flags=re.M)
    taken = re.sub(r"^    # (mix: |on_exhausted: )", r"    \1", lines, flags=re.M)
    assert taken != lines
    spec.write_text(taken)
    (stage,) = mixc.json("plan", spec, "--set", "dedup.exact=false")["stages"]
    assert {name: round(source["wished"], 3) for name, source in stage["sources"].items()} == {"few": 0.5, "many": 0.5}
    assert all(abs(source["met"] - 0.5) < 0.02 for source in stage["sources"].values())
