"""Recipes planned on made-up facts: as many samples as the real sources have, times a scale, with lengths as real ones.

An image has one of a few usual shapes, and its tiles are what the family's rule cuts it into. Lengths of texts are
log-normal. Both are assumptions, so planned tokens are as good as these.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mixc.measure.facts import COLUMN_PREFIX, FACTS_SCHEMA
from mixc.measure.family import FAMILIES
from mixc.measure.tiles import grid
from mixc.plan.keys import join_ids
from mixc.plan.load import PlannedFragment
from mixc.plan.run import plan
from mixc.plan.tables import PlanSummary
from mixc.spec.load import LoadedSpec, load
from mixc.spec.quantity import parse_budget
from mixc.spec.schema import Source
from shards.manifest import Geometry
from tests.specs.published import RECIPES, SIZES

SPECS = Path(__file__).resolve().parents[2] / "specs"

PHOTOGRAPHS = {
    (1024, 768): 0.25,
    (768, 1024): 0.05,
    (1200, 800): 0.2,
    (800, 1200): 0.05,
    (500, 500): 0.1,
    (1000, 1000): 0.1,
    (1280, 720): 0.1,
    (640, 427): 0.15,
}
PAGES = {(1240, 1754): 0.5, (1700, 2200): 0.5}
"""A4 and letter."""

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Text:
    """Lengths in tokens: median, spread of the logarithm, most."""

    median: float
    spread: float
    most: int
    supervised: float
    """Share that is supervised."""


CAPTION = Text(120, 0.5, 500, 0.95)
PAGE = Text(600, 0.8, 4_000, 0.97)
QUESTION = Text(150, 0.9, 4_000, 0.4)
CONVERSATION = Text(350, 0.9, 4_000, 0.6)
SOLUTION = Text(400, 0.7, 6_000, 0.8)
THOUGHTS = Text(700, 0.6, 8_000, 0.9)

TEXTS = {
    **dict.fromkeys(("caption2qa", "docvqa", "docmatix", "st_vqa", "vqav2", "ok_vqa"), QUESTION),
    **dict.fromkeys(("llava_cot", "mmpr", "condor", "mathqa", "openmathinstruct2"), SOLUTION),
    **dict.fromkeys(("visual_web_instruct", "cot"), THOUGHTS),
}
"""By source; the others by kind."""
WITHOUT_IMAGES = {"openhermes", "openmathinstruct2", "infinity_mm_text", "magpie", "mathqa", "condor"}
OPENINGS = 200
"""Kinds of first words of a caption or question, of Zipf's frequencies."""


def geometry(model: str) -> Geometry:
    """As of the family's tokenizer."""
    entry = FAMILIES[model]
    return Geometry(
        name=model,
        tile_size=entry.tile_size,
        tokens_per_tile=entry.tokens_per_tile,
        max_tiles=entry.max_tiles,
        min_tiles=entry.min_tiles,
        thumbnail=entry.thumbnail,
        vocab_size=entry.vocab_size,
        image_start_id=151669,
        image_end_id=151670,
        image_context_id=151671,
        pad_id=151643,
    )


def facts(name: str, source: Source, rows: int, shape: Geometry) -> pa.Table:
    """Facts of a source. The same for the same arguments."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    dice = np.random.default_rng(seed)
    kind = {"caption": CAPTION, "ocr": PAGE, "chat": CONVERSATION, "text": CONVERSATION}[source.kind]
    profile = TEXTS.get(name, kind)
    text = np.clip(dice.lognormal(np.log(profile.median), profile.spread, rows), 8, profile.most).astype(np.int64)
    images, tiles = _images(name, source, rows, shape, dice)
    halves = dice.integers(0, 2**64, (4, rows), dtype=np.uint64)
    columns = {
        "row": np.arange(rows),
        "columns": halves[0],
        "offset": np.arange(rows),
        "length": np.full(rows, 100),
        "tokens": text + shape.tokens_per_tile * tiles + 2 * images,
        "supervised_tokens": np.maximum(1, (text * profile.supervised).astype(np.int64)),
        "images": images,
        "tiles": tiles,
        "turns": np.full(rows, 2),
        "characters": text * 4,
        "width": (images > 0) * 1024,
        "height": (images > 0) * 768,
        "image_bytes": images * 90_000,
    }
    ids = {"id": join_ids(halves[0], halves[1]), "content": join_ids(halves[2], halves[3])}
    arrays = []
    for field in FACTS_SCHEMA:
        if field.name in ids:
            buffer = pa.py_buffer(ids[field.name])
            storage = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), rows, [None, buffer])
            arrays.append(pa.ExtensionArray.from_storage(pa.uuid(), storage))
        else:
            arrays.append(pa.array(columns[field.name], field.type))
    table = pa.Table.from_arrays(arrays, schema=FACTS_SCHEMA)
    for column, values in _columns(name, rows, dice).items():
        table = table.append_column(COLUMN_PREFIX + column, values)
    return table


def _images(name: str, source: Source, rows: int, shape: Geometry, dice: np.random.Generator) -> tuple[Int, Int]:
    """Images and tiles of each sample, int64 [rows] each."""
    if name in WITHOUT_IMAGES or source.kind == "text":
        return np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    if source.frames:
        frames = np.full(rows, source.max_frames or 16)
        return frames, frames  # one tile a frame
    shapes = PAGES if source.kind == "ocr" or name in ("docvqa", "docmatix", "docstruct") else PHOTOGRAPHS
    cut = [grid(*size, shape).tiles for size in shapes]
    tiles = dice.choice(cut, rows, p=list(shapes.values()))
    return np.ones(rows, np.int64), tiles.astype(np.int64)


def _columns(name: str, rows: int, dice: np.random.Generator) -> dict[str, pa.Array]:
    """What the recipes' expressions read."""
    if name in ("sail_caption2", "caption2qa"):
        column = "caption" if name == "sail_caption2" else "question"
        opening = np.minimum(dice.zipf(1.3, rows), OPENINGS)
        found = {column: pa.array([f"The image {word} shows the rest of it" for word in opening])}
        if name == "sail_caption2":  # 250M of 300M pass
            passes = _some(rows, 250 / 300, dice)
            found |= {"vir_score": pa.array(np.where(passes, 4, 2)), "ita_score": pa.array(np.full(rows, 4))}
            found |= {"vir_yes": pa.array(np.full(rows, True)), "ita_yes": pa.array(passes)}
        return found
    if name == "sail_video":  # 5.1M of 6.23M pass
        passes = _some(rows, 5.1 / 6.23, dice)
        return {
            "alignment": pa.array(np.where(passes, 7, 4)),
            "richness": pa.array(np.full(rows, 6)),
            "difficulty": pa.array(np.full(rows, 3)),
        }
    return {}


def _some(rows: int, share: float, dice: np.random.Generator) -> npt.NDArray[np.bool_]:
    """So many rows, any of them."""
    return dice.permutation(rows) < round(rows * share)


def scaled(name: str, scale: float) -> LoadedSpec:
    """A recipe with its budgets, but not its shares or sequences, made smaller. Epochs stay epochs."""
    stages = load(SPECS / name).spec.stages
    overrides = []
    for stage in stages:
        budget = parse_budget(stage.budget, stage.unit)
        if budget.unit != "epochs":
            overrides.append(f"stages.{stage.name}.budget={round(budget.amount * scale)} {budget.unit}")
        overrides.append(f"stages.{stage.name}.train.batch={max(1, round(stage.train.batch * scale))}")
    return load(SPECS / name, overrides)


@dataclass(frozen=True)
class Recipe:
    """A recipe made smaller, and facts to plan it on."""

    loaded: LoadedSpec
    fragments: list[PlannedFragment]
    folder: Path


def made(name: str, scale: float, folder: Path) -> Recipe:
    """Write the facts of all sources into `folder`."""
    loaded = scaled(name, scale)
    folder.mkdir(parents=True, exist_ok=True)
    fragments = []
    for source, settings in sorted(loaded.spec.sources.items()):
        rows = max(2, round(SIZES[RECIPES[name][0]][source] * 1e6 * scale))
        path = folder / f"{source}.facts.parquet"
        pq.write_table(facts(source, settings, rows, geometry(loaded.spec.model)), path)
        fragments.append(
            PlannedFragment(
                source=source, path=source, digest=source, object=source, facts=path, samples=rows, rejects=0
            )
        )
    return Recipe(loaded, fragments, folder)


def plan_recipe(recipe: Recipe, threads: int = 1) -> PlanSummary:
    spec = recipe.loaded.spec
    return plan(
        spec,
        recipe.fragments,
        geometry=geometry(spec.model),
        out=recipe.folder / "plan",
        rejects={},
        threads=threads,
        locate=recipe.loaded.place,
    )


HEADER = (
    "recipe",
    "stage",
    "samples, published",
    "planned",
    "tokens, published",
    "planned",
    "fill",
    "why other tokens",
)


def table(planned: dict[str, PlanSummary], scale: float) -> list[str]:
    """Lines of Markdown: millions of samples and billions of tokens, at full scale."""
    lines = [f"| {' | '.join(HEADER)} |", f"|{' --- |' * len(HEADER)}"]
    for name, summary in planned.items():
        for stage in summary.stages:
            published = RECIPES[name][1][stage.name]
            cells = [
                f"`{name}`",
                stage.name,
                f"{published.samples:g} M" if published.samples else "",
                f"{stage.samples / scale / 1e6:.3g} M",
                f"{published.tokens:g} B" if published.tokens else "",
                f"{stage.tokens / scale / 1e9:.3g} B",
                f"{stage.fill:.1%}",
                published.reason,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines
