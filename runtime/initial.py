"""The weights that a run begins with: those of a stage that was trained, of a released model, or of its parts.

A model that is given all its weights is built without any (`given`), and each tensor is read straight into its place: nothing is
drawn to be thrown away, and one model is in memory, not two.

Loading is strict in every case: each tensor of the model comes from the folder, and each tensor of the folder goes into the
model, or the first one that does not is named. What config.json says of how a model computes, and no tensor would show (heads,
rotary base, order of pixel shuffle), must be what the model here does.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import torch

from runtime import tensor_files, weights
from runtime.errors import ArgumentError, CheckpointError
from runtime.model import released
from runtime.model.language import untie
from runtime.model.sail_vl import PARTS, SailVL
from runtime.model.zoo import Architecture
from runtime.tensor_files import TensorFiles

CONFIG = "config.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Initial:
    """Folders to begin with. `whole` excludes the others; a part without a folder is random."""

    whole: Path | None = None
    vision: Path | None = None
    language: Path | None = None


def check(initial: Initial) -> None:
    """What can be known to be wrong before a model is built. Raises ArgumentError or CheckpointError."""
    folders = [folder for folder in (initial.whole, initial.vision, initial.language) if folder is not None]
    if initial.whole is not None and len(folders) > 1:
        raise ArgumentError("a run begins with a whole model (--init) or with parts (--init-vision, --init-language)")
    for folder in folders:
        with tensor_files.opened(folder):
            pass


def given(initial: Initial) -> tuple[str, ...]:
    """The parts of a model that `load` gives weights."""
    if initial.whole is not None:
        return PARTS
    return tuple(name for name in PARTS if getattr(initial, name, None) is not None)


def adopted(shape: Architecture, initial: Initial) -> Architecture:
    """`shape` with what the config.json of a whole model knows better: the order of pixel shuffle, which is published for few
    members of the family. Raises CheckpointError when it says something that the model here cannot do."""
    whole = initial.whole
    if whole is None:
        return shape
    found = read_config(whole)
    version = found.get("pixel_shuffle" if is_ours(found) else "ps_version", shape.pixel_shuffle)
    if version not in ("v1", "v2"):
        raise CheckpointError(f"there is no pixel shuffle {version!r}", where=str(whole / CONFIG), why="it is v1 or v2")
    return dataclasses.replace(shape, pixel_shuffle=version)


def is_ours(config: dict[str, Any]) -> bool:
    """Whether a config.json is one that runtime.weights has written."""
    return "format" in config and "model_type" not in config


def load(model: SailVL, initial: Initial) -> str:
    """Give `model` the weights, converted to its precision, and say what they are. A head that differs from the embeddings,
    where the model shares them, becomes a tensor of its own. Raises CheckpointError."""
    said = []
    if initial.whole is not None:
        config = read_config(initial.whole)
        if is_ours(config) or not _is_released(initial.whole, config):
            said.append(f"{weights.load(model, initial.whole)} tensors from {initial.whole}")
        else:
            said.append(_load_released(model, initial.whole, config))
    if initial.vision is not None:
        said.append(_load_part(model, initial.vision, "vision"))
    if initial.language is not None:
        said.append(_load_part(model, initial.language, "language"))
    empty = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    assert not empty, f"the model was built for other weights than it was given: it has no {empty[0]}"
    return ", ".join(said)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as it stands, ours or another's; empty where there is none. Raises CheckpointError."""
    path = folder / CONFIG
    try:
        found = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError("not a model's description", where=str(path), why=str(error)) from None
    if not isinstance(found, dict):
        raise CheckpointError("not a model's description", where=str(path), why="it is no JSON object")
    return found


def _is_released(folder: Path, config: dict[str, Any]) -> bool:
    if "vision_config" in config:
        return True
    with tensor_files.opened(folder) as files:
        return any(name.startswith("vision_model.") for name in files.names)


def _load_released(model: SailVL, folder: Path, config: dict[str, Any]) -> str:
    shape = model.shape
    wanted = released.config(shape, tied=True, min_tiles=1, max_tiles=1, thumbnail=True, dtype="")
    _agree(wanted, config, folder)
    with tensor_files.opened(folder) as files:
        count = _fill(model, files, released.entries(shape))
    return f"{count} tensors of the released model in {folder}"


def _load_part(model: SailVL, folder: Path, which: str) -> str:
    """A folder that holds one part, or a whole released model of which only that part is taken."""
    shape, config = model.shape, read_config(folder)
    if which == "vision":
        wanted, config = released.vision_config(shape.vision, dtype=""), config.get("vision_config", config)
        prefix, make = "vision_model.", lambda prefix: released.vision_entries(shape.vision, prefix)
    else:
        wanted, config = released.language_config(shape.language, tied=True, dtype=""), config.get("llm_config", config)
        prefix, make = "language_model.", lambda prefix: released.language_entries(shape.language, prefix)
    _agree(wanted, config, folder)
    with tensor_files.opened(folder) as files:
        inside = {name for name in files.names if name.startswith(prefix)}
        count = _fill(model, files, make(prefix if inside else ""), only=inside or None)
    return f"{which}: {count} tensors from {folder}"


def _agree(wanted: dict[str, Any], found: dict[str, Any], folder: Path) -> None:
    if said := released.differences(wanted, found):
        raise CheckpointError("its config.json is not of this model", where=str(folder / CONFIG), why="; ".join(said))


def _fill(model: SailVL, files: TensorFiles, entries: list[released.Entry], only: set[str] | None = None) -> int:
    """Copy what `entries` say. `only`: of the folder's names, those that must all be used."""
    found = files.names if only is None else only
    wanted = {name for entry in entries for name in entry.released}
    head = next((entry.released[0] for entry in entries if entry.ours == ("language.lm_head.weight",)), None)
    tied = model.shape.language.tied
    if head in wanted and head not in found and tied:
        entries = [entry for entry in entries if entry.released != (head,)]
        wanted.remove(head)
    if wanted != found:
        raise weights.mismatch(files.folder, missing=wanted - found, odd=found - wanted)
    if tied and head in wanted:
        table = next(entry.released[0] for entry in entries if entry.ours == ("language.model.embed_tokens.weight",))
        if torch.equal(files.read(head), files.read(table)):
            entries = [entry for entry in entries if entry.released != (head,)]
        else:
            untie(model.language)
    held = dict(model.named_parameters())
    for entry in entries:
        try:
            values = entry.to_ours([files.read(name) for name in entry.released])
        except (RuntimeError, IndexError) as error:  # stacked or split, they would have no shape at all
            raise weights.misshapen(files.folder, entry.released[0], why=str(error)) from None
        for name, value in zip(entry.ours, values, strict=True):
            if value.shape != held[name].shape:
                raise weights.misshapen(
                    files.folder,
                    entry.released[0],
                    why=f"it would make {name} {list(value.shape)}, which the model has as {list(held[name].shape)}",
                )
            weights.give(held[name], value)
    return len(wanted)
