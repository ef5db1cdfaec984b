"""The demo, compiled as a user would: by the command line, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


class Mixc:
    """Runs `mixc` with a cache of its own, in which only the tokenizer is ready."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def environment(self, **extra: str) -> dict[str, str]:
        return {**os.environ, "MIXC_CACHE": str(self.cache), "PYTHONPATH": str(REPO), **extra}

    def __call__(
        self, *arguments: str | Path, check: int | None = 0, cwd: Path = REPO, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "mixc", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=self.environment(**extra),
            cwd=cwd,
            timeout=300,
        )
        if check is not None:
            assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str | Path, check: int | None = 0, **extra: str):
        return json.loads(self(*arguments, "--json", check=check, **extra).stdout)


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the tokenizer has been built and proven."""
    from mixc.measure.tokenizer import load_tokenizer

    cache = tmp_path_factory.mktemp("tokenizers")
    load_tokenizer("qwen2.5", base=REPO, cache=cache)
    return cache


@pytest.fixture(scope="session")
def make_mixc(tokenizers: Path, tmp_path_factory: pytest.TempPathFactory):
    """A function that gives a Mixc with an empty cache."""

    def make() -> Mixc:
        cache = tmp_path_factory.mktemp("cache")
        shutil.copytree(tokenizers / "tokenizers", cache / "tokenizers")
        return Mixc(cache)

    return make


@pytest.fixture
def mixc(make_mixc) -> Mixc:
    return make_mixc()


@pytest.fixture(scope="session")
def demo(make_mixc, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped demo, compiled by one process. Not to be changed."""
    build = tmp_path_factory.mktemp("demo") / "build"
    make_mixc()("compile", REPO / "specs/demo.yaml", "-o", build, "--workers", "1")
    return build


def copy_demo(folder: Path) -> Path:
    """The demo's specs and sources, copied into `folder`; the copied spec."""
    shutil.copytree(REPO / "specs/demo/data", folder / "demo/data")
    for spec in ("demo.yaml", "demo-b.yaml"):
        shutil.copy(REPO / "specs" / spec, folder)
    return folder / "demo.yaml"


def trained_files(build: Path) -> dict[str, bytes]:
    """Every file of a build that training reads, by name."""
    names = ["tokens", "media"]
    return {
        path.relative_to(build).as_posix(): path.read_bytes()
        for name in names
        for path in sorted((build / name).rglob("*"))
        if path.is_file()
    }


def root(build: Path) -> str:
    return json.loads((build / "manifest.json").read_text())["manifest"]["root"]


def litter(folder: Path) -> Sequence[Path]:
    """Anything half-written below `folder`."""
    return [path for path in folder.rglob("*") if ".partial" in path.name or path.parent.name == "partial"]
