"""What is asked: the folder of the weights, and how they expect a prompt to look."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mixc.errors import BuildError, SpecError
from mixc.measure.family import FAMILIES, IMAGE_CONTEXT, IMAGE_END, IMAGE_START, PAD
from mixc.measure.template import Template, template_named
from mixc.measure.tokenizer import Tokenizer, load_tokenizer
from shards.manifest import Geometry

CONFIG = "config.json"
RUN = "run.json"


@dataclass(frozen=True, slots=True)
class Model:
    folder: Path
    geometry: Geometry
    tokenizer: Tokenizer
    template: Template


def find(path: Path, *, tokenizer: str | None, template: str | None, cache: Path) -> Model:
    """The model at `path`: a run (its last trained stage), the folder of a stage, or a released model.

    Its tokenizer is the one beside it, else the one of its family; `tokenizer` and `template` say otherwise. Raises BuildError
    when there is no model, SpecError when the run was trained with another tokenizer.
    """
    folder = _last_stage(path) if (path / RUN).exists() else path
    config = _read(folder / CONFIG)
    if "geometry" in config:
        return _trained(folder, config, tokenizer, template, cache)
    return _released(folder, config, tokenizer, template, cache)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise BuildError(
            "no model here",
            where=str(path.parent),
            why=f"there is no {path.name}",
            mend="give a run, a folder RUN/STAGE, or the folder of a released model",
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise BuildError("not a model's description", where=str(path), why=str(error)) from None
    if not isinstance(found, dict):
        raise BuildError("not a model's description", where=str(path), why="it is no JSON object")
    return found


def _last_stage(run: Path) -> Path:
    stages: list[str] = _read(run / RUN).get("stages", [])
    trained = [run / stage for stage in stages if (run / stage / CONFIG).exists()]
    if not trained:
        raise BuildError(
            "no stage of this run is trained to its end",
            where=str(run),
            mend="go on with `mixc train --resume`; a stage can be asked when its folder is there",
        )
    return trained[-1]


def _trained(folder: Path, config: dict[str, Any], tokenizer: str | None, template: str | None, cache: Path) -> Model:
    try:
        geometry = msgspec.convert(config["geometry"], Geometry)
    except msgspec.ValidationError as error:
        raise BuildError("not a model's description", where=str(folder / CONFIG), why=str(error)) from None
    family = FAMILIES.get(geometry.name)
    name = tokenizer or (family.tokenizer if family else None)
    if name is None:
        raise BuildError(
            f"which tokenizer {geometry.name} has is not known", where=str(folder), mend="say it: --tokenizer"
        )
    found = load_tokenizer(name, base=Path.cwd(), cache=cache)
    parts = _read(folder.parent / RUN).get("parts", {}) if (folder.parent / RUN).exists() else {}
    if parts.get("tokenizer", found.digest) != found.digest:
        raise SpecError(
            f"the run was trained with another tokenizer than {name!r}",
            where=str(folder),
            why=f"its digest is {parts['tokenizer'][:16]}, this one's is {found.digest[:16]}",
            mend="give the one that the spec named: --tokenizer",
        )
    chosen = template_named(template or (family.template if family else "univl-chat"))
    if template is None and parts.get("template", chosen.digest) != chosen.digest:
        raise SpecError(
            "the run was trained with another chat template", where=str(folder), mend="say it: --template chatml"
        )
    return Model(folder, geometry, found, chosen)


def _released(folder: Path, config: dict[str, Any], tokenizer: str | None, template: str | None, cache: Path) -> Model:
    language = config.get("llm_config")
    if not isinstance(language, dict) or "vision_config" not in config:
        raise BuildError("not a model of the SAIL-VL family", where=str(folder / CONFIG), why="it has no llm_config")
    own = "." if (folder / "tokenizer.json").exists() else None
    family = "qwen2.5" if language.get("model_type") == "qwen2" else "qwen3"
    if tokenizer is None and own:
        found = load_tokenizer(own, base=folder, cache=cache)
    else:
        found = load_tokenizer(tokenizer or family, base=Path.cwd(), cache=cache)
    side = int(config.get("force_image_size", 448))
    patch = int(config["vision_config"].get("patch_size", 14))
    geometry = Geometry(
        name="released",
        tile_size=side,
        tokens_per_tile=int((side // patch) ** 2 * float(config.get("downsample_ratio", 0.5)) ** 2),
        max_tiles=int(config.get("max_dynamic_patch", 12)),
        min_tiles=int(config.get("min_dynamic_patch", 1)),
        thumbnail=bool(config.get("use_thumbnail", True)),
        vocab_size=int(language.get("vocab_size", 0)),
        image_start_id=found.special(IMAGE_START),
        image_end_id=found.special(IMAGE_END),
        image_context_id=found.special(IMAGE_CONTEXT),
        pad_id=found.special(PAD),
    )
    return Model(folder, geometry, found, template_named(template or "univl-chat"))
