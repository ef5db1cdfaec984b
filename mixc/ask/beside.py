"""What stands beside exported weights, so that others ask the model as it was trained: its tokenizer, its chat template as jinja,
and which tokens end an answer.

The files are those of SAIL-VL2-2B, and their settings its tokenizer_config.json's, but for the chat template: the released one is
another model's. Texts in which a user writes control tokens are not the same here and there: transformers takes them for what they
say, and mixc for text. So are <think> and </think> of an earlier answer, which transformers takes for tokens: rightly where the model
was trained with them, as the setting THINK_TOKENS tells mixc when it asks the export.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mixc.ask.model import THINK_TOKENS, TOKENIZER, TOKENIZER_SETTINGS, Model
from mixc.measure.family import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, PAD
from mixc.measure.template import TEXT_END, TURN_END, TURN_START, Template
from mixc.sources.sample import IMAGE_PLACEHOLDER
from shards.manifest import Geometry

RELEASED, TRANSFORMERS = FORMS = ("released", "transformers")
_LONGEST = 131072
"""Tokens, as the released file says. What a model has positions for stands in its config.json."""
_VIDEO = "<|video_pad|>"
"""What stands for a video in transformers' InternVL code, which asks every tokenizer for one. No model here is trained with it."""


def write(folder: Path, model: Model, form: str) -> None:
    """Write the files for weights of a form into a folder."""
    tokenizer = model.tokenizer
    (folder / TOKENIZER).write_bytes(tokenizer.path.read_bytes())
    # transformers' own InternVL code puts an image's start and end around its context token itself
    image = IMAGE_CONTEXT if form == TRANSFORMERS else IMAGE_PLACEHOLDER
    settings: dict[str, Any] = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "additional_special_tokens": [TURN_START, TURN_END, IMAGE_START, IMAGE_END, IMAGE_CONTEXT],
        "bos_token": None,
        "chat_template": jinja(model.template, image),
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "model_max_length": _LONGEST,
        "pad_token": PAD,
        THINK_TOKENS: model.template.think,
        "tokenizer_class": "PreTrainedTokenizerFast",  # which is tokenizer.json as it stands
        "unk_token": None,
    }
    if form == TRANSFORMERS:
        settings["extra_special_tokens"] = {
            "start_image_token": IMAGE_START,
            "end_image_token": IMAGE_END,
            "context_image_token": IMAGE_CONTEXT,
            "video_token": _VIDEO,
        }
    _write(folder / TOKENIZER_SETTINGS, settings)
    if form == TRANSFORMERS and model.geometry.thumbnail:  # its processor knows no tiles without one
        _write(folder / "preprocessor_config.json", _preprocessor(model.geometry))
    ends = [tokenizer.special(TURN_END), tokenizer.special(TEXT_END)]
    _write(
        folder / "generation_config.json",
        {"do_sample": False, "eos_token_id": ends, "pad_token_id": tokenizer.special(PAD)},
    )


def _preprocessor(geometry: Geometry) -> dict[str, Any]:
    """For the processor that transformers has for InternVL, whose tile rule is the family's."""
    return {
        "crop_to_patches": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_processor_type": "GotOcr2ImageProcessor",
        "image_std": [0.229, 0.224, 0.225],
        "max_patches": geometry.max_tiles,
        "min_patches": geometry.min_tiles,
        "resample": 3,  # bicubic
        "rescale_factor": 1 / 255,
        "size": {"height": geometry.tile_size, "width": geometry.tile_size},
    }


def _write(path: Path, settings: dict[str, Any]) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n")


def jinja(template: Template, image: str) -> str:
    """The template as transformers' tokenizers take it: `messages`, each content a text or a list of texts and images, and
    `add_generation_prompt`. `image` is what an image becomes; images are counted as mixc.ask.prompt does, in each message."""
    system = ""
    if template.system is not None:
        turn = msgspec.json.encode(f"{TURN_START}system\n{template.system}{TURN_END}").decode()
        system = "{%- if messages[0].role != 'system' %}{{- " + turn + " }}{%- endif %}"
    return "".join(
        [
            system,
            "{%- for message in messages %}",
            "{{- '" + TURN_START + "' + message.role + '\\n' }}",
            "{%- if message.content is string %}{{- message.content }}",
            "{%- else %}",
            "{%- set images = message.content | selectattr('type', 'equalto', 'image') | list | length %}",
            "{%- set seen = namespace(images=0) %}",
            "{%- for part in message.content %}",
            "{%- if part.type == 'image' %}",
            "{%- set seen.images = seen.images + 1 %}",
            "{%- if images > 1 %}{{- 'Image-' ~ seen.images ~ ': ' }}{%- endif %}",
            "{{- '" + image + "\\n' }}",
            "{%- elif part.type == 'text' %}{{- part.text }}",
            "{%- endif %}",
            "{%- endfor %}",
            "{%- endif %}",
            "{{- '" + TURN_END + "' }}",
            "{%- endfor %}",
            "{%- if add_generation_prompt %}{{- '" + TURN_START + "assistant\\n' }}{%- endif %}",
        ]
    )
