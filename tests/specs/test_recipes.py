"""Every recipe that ships says where its figures come from, and plans to what was published."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from mixc.measure.family import FAMILIES
from mixc.plan.tables import PlanSummary
from mixc.spec.check import check
from mixc.spec.load import load
from mixc.spec.quantity import parse_budget
from mixc.spec.schema import MixEntry, Stage
from tests.specs.published import RECIPES, SIZES
from tests.specs.synthetic import SPECS, made, plan_recipe

SCALE = 1e-4
DOCS = SPECS.parent / "docs" / "recipes.md"
TILES = {name: family.tokens_per_tile for name, family in FAMILIES.items()}
GRADE = re.compile(r"\[[VSI?]\] ?")


def test_no_recipe_is_left_out() -> None:
    files = {str(path.relative_to(SPECS)) for path in SPECS.glob("sail_vl*/*.yaml") if path.name != "base.yaml"}
    assert files == RECIPES.keys()
    for name, (_, stages) in RECIPES.items():
        assert [stage.name for stage in load(SPECS / name).spec.stages] == list(stages)


@pytest.mark.parametrize("name", RECIPES)
def test_checks_without_a_warning(name: str) -> None:
    loaded = load(SPECS / name)
    assert check(loaded, models=FAMILIES, tokens_per_tile=TILES) == []
    assert loaded.spec.mixture not in (load(SPECS / other).spec.mixture for other in RECIPES if other != name)
    assert loaded.spec.tokenizer == FAMILIES[loaded.spec.model].tokenizer
    assert SIZES[RECIPES[name][0]].keys() >= loaded.spec.sources.keys()


def needs_evidence(stage: Stage) -> set[str]:
    """The figures of a stage, as evidence names them."""
    keys = {"budget", "mix", "sequence_length", "train.lr", "train.batch"}
    keys |= {f"train.{key}" for key in ("schedule", "warmup", "weight_decay", "loss")}
    for name, entry in stage.mix.items() if isinstance(stage.mix, dict) else ():
        if isinstance(entry, MixEntry):
            given = {key for key in ("max_epochs", "balance", "where", "quantile") if getattr(entry, key) is not None}
            keys |= {f"mix.{name}.{key}" for key in given}
    keys |= {"temperature"} if stage.temperature != 1 else set()
    keys |= {"mix_end"} if stage.mix_end else set()
    return keys | ({"reuse"} if stage.reuse else set())


@pytest.mark.parametrize("name", RECIPES)
def test_every_figure_has_its_evidence(name: str) -> None:
    spec = load(SPECS / name).spec
    assert (spec.evidence or {}).keys() >= {"model", "seed", "tokenizer", "dedup"}
    texts = list((spec.evidence or {}).values())
    for source in spec.sources.values():
        assert source.evidence
        assert "path" in source.evidence
        assert ("where" in source.evidence) == (source.where is not None)
        assert ("max_frames" in source.evidence) == (source.max_frames is not None)
        texts += source.evidence.values()
    for stage in spec.stages:
        assert stage.evidence
        missing = {key for key in needs_evidence(stage) if not any(covers(given, key) for given in stage.evidence)}
        assert missing == set(), stage.name
        for key in stage.evidence:
            assert leads_somewhere(msgspec.to_builtins(stage), key), f"{stage.name}: {key}"
        texts += stage.evidence.values()
    for text in texts:
        assert GRADE.match(text), text


def covers(given: str, key: str) -> bool:
    """Evidence for `train` is evidence for `train.lr`."""
    return key == given or key.startswith(f"{given}.")


def leads_somewhere(value: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PlanSummary]:
    return {name: plan_recipe(made(name, SCALE, tmp_path_factory.mktemp("recipe"))) for name in RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_plans_to_what_was_published(name: str, planned: dict[str, PlanSummary]) -> None:
    """Samples to half a percent, tokens to one where they are the budget; elsewhere they differ for the reason given."""
    spec = load(SPECS / name).spec
    for stage, found in zip(spec.stages, planned[name].stages, strict=True):
        published = RECIPES[name][1][stage.name]
        samples, tokens = found.samples / SCALE / 1e6, found.tokens / SCALE / 1e9
        budget = parse_budget(stage.budget, stage.unit)
        if published.samples is not None:
            assert samples == pytest.approx(published.samples, rel=0.005), stage.name
        if published.tokens is not None and budget.unit == "tokens":
            assert tokens == pytest.approx(published.tokens, rel=0.01), stage.name
        elif published.tokens is not None:
            assert published.reason, stage.name
            assert 0.5 < tokens / published.tokens < 3, stage.name
        assert found.fill > 0.9, stage.name


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_to_warn_of(name: str, planned: dict[str, PlanSummary]) -> None:
    """But what the scale brings: a stage of few packs."""
    warnings = [w for w in planned[name].warnings if "rounds to nothing" not in w and "of its last step" not in w]
    assert warnings == []


def test_the_page_has_what_is_planned(planned: dict[str, PlanSummary]) -> None:
    rows = re.findall(r"^\| `(\S+)` \| (\S+) \| (.*?) \|$", DOCS.read_text(), flags=re.M)
    found = {(recipe, stage): cells.split(" | ") for recipe, stage, cells in rows}
    assert found.keys() == {(name, stage.name) for name, plan in planned.items() for stage in plan.stages}
    for name, plan in planned.items():
        for stage in plan.stages:
            published = RECIPES[name][1][stage.name]
            cells = [cell.strip() for cell in found[name, stage.name]]
            assert number(cells[0]) == published.samples
            assert number(cells[1]) == pytest.approx(stage.samples / SCALE / 1e6, rel=0.03)
            assert number(cells[2]) == published.tokens
            assert number(cells[3]) == pytest.approx(stage.tokens / SCALE / 1e9, rel=0.03)
            assert cells[5].strip("| ") == published.reason


def number(cell: str) -> float | None:
    return float(cell.split()[0]) if cell else None


def test_the_published_figures_agree_with_each_other() -> None:
    """[I] 121 + 128 + 360 + 42 + 40 + 16 + 70 = 777, the paper's 776B; and SAIL-ViT III's data are 36.5M."""
    stages = RECIPES["sail_vl2/2b.yaml"][1].values()
    assert 121 + sum(stage.tokens or 0 for stage in stages) == 777
    one = RECIPES["sail_vl/2b.yaml"][1]
    assert sum((one[name].tokens or 0) for name in ("pretrain-alignment", "pretrain-advance")) == 655
    sizes = SIZES["sail_vl2/sail_vit"]
    assert sum(sizes.values()) - sizes["idl_wds"] - sizes["video_captions"] == pytest.approx(36.5, abs=0.01)


def test_pages_name_the_specs() -> None:
    readme = (SPECS / "README.md").read_text()
    for name in RECIPES:
        assert f"`{name}`" in readme
