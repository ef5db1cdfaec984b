"""What a search for a learning rate does to a run: copies of weights and optimizer, kept and gone back to.

    RUN/search/checkpoints/<stage>-<step>/      as a checkpoint is: see runtime/checkpoint

runtime/search.py says when. A copy is written like a checkpoint, behind the steps, and is there before any checkpoint that
would need it: one is under way at a time.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import msgspec

from runtime.checkpoint import files
from runtime.checkpoint.saver import Saver
from runtime.engine import Engine
from runtime.errors import CheckpointError
from runtime.processes import Place
from runtime.search import Act, SearchState, advance
from shards.manifest import SearchSettings

FOLDER = "search"


class Trials:
    """The search of one run. In all processes."""

    def __init__(self, run: Path, saver: Saver, place: Place) -> None:
        self._run, self._saver, self._place = run, saver, place

    def after(self, engine: Engine, state: files.State, loss: float, settings: SearchSettings) -> files.State:
        """Let the search see the loss of the step that was made, and do as it says. The state that goes on. Raises what the
        saver raises, and CheckpointError when the copy to go back to is damaged."""
        before = state.search or SearchState()
        search, act = advance(before, loss, state.step, settings)
        state = msgspec.structs.replace(state, search=search)
        if act is Act.KEEP:
            self._saver.begin(engine, self._run / FOLDER, state, self._forget)
        elif act is Act.UNDO:
            self._saver.finish()
            assert before.kept is not None
            kept = msgspec.structs.replace(state, step=before.kept)
            path = self._run / FOLDER / files.FOLDER / files.name(kept)
            files.load(engine, path, files.read(path), self._place)
        return state

    def end(self) -> None:
        """The stage is done: nothing is gone back to any more."""
        if self._place.first:
            shutil.rmtree(self._run / FOLDER, ignore_errors=True)

    def _forget(self, published: Path) -> None:
        """Remove the copies that a search cannot go back to any more, from here or from a checkpoint of the run."""
        needed = {published.name}
        for path in (self._run / files.FOLDER).glob(f"*/{files.STATE}"):
            with suppress(CheckpointError):  # no run goes on from one that is damaged
                kept = files.read(path.parent)
                if kept.search and kept.search.kept is not None:
                    needed.add(files.name(msgspec.structs.replace(kept, step=kept.search.kept)))
        for copy in published.parent.glob(f"*/{files.STATE}"):
            if copy.parent.name not in needed:
                shutil.rmtree(copy.parent)
