"""What is asked: the folder of the weights, and how they expect a prompt to look."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from mixc.errors import BuildError, SpecError
from mixc.measure.family import FAMILIES, IMAGE_CONTEXT, IMAGE_END, IMAGE_START, PAD
from mixc.measure.template import TEMPLATES, THINK_TAGS, Template, template_named, template_of
from mixc.measure.tokenizer import Tokenizer, load_tokenizer
from shards.manifest import Geometry, Manifest
from shards.recognise import RUN, recognise

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_SETTINGS = "tokenizer_config.json"
THINK_TOKENS = "think_tokens"
"""The setting that an export has beside transformers' own: whether its answers have <think> and </think> as tokens."""

_Count = Annotated[int, Meta(ge=1)]


class _Parts(msgspec.Struct, frozen=True):
    """Digests of what a run's texts were made tokens with."""

    tokenizer: str = ""
    template: str = ""


class _Run(msgspec.Struct, frozen=True):
    """What is asked of run.json."""

    stages: list[str]
    parts: _Parts


class _Trained(msgspec.Struct, frozen=True):
    """What is asked of the config.json beside a stage's weights."""

    geometry: Geometry


class _Language(msgspec.Struct, frozen=True):
    model_type: str
    vocab_size: _Count


class _Vision(msgspec.Struct, frozen=True):
    patch_size: _Count = 14


class _Released(msgspec.Struct, frozen=True):
    """What is asked of a released model's config.json; what it leaves out is what the family has."""

    llm_config: _Language
    vision_config: _Vision
    force_image_size: _Count = 448
    downsample_ratio: Annotated[float, Meta(gt=0, le=1)] = 0.5
    max_dynamic_patch: _Count = 12
    min_dynamic_patch: _Count = 1
    use_thumbnail: bool = True
    template: str = "univl-chat"


class _Settings(msgspec.Struct, frozen=True):
    """What is asked of the tokenizer_config.json beside a released model, and what exports by mixc alone have."""

    think_tokens: bool | None = None


_TOKENIZERS = {"qwen2": "qwen2.5", "qwen3": "qwen3", "qwen3_moe": "qwen3"}
"""Of the family's language models."""
_STAND_INS = {"sailvl-chat": "univl-chat"}
"""Templates of releases that have another name here: what SAIL-VL 1 to 1.6 put into theirs is not published."""


@dataclass(frozen=True, slots=True)
class Model:
    folder: Path
    geometry: Geometry
    tokenizer: Tokenizer
    template: Template
    unfinished: tuple[str, ...] = ()
    """Stages of its run that come after the one whose weights these are."""


def find(path: Path, *, tokenizer: str | None, template: str | None, cache: Path) -> Model:
    """The model at `path`: a run (its last trained stage), the folder of a stage, or a released model.

    Its tokenizer is the one beside it, else the one that its run was trained with, else its family's; `tokenizer` and `template`
    say otherwise. Raises BuildError when there is no model, SpecError when the run was trained with another tokenizer.
    """
    run = _run(path)
    folder = path if run is None else _last_stage(path, run)
    data = _bytes(folder / CONFIG)
    if "geometry" in _decoded(data, folder / CONFIG, dict[str, Any]):
        model = _trained(folder, _decoded(data, folder / CONFIG, _Trained).geometry, tokenizer, template, cache)
        later = () if run is None else tuple(run.stages[run.stages.index(folder.name) + 1 :])
        return replace(model, unfinished=later)
    return _released(folder, data, tokenizer, template, cache)


def _run(folder: Path) -> _Run | None:
    """The run whose folder it is."""
    path = folder / RUN
    return _decoded(_bytes(path), path, _Run) if path.exists() else None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BuildError(
            "no model here",
            where=str(path.parent),
            why=recognise(path.parent) or f"there is no {path.name}",
            mend="give a run, a folder RUN/STAGE, or the folder of a released model",
        ) from None
    except OSError as error:
        why = recognise(path.parent) or error.strerror or str(error)
        raise BuildError("no model here", where=str(path.parent), why=why) from None


T = TypeVar("T")


def _decoded(data: bytes, path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BuildError("not a model's description", where=str(path), why=str(error)) from None


def _last_stage(folder: Path, run: _Run) -> Path:
    trained = [folder / stage for stage in run.stages if (folder / stage / CONFIG).exists()]
    if not trained:
        raise BuildError(
            "no stage of this run is trained to its end",
            where=str(folder),
            mend="go on with `mixc train --resume`; a stage can be asked when its folder is there",
        )
    return trained[-1]


def of_build(manifest: Manifest, where: str, *, cache: Path) -> Model:
    """A model as it is trained from a build, which has no weights yet: `folder` is none. `where` names the build. Raises SpecError
    when the tokenizer is not on this machine."""
    parts = _Parts(tokenizer=manifest.tokenizer, template=manifest.template)
    mend = "compile the build's spec on this machine, which keeps the tokenizer in the cache"
    return _made(Path(), where, manifest.geometry, parts, None, None, cache, mend)


def _trained(folder: Path, geometry: Geometry, tokenizer: str | None, template: str | None, cache: Path) -> Model:
    run = _run(folder.resolve().parent)
    parts = _Parts() if run is None else run.parts
    mend = "give the one that the spec named: --tokenizer"
    return _made(folder, str(folder), geometry, parts, tokenizer, template, cache, mend)


def _made(
    folder: Path,
    where: str,
    geometry: Geometry,
    parts: _Parts,
    tokenizer: str | None,
    template: str | None,
    cache: Path,
    mend: str,
) -> Model:
    """What is trained, or was, with these parts. `mend`: what to do where its tokenizer cannot be found."""
    family = FAMILIES.get(geometry.name)
    kept = cache / "tokenizers" / parts.tokenizer if parts.tokenizer else None
    if tokenizer is not None:
        name = tokenizer
    elif kept is not None and (kept / TOKENIZER).is_file():
        name = str(kept)  # the compiler keeps all that it has used
    elif family is not None:
        name = family.tokenizer
    else:
        raise BuildError(f"which tokenizer {geometry.name} has is not known", where=where, mend=mend)
    found = load_tokenizer(name, base=Path.cwd(), cache=cache)
    if parts.tokenizer and parts.tokenizer != found.digest:
        raise SpecError(
            f"it is trained with another tokenizer than {name!r}",
            where=where,
            why=f"its digest is {parts.tokenizer[:16]}, this one's is {found.digest[:16]}",
            mend=mend,
        )
    ids = (geometry.image_start_id, geometry.image_end_id, geometry.image_context_id)
    if ids != tuple(found.special(each) for each in (IMAGE_START, IMAGE_END, IMAGE_CONTEXT)):
        raise SpecError(
            f"it is trained with another tokenizer than {name!r}",
            where=where,
            why=f"its images stand at tokens {', '.join(map(str, ids))}, which this one has other texts for",
            mend=mend,
        )
    recorded = template_of(parts.template)
    if template is None and parts.template:
        if recorded is None:
            raise SpecError(
                "it is trained with a chat template that is not known here",
                where=where,
                why=f"its digest is {parts.template[:16]}",
                mend=f"say which comes close: --template with one of {', '.join(TEMPLATES)}",
            )
        return Model(folder, geometry, found, recorded)
    if recorded is None:
        think = family is not None and family.think and found.has_verbatim(THINK_TAGS)
    else:
        think = recorded.think
    name = template or (family.template if family else "univl-chat")
    return Model(folder, geometry, found, template_named(name, think=think))


def _released(folder: Path, data: bytes, tokenizer: str | None, template: str | None, cache: Path) -> Model:
    path = folder / CONFIG
    found = _decoded(data, path, dict[str, Any])
    if not {"llm_config", "vision_config"} <= found.keys():
        raise BuildError(
            "not a model of the SAIL-VL family",
            where=str(path),
            why="it has no llm_config and vision_config",
            mend="what `mixc export --format transformers` wrote is for transformers; export as released to ask it here"
            if "text_config" in found
            else "",
        )
    config = _decoded(data, path, _Released)
    language = config.llm_config
    if language.model_type not in _TOKENIZERS:
        raise BuildError(
            "not a model of the SAIL-VL family",
            where=str(path),
            why=f"its language model is a {language.model_type!r}, not one of {', '.join(_TOKENIZERS)}",
        )
    if template is None and _STAND_INS.get(config.template, config.template) not in TEMPLATES:
        raise BuildError(
            f"its chat template {config.template!r} is not known here",
            where=str(path),
            mend=f"say which comes close: --template with one of {', '.join(TEMPLATES)}",
        )
    if tokenizer is None and (folder / TOKENIZER).exists():
        vocabulary = load_tokenizer(".", base=folder, cache=cache)
    else:
        name = tokenizer or _TOKENIZERS[language.model_type]
        vocabulary = load_tokenizer(name, base=Path.cwd(), cache=cache)
    side = config.force_image_size // config.vision_config.patch_size * config.downsample_ratio
    geometry = Geometry(
        name="released",
        tile_size=config.force_image_size,
        tokens_per_tile=int(side) ** 2,
        max_tiles=config.max_dynamic_patch,
        min_tiles=config.min_dynamic_patch,
        thumbnail=config.use_thumbnail,
        vocab_size=language.vocab_size,
        image_start_id=vocabulary.special(IMAGE_START),
        image_end_id=vocabulary.special(IMAGE_END),
        image_context_id=vocabulary.special(IMAGE_CONTEXT),
        pad_id=vocabulary.special(PAD),
    )
    settings = folder / TOKENIZER_SETTINGS
    think = _decoded(_bytes(settings), settings, _Settings).think_tokens if settings.exists() else None
    if think is None:  # published by others: Qwen3 has the two, Qwen2.5 has not
        think = _TOKENIZERS[language.model_type] == "qwen3"
    think = think and vocabulary.has_verbatim(THINK_TAGS)
    name = template or _STAND_INS.get(config.template, config.template)
    return Model(folder, geometry, vocabulary, template_named(name, think=think))
