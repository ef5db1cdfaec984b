"""`python -m runtime.export WEIGHTS --out DIR`: weights in the form that others read.

`released`: as the SAIL-VL models are published, tensor names, config.json and an index, for InternVL-style code and inference
servers. `transformers`: as transformers' own InternVL model, which opens without remote code; only InternViT models have that form.

Tensors go from file to file, one at a time and unchanged, so a model need not fit into memory. The folder appears when it is whole.
Weights that are not those their config.json was written for are refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import torch

from runtime import tensor_files, weights
from runtime.errors import ArgumentError, TrainError
from runtime.model import released
from runtime.model.released import Entry
from runtime.model.zoo import Architecture, architecture
from runtime.new_folder import appearing
from runtime.safetensor import Stored
from runtime.tensor_files import TensorFiles
from shards.atomic import atomic_write
from shards.errors import ShardError
from shards.manifest import Geometry

FORMATS = ("released", "transformers")
_EMBEDDINGS = "language.model.embed_tokens.weight"


def export(
    folder: Path, out: Path, form: str, *, template: str = "univl-chat", beside: Path | None = None
) -> Architecture:
    """Write the weights in `folder`, which a stage was saved in, to a new folder `out`. Returns the model's shape.

    `template` is the name of the chat template that they were trained with; the files in the folder `beside` come along, so that
    nobody sees weights without them.

    Raises CheckpointError for weights that are not whole, ArgumentError for a form that the model does not have or a folder that
    is not empty, OSError when it cannot be written.
    """
    if out.exists() and any(out.iterdir()):
        raise ArgumentError("something is in this folder already", where=str(out), mend="give another --out")
    config = weights.trusted(folder)
    geometry = msgspec.convert(config.geometry, Geometry)
    shape = architecture(config.model, geometry)
    if form == "transformers" and shape.vision.kind != "internvit":
        raise ArgumentError(
            f"transformers has no model of {shape.name}'s kind: its tower is no InternViT", mend="use --format released"
        )
    with ExitStack() as stack:
        files = stack.enter_context(tensor_files.opened(folder))
        tied = weights.HEAD not in files.names
        plan = _released(shape) if form == "released" else _transformers(shape, tied=tied)
        if missing := {name for entry in plan for name in _sources(entry, files)} - files.names:
            raise weights.mismatch(folder, missing=missing, odd=set())
        stored = {name: about for entry in plan for name, about in _stored(entry, files)}
        with appearing(out, size=sum(each.bytes for each in stored.values())) as partial:
            tensor_files.write(partial, _tensors(plan, files), stored)
            stack.close()  # says if the weights were changed under way, and must before `out` appears
            described = _config(shape, geometry, config, form=form, tied=tied, template=template)
            with atomic_write(partial / "config.json") as file:
                file.write(msgspec.json.format(msgspec.json.encode(described), indent=2) + b"\n")
            for path in sorted(beside.iterdir()) if beside else ():
                with atomic_write(partial / path.name) as file:
                    file.write(path.read_bytes())
    return shape


def _released(shape: Architecture) -> list[Entry]:
    return sorted(released.entries(shape), key=lambda entry: entry.released)


def _transformers(shape: Architecture, *, tied: bool) -> list[Entry]:
    """transformers' InternVL, whose parts are ours but for their places."""
    ours = [name for entry in released.entries(shape) for name in entry.ours if not (tied and name == weights.HEAD)]
    return [Entry((_renamed(name),), (name,)) for name in sorted(ours)]


_PLACES = {
    "vision.encoder.": "model.vision_tower.",
    "projector.mlp.0.": "model.multi_modal_projector.layer_norm.",
    "projector.mlp.1.": "model.multi_modal_projector.linear_1.",
    "projector.mlp.3.": "model.multi_modal_projector.linear_2.",
    "language.model.": "model.language_model.",
    "language.lm_head.": "lm_head.",
}


def _renamed(name: str) -> str:
    for ours, theirs in _PLACES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise AssertionError(name)


def _sources(entry: Entry, files: TensorFiles) -> list[str]:
    """A head that is not stored is the embedding table."""
    return [_EMBEDDINGS if name == weights.HEAD and name not in files.names else name for name in entry.ours]


def _stored(entry: Entry, files: TensorFiles) -> Iterator[tuple[str, Stored]]:
    shapes = [
        torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in map(files.stored, _sources(entry, files))
    ]
    for name, tensor in zip(entry.released, entry.to_released(shapes), strict=True):
        yield name, Stored(tuple(tensor.shape), tensor.dtype)


def _tensors(plan: Sequence[Entry], files: TensorFiles) -> Iterator[tuple[str, torch.Tensor]]:
    for entry in plan:
        yield from _made(entry, files)


def _made(entry: Entry, files: TensorFiles) -> Iterator[tuple[str, torch.Tensor]]:
    """Apart from `_tensors`, so that nothing holds one entry's tensors while the next is read."""
    read = [files.read(name) for name in _sources(entry, files)]
    yield from zip(entry.released, entry.to_released(read), strict=True)


def _config(
    shape: Architecture, geometry: Geometry, config: weights.Config, *, form: str, tied: bool, template: str
) -> dict[str, Any]:
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[config.precision]
    if form == "released":
        about = released.config(
            shape,
            tied=tied,
            min_tiles=geometry.min_tiles,
            max_tiles=geometry.max_tiles,
            thumbnail=geometry.thumbnail,
            dtype=dtype,
        )
        return {**about, "template": template}
    from transformers import InternVLConfig

    from runtime.model.language import language_settings
    from runtime.model.vision import vision_settings

    language = {
        name: value for name, value in language_settings(shape.language).items() if name != "attn_implementation"
    }
    vision = {name: value for name, value in vision_settings(shape.vision).items() if name != "attn_implementation"}
    made = InternVLConfig(
        vision_config={"model_type": "internvl_vision", **vision},
        text_config={"model_type": shape.language.kind, **language, "tie_word_embeddings": tied, "use_cache": True},
        image_token_id=geometry.image_context_id,
        image_seq_length=geometry.tokens_per_tile,
        downsample_ratio=0.5,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",  # without the class token
        tie_word_embeddings=tied,
    )
    about = made.to_diff_dict()
    return {**about, "architectures": ["InternVLForConditionalGeneration"], "dtype": dtype}


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Returns its exit status."""
    parser = argparse.ArgumentParser(prog="mixc export", description=__doc__.splitlines()[0].partition(": ")[2])
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="a folder that a stage was saved in: RUN/STAGE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--format", choices=FORMATS, default="released", help="the form (released)")
    parser.add_argument("--template", default="univl-chat", help="name of the chat template (univl-chat)")
    parser.add_argument("--beside", type=Path, metavar="DIR", help="a folder of files that come along")
    arguments = parser.parse_args(argv)
    try:
        shape = export(
            arguments.weights, arguments.out, arguments.format, template=arguments.template, beside=arguments.beside
        )
    except (TrainError, ShardError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{parser.prog}: {error.filename or arguments.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"{arguments.out}: {shape.name}, {arguments.format}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
