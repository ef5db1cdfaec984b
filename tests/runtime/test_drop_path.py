"""Stochastic depth: how often, of what, and that nothing but the step's seed and a tile's pixels decides it."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
import torch
from torch import nn

from runtime.model.drop_path import DropPath
from tests.runtime.small import SETTINGS
from tests.runtime.test_model import SAMPLES, build, gradients, pack, toy

torch.set_num_threads(1)


class Block(nn.Module):
    """One of a tower, whose branches give what they get."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.mlp = nn.Identity(), nn.Identity()


BLOCKS, TILES = 5, 4000


@pytest.fixture(scope="module")
def tiles() -> torch.Tensor:
    return torch.randint(0, 256, (TILES, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def scales(tiles_M: torch.Tensor, rate: float, seed: int) -> torch.Tensor:
    """What each branch is multiplied by for each tile: [2 * BLOCKS, M]."""
    blocks = nn.ModuleList(Block() for _ in range(BLOCKS)).train()
    drop = DropPath(blocks)
    drop.rate, drop.seed = rate, seed
    drop.see(tiles_M)
    ones = torch.ones(len(tiles_M), 2, 3)
    found = torch.stack([branch(ones) for block in blocks for branch in (block.attention, block.mlp)])
    assert torch.equal(found, found[..., :1, :1].expand_as(found))  # a tile's whole branch, or nothing of it
    return found[..., 0, 0]


def test_the_rate_rises_in_a_line_and_the_kept_make_up_for_the_dropped(tiles):
    found = scales(tiles, 0.4, seed=3)
    for branch, own in enumerate(found):
        rate = 0.4 * (branch // 2) / (BLOCKS - 1)
        dropped = (own == 0).float().mean()
        spread = (rate * (1 - rate) / TILES) ** 0.5
        assert abs(float(dropped) - rate) <= 4 * spread, branch  # of the first block exactly none
        assert torch.allclose(own[own != 0], torch.tensor(1 / (1 - rate)))


def test_branches_steps_and_tiles_are_dropped_independently(tiles):
    # seeds of steps are digests, so they are never near each other
    one, other = (scales(tiles, 0.5, seed)[-4:] == 0 for seed in (0x1D3C5A9B72E4F681, 0x63A0D97E1B58C42F))
    rows = torch.cat([one, other]).double()
    apart = torch.corrcoef(rows) - torch.eye(len(rows))
    assert float(apart.abs().max()) < 5 * TILES**-0.5
    beside = torch.corrcoef(torch.stack([rows[0, :-1], rows[0, 1:]]))[0, 1]
    assert abs(float(beside)) < 5 * TILES**-0.5


def test_a_tiles_lot_does_not_hang_on_its_neighbours(tiles):
    whole = scales(tiles, 0.5, seed=9)
    order = torch.randperm(TILES, generator=torch.Generator().manual_seed(2))[:100]
    assert torch.equal(scales(tiles[order], 0.5, seed=9), whole[:, order])
    assert torch.equal(scales(tiles[7:8], 0.5, seed=9), whole[:, 7:8])
    assert torch.equal(scales(tiles[order].float(), 0.5, seed=9), whole[:, order])  # uint8 or float


@pytest.mark.parametrize("seed", [0, 2**62, 2**63 - 1])
def test_any_seed_will_do(tiles, seed):
    """A step's seed has 63 bits."""
    assert abs(float((scales(tiles, 0.5, seed)[-1] == 0).float().mean()) - 0.5) < 0.05


@pytest.mark.parametrize("vision", ["aimv2", "internvit"])
class TestModel:
    @pytest.fixture
    def model(self, vision):
        model = build(toy(vision, "qwen3")).train()
        model.prepare(msgspec.structs.replace(SETTINGS, drop_path=0.5))
        return model

    def test_evaluation_drops_nothing(self, model, vision):
        plain = build(toy(vision, "qwen3")).train()
        batch = pack(*SAMPLES)
        assert not torch.equal(model(batch).ce_N, plain(batch).ce_N)
        assert torch.equal(model.eval()(batch).ce_N, plain.eval()(batch).ce_N)

    def test_another_step_drops_others(self, model, vision):
        found = []
        for seed in range(6):
            model.vision.drop_path.seed = seed << 50
            found.append(model(pack(*SAMPLES)).loss_sum.item())
        assert len(set(found)) > 2

    def test_blocks_that_are_computed_again_drop_the_same(self, model, vision):
        kept = gradients(model, pack(*SAMPLES))
        model.recompute(("vision", "language"))
        again = gradients(model, pack(*SAMPLES))
        assert all(torch.equal(again[name], value) for name, value in kept.items())

    def test_packs_beside_it_do_not_change_what_a_sample_comes_to(self, model, vision):
        first, second, third = SAMPLES
        together = model(pack(first, second, third)).ce_N
        assert torch.allclose(together, torch.cat([model(pack(each)).ce_N for each in SAMPLES]), atol=1e-5)
        swapped = dataclasses.replace(pack(first, second, third), tiles_M=pack(*SAMPLES).tiles_M[[0, 2, 1]])
        assert not torch.allclose(together, model(swapped).ce_N, atol=1e-5)
