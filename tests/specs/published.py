"""What is published of the recipes, as numbers: sizes of data and budgets of stages. Sources and grades as in the specs'
`evidence`; docs/recipes.md is checked against this.
"""

from __future__ import annotations

from dataclasses import dataclass

SIZES: dict[str, dict[str, float]] = {
    "sail_vl": {
        "sail_caption": 300,  # [S]
        "ocr": 26,  # [?] not published; about the pages of IDL-WDS
        "infinity_mm_stage2": 21,  # [I]
        "sail_instruction": 12,  # [S]
        "preference": 3.5,  # [S]
    },
    "sail_vl2": {
        "sail_caption2": 300,  # [V] 250 pass the judges
        "chart_captions": 1.69,  # [V]
        "idl_wds": 26,  # [?] 3.1 of it in SAIL-ViT [V]
        "caption2qa": 80,  # [V]
        "infinity_mm_stage2": 21,  # [I]
        "sail_instruction2": 20,  # [V]
        "sail_video": 6.23,  # [V] 5.1 pass the thresholds
        # What the paper names without a size: about what is public, so that a pass is possible. [?]
        "infinity_mm_vqa": 20,
        "llava_onevision": 4,
        "cambrian": 7,
        "cauldron": 1.9,
        "mmpr": 3,
        "llava_cot": 0.1,
        "openhermes": 1,
        "openmathinstruct2": 14,
        "infinity_mm_text": 3,
        "condor": 0.1,
    },
    "sail_vl2/sail_vit": {
        "sail_caption_vit": 11.6,  # [V] 4.9 + 6.7
        "idl_wds": 3.1,  # [V]
        # Named without sizes. [?] Those of stage III are set so that the stage comes to its 36.5M [V].
        "docstruct": 4,
        "video_captions": 1,
        "pixmo_cap": 0.7,
        "docvqa": 0.04,
        "docmatix": 12,
        "pixmo_docs": 0.3,
        "sharegpt4v": 1.2,
        "sharegpt_4o": 0.06,
        "mathv360k": 0.36,
        "vgr": 0.16,
        "geoqa_plus": 0.07,
        "mathqa": 0.04,
        "st_vqa": 0.03,
        "vqav2": 0.44,
        "ok_vqa": 0.01,
        "openhermes": 1,
        "magpie": 4.49,
    },
    "sail_vl2/thinking": {
        # [V] 0.4 together; [?] of each
        "visual_web_instruct": 0.15,
        "mathv360k": 0.15,
        "llava_cot": 0.1,
        "direct": 0.9,  # [V]
        "cot": 0.1,  # [V]
    },
}
"""Millions of samples in a source, before thresholds."""


@dataclass(frozen=True)
class Published:
    samples: float | None
    """Millions; None where only tokens are known."""
    tokens: float | None
    """Billions; None where they are not given of the stage alone."""
    reason: str = ""
    """Why the planned tokens are others."""


NOMINAL = "nominal: {} tokens a sample, whatever its length"

_ONE = {
    "pretrain-alignment": Published(None, 131),
    "pretrain-advance": Published(None, 524),
    "sft-knowledge": Published(21, None),
    "sft-instruction": Published(12, None),
    "sft-preference": Published(3.5, None),
}
_ONE_8B = _ONE | {"pretrain-alignment": Published(None, 10.4), "pretrain-advance": Published(None, 41.6)}
_TWO = {
    "basic": Published(64, 128, NOMINAL.format("2,000")),
    "multi-task": Published(180, 360, NOMINAL.format("2,000")),
    "sft-1": Published(21, 42, NOMINAL.format("2,000")),
    "sft-2": Published(20, 40, NOMINAL.format("2,000")),
    "sft-3": Published(None, 16),
    "sft-4": Published(10.2, 70, "16 frames a video: the published figure would be about 45"),
}
_THINKING = {
    "long-cot": Published(0.4, 0.4, NOMINAL.format("1,000") + "; an image of the usual shape alone has more"),
    "think-fusion": Published(1, 1, NOMINAL.format("1,000") + "; an image of the usual shape alone has more"),
}

RECIPES: dict[str, tuple[str, dict[str, Published]]] = {
    "sail_vl/2b.yaml": ("sail_vl", _ONE),
    "sail_vl/8b.yaml": ("sail_vl", _ONE_8B),
    "sail_vl/1.5-2b.yaml": ("sail_vl", _ONE),
    "sail_vl/1.5-8b.yaml": ("sail_vl", _ONE_8B),
    "sail_vl/1.6-8b.yaml": ("sail_vl", _ONE_8B),
    "sail_vl2/sail_vit.yaml": (
        "sail_vl2/sail_vit",
        {
            "warm-up": Published(8, None),
            "fine-alignment": Published(None, None),
            "world-knowledge": Published(36.5, None),
        },
    ),
    "sail_vl2/2b.yaml": ("sail_vl2", _TWO),
    "sail_vl2/8b.yaml": ("sail_vl2", _TWO),
    "sail_vl2/2b-thinking.yaml": ("sail_vl2/thinking", _THINKING),
    "sail_vl2/8b-thinking.yaml": ("sail_vl2/thinking", _THINKING),
}
"""By spec: the sizes of its sources, and its stages."""
