"""The composed model: packed against alone, text beside images, frozen parts, against transformers' own
InternVL.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch
from pytest import approx, fixture, mark, raises
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLModel

from runtime.batch import Batch
from runtime.images import normalise
from runtime.model.projector import pixel_shuffle
from runtime.model.sail_vl import SailVL, build_model, describe
from runtime.model.zoo import ARCHITECTURES, Architecture, LanguageShape, ModelError, VisionShape
from shards.manifest import Geometry

torch.set_num_threads(1)

IMAGE = 79  # id of the image token; the toy tower gives 4 rows a tile
TILE = 56


def toy(vision: str, language: str, tied: bool = True) -> Architecture:
    return Architecture(
        name="toy",
        vision=VisionShape(kind=vision, layers=2, hidden=16, heads=2, intermediate=24, tile=TILE),
        language=LanguageShape(
            kind=language,
            vocab=80,
            hidden=32,
            layers=2,
            heads=4,
            kv_heads=2,
            head_dim=8,
            intermediate=48,
            tied=tied,
            experts=4 if language == "qwen3_moe" else 0,
            experts_per_token=2 if language == "qwen3_moe" else 0,
            expert_intermediate=24 if language == "qwen3_moe" else 0,
        ),
    )


KINDS = list(itertools.product(("internvit", "aimv2"), ("qwen2", "qwen3", "qwen3_moe")))


def build(shape: Architecture, dtype: torch.dtype = torch.float32) -> SailVL:
    """Weights wide enough that attention is far from uniform and images matter: a leak would be seen."""
    torch.manual_seed(0)
    model = SailVL(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return model.to(dtype)


@dataclasses.dataclass(frozen=True)
class Sample:
    tokens: tuple[int, ...]
    tiles: torch.Tensor  # uint8 [M, 3, TILE, TILE]
    supervised: int  # the last so many tokens
    weight: float


def draw(seed: int, tiles: int, weight: float = 1.0) -> Sample:
    random = np.random.default_rng(seed)
    text = random.integers(0, 78, 9).tolist()
    pixels = random.integers(0, 256, (tiles, 3, TILE, TILE), dtype=np.uint8)
    return Sample((*text[:3], *[IMAGE] * (4 * tiles), *text[3:]), torch.from_numpy(pixels), 4, weight)


def pack(*samples: Sample) -> Batch:
    """The batch of these samples, stated plainly."""
    tokens = [token for sample in samples for token in sample.tokens]
    bounds = np.cumsum([0, *(len(sample.tokens) for sample in samples)])
    targets = [
        position
        for sample, stop in zip(samples, bounds[1:], strict=True)
        for position in range(stop - sample.supervised, stop)
    ]
    return Batch(
        tokens_T=torch.tensor(tokens),
        positions_T=torch.cat([torch.arange(len(sample.tokens)) for sample in samples]),
        cu_seqlens=torch.tensor(bounds, dtype=torch.int32),
        max_seqlen=int(np.diff(bounds).max()),
        predict_N=torch.tensor(targets) - 1,
        labels_N=torch.tensor([tokens[target] for target in targets]),
        weights_N=torch.tensor([sample.weight for sample in samples for _ in range(sample.supervised)]),
        sources_N=torch.zeros(len(targets), dtype=torch.int64),
        tiles_M=torch.cat([sample.tiles for sample in samples]),
        image_positions=torch.tensor(
            [position for position, token in enumerate(tokens) if token == IMAGE], dtype=torch.int64
        ),
    )


NONE = torch.empty(0, dtype=torch.int64)
EMPTY = Batch(
    tokens_T=torch.tensor([0]),
    positions_T=torch.tensor([0]),
    cu_seqlens=torch.tensor([0, 1], dtype=torch.int32),
    max_seqlen=1,
    predict_N=NONE,
    labels_N=NONE,
    weights_N=torch.empty(0),
    sources_N=NONE,
    tiles_M=torch.empty((0, 3, TILE, TILE), dtype=torch.uint8),
    image_positions=NONE,
)

SAMPLES = (draw(1, 0), draw(2, 1, 0.5), draw(3, 2, 0.25))


def logits(model: SailVL, batch: Batch) -> torch.Tensor:
    """Logits at every position, [T, V], by what reaches the head when every position is asked for."""
    seen: list[torch.Tensor] = []
    every = torch.arange(len(batch.tokens_T))
    hook = model.language.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(dataclasses.replace(batch, predict_N=every, labels_N=every * 0, weights_N=torch.ones(len(every))))
    hook.remove()
    return seen[0] @ model.language.lm_head.weight.T


def gradients(model: SailVL, *batches: Batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for batch in batches:
        model(batch).loss_sum.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@mark.parametrize(("vision", "language"), KINDS)
class TestPacking:
    @fixture
    def model(self, vision: str, language: str) -> SailVL:
        return build(toy(vision, language))

    def test_each_sample_has_the_logits_that_it_has_alone(self, model: SailVL) -> None:
        packed = logits(model, pack(*SAMPLES))
        alone = torch.cat([logits(model, pack(sample)) for sample in SAMPLES])
        torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)

        # The same row as one segment is far away: the test above would see a leak.
        row = pack(*SAMPLES)
        leaky = dataclasses.replace(row, cu_seqlens=row.cu_seqlens[[0, -1]], max_seqlen=len(row.tokens_T))
        assert (logits(model, leaky) - alone).abs().max() > 0.1

    def test_and_the_gradients(self, model: SailVL) -> None:
        packed = gradients(model, pack(*SAMPLES))
        alone = gradients(model, *(pack(sample) for sample in SAMPLES))
        for name, gradient in alone.items():
            torch.testing.assert_close(
                packed[name], gradient, atol=1e-5 * max(1.0, float(gradient.abs().max())), rtol=1e-4, msg=name
            )
            # A key's bias moves every score of a query alike, and softmax does not see it: its gradient is
            # noise.
            assert gradient.abs().max() > 1e-6 or name.endswith("k_proj.bias"), name

    def test_another_sample_changes_nothing_to_the_last_bit(self, model: SailVL) -> None:
        first, second, third = SAMPLES
        other = draw(9, 1)
        stop = len(first.tokens)
        with torch.no_grad():
            before, after = (
                logits(model, pack(first, second, third)),
                logits(model, pack(first, other, third)),
            )
        assert torch.equal(before[:stop], after[:stop])
        assert torch.equal(before[stop + len(second.tokens) :], after[stop + len(other.tokens) :])
        assert not torch.allclose(before[stop : -len(third.tokens)], after[stop : -len(third.tokens)])

    def test_the_loss_does_not_depend_on_the_packing(self, model: SailVL) -> None:
        a, b, c = SAMPLES
        whole = model(pack(a, b, c))
        for order in ((pack(c, a, b),), (pack(a), pack(b, c)), (pack(a), pack(b), pack(c))):
            total = sum(model(batch).loss_sum.item() for batch in order)
            assert total == approx(whole.loss_sum.item(), rel=1e-6)
        by_hand = sum(
            sample.weight
            * torch.nn.functional.cross_entropy(
                logits(model, pack(sample))[-1 - sample.supervised : -1],
                torch.tensor(sample.tokens[-sample.supervised :]),
                reduction="sum",
            )
            for sample in SAMPLES
        )
        assert by_hand.item() == approx(whole.loss_sum.item(), rel=1e-5)
        assert (whole.ce_N * pack(a, b, c).weights_N).sum().item() == approx(whole.loss_sum.item(), rel=1e-6)

    def test_images_are_seen_each_at_its_place(self, model: SailVL) -> None:
        batch = pack(*SAMPLES)
        swapped = dataclasses.replace(batch, tiles_M=batch.tiles_M[[0, 2, 1]])
        found, expected = logits(model, swapped), logits(model, batch)
        first = len(SAMPLES[0].tokens) + len(SAMPLES[1].tokens)
        assert torch.equal(found[:first], expected[:first])
        assert (found[first:] - expected[first:]).abs().max() > 1e-2


@mark.parametrize(("vision", "language"), KINDS)
@mark.parametrize("batch", [pack(SAMPLES[0], draw(4, 0)), EMPTY], ids=["text", "empty"])
def test_without_images_every_parameter_still_has_a_gradient(vision: str, language: str, batch: Batch) -> None:
    model = build(toy(vision, language))
    found = gradients(model, batch)  # .clone() of None would raise
    for name, gradient in found.items():
        if not name.startswith("language.") or batch is EMPTY:
            assert not gradient.any(), name
        else:
            assert gradient.isfinite().all(), name
    if batch is not EMPTY:
        assert found["language.model.embed_tokens.weight"].any()


def test_the_black_tile_does_not_change_the_text() -> None:
    model = build(toy("aimv2", "qwen3"))
    batch = pack(SAMPLES[0])
    before = logits(model, batch)
    with torch.no_grad():
        model.projector.mlp[3].bias.add_(100.0)
    assert torch.equal(logits(model, batch), before)


@mark.parametrize("frozen", [(), ("vision",), ("vision", "projector"), ("vision", "language"), ("language",)])
def test_every_rank_runs_the_same_modules_whatever_it_was_dealt(frozen: tuple[str, ...]) -> None:
    """Under ZeRO-3 a module's forward is a collective: one more or less on a rank, and the run hangs."""
    model = build(toy("internvit", "qwen2"))
    for name in frozen:
        getattr(model, name).requires_grad_(False)
    order: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: order.append(name))
    orders = []
    for batch in (pack(*SAMPLES), pack(SAMPLES[0]), pack(*SAMPLES * 4), EMPTY):
        order.clear()
        model(batch)
        orders.append(list(order))
    assert orders[0][-1] == "" and {"vision", "projector", "language.lm_head"} <= set(orders[0])
    assert all(other == orders[0] for other in orders)


@mark.parametrize("batch", [pack(*SAMPLES), pack(SAMPLES[0])], ids=["images", "text"])
def test_what_is_frozen_leaves_no_graph_and_what_is_not_learns(batch: Batch) -> None:
    model = build(toy("aimv2", "qwen3"))
    whole = gradients(model, batch)
    model.zero_grad()
    model.vision.requires_grad_(False)
    model.language.requires_grad_(False)
    graphs = {}
    model.vision.register_forward_hook(lambda _, __, out: graphs.update(vision=out.requires_grad))
    model.projector.register_forward_hook(lambda _, __, out: graphs.update(projector=out.requires_grad))
    model(batch).loss_sum.backward()
    assert graphs == {"vision": False, "projector": True}
    assert all(p.grad is None for part in (model.vision, model.language) for p in part.parameters())
    for name, parameter in model.projector.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[f"projector.{name}"])
    model.projector.requires_grad_(False)
    model.language.requires_grad_(True)
    model(batch).loss_sum.backward()
    assert graphs == {"vision": False, "projector": False}


def test_v2_pixel_shuffle_equals_transformers() -> None:
    features = torch.randn(2, 6, 6, 3)
    expected = InternVLModel.pixel_shuffle(None, features, 0.5).flatten(1, 2)  # a method that needs no weights
    assert torch.equal(pixel_shuffle(features, "v2"), expected)


def test_v1_pixel_shuffle_is_v2_transposed() -> None:
    features = torch.randn(2, 6, 6, 3)
    grid = pixel_shuffle(features, "v2").unflatten(1, (3, 3))
    assert torch.equal(pixel_shuffle(features, "v1"), grid.transpose(1, 2).flatten(1, 2))
    corner = torch.cat([features[0, 0, 2], features[0, 0, 3], features[0, 1, 2], features[0, 1, 3]])
    assert torch.equal(grid[0, 0, 1], corner)


def test_the_whole_equals_transformers_internvl() -> None:
    """Same weights, other code: tower, class token, pixel shuffle, projector, placing, language, head."""
    model = build(toy("internvit", "qwen2", tied=False))
    reference = InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config=model.vision.encoder.config.to_dict(),
            text_config=model.language.config.to_dict(),
            image_token_id=IMAGE,
            image_seq_length=4,
            tie_word_embeddings=False,
            attn_implementation="eager",
        )
    )
    names = {
        "vision.encoder.": "model.vision_tower.",
        "projector.mlp.0.": "model.multi_modal_projector.layer_norm.",
        "projector.mlp.1.": "model.multi_modal_projector.linear_1.",
        "projector.mlp.3.": "model.multi_modal_projector.linear_2.",
        "language.model.": "model.language_model.",
        "language.lm_head.": "lm_head.",
    }
    weights = {
        name.replace(ours, theirs): tensor
        for name, tensor in model.state_dict().items()
        for ours, theirs in names.items()
        if name.startswith(ours)
    }
    reference.load_state_dict(weights)  # strict: nothing missing, nothing left over
    sample = SAMPLES[2]
    expected = reference(
        input_ids=torch.tensor([sample.tokens]), pixel_values=normalise(sample.tiles), use_cache=False
    ).logits[0]
    torch.testing.assert_close(logits(model, pack(sample)), expected, atol=2e-5, rtol=1e-4)


class TestBuildModel:
    geometry = Geometry(
        name="sail-vl-tiny",
        tile_size=448,
        tokens_per_tile=256,
        max_tiles=12,
        min_tiles=1,
        thumbnail=True,
        vocab_size=151936,
        image_start_id=151669,
        image_end_id=151670,
        image_context_id=151671,
        pad_id=151643,
    )

    def test_weights_depend_on_the_seed_alone(self) -> None:
        torch.manual_seed(1)
        first = build_model("sail-vl-tiny", self.geometry, seed=7)
        torch.randn(1000)
        state = torch.get_rng_state()
        second = build_model("sail-vl-tiny", self.geometry, seed=7)
        assert torch.equal(torch.get_rng_state(), state)
        other = build_model("sail-vl-tiny", self.geometry, seed=8)
        half = build_model("sail-vl-tiny", self.geometry, seed=7, dtype=torch.bfloat16)
        for (name, a), b, c, h in zip(
            first.named_parameters(), second.parameters(), other.parameters(), half.parameters(), strict=True
        ):
            assert torch.equal(a, b), name
            assert torch.equal(a.bfloat16(), h), name
            assert a.ndim < 2 or not torch.equal(a, c) or not a.any(), name

    def test_it_is_a_few_million_parameters_and_begins_at_the_uniform_guess(self) -> None:
        model = build_model("sail-vl-tiny", self.geometry, seed=0)
        assert 1e6 < sum(p.numel() for p in model.parameters()) < 1e7
        batch = dataclasses.replace(
            pack(SAMPLES[0]),
            tokens_T=torch.tensor([5, 151669, *[151671] * 256, 151670, 6, 7]),
            positions_T=torch.arange(261),
            cu_seqlens=torch.tensor([0, 261], dtype=torch.int32),
            max_seqlen=261,
            predict_N=torch.tensor([258, 259]),
            labels_N=torch.tensor([6, 7]),
            weights_N=torch.ones(2),
            tiles_M=torch.randint(0, 256, (1, 3, 448, 448), dtype=torch.uint8),
            image_positions=torch.arange(2, 258),
        )
        found = model(batch)
        assert found.ce_N.mean() == approx(np.log(151936), rel=0.02)
        found.loss_sum.backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_a_build_for_another_model_is_refused(self) -> None:
        for change in (
            {"tile_size": 224},
            {"tokens_per_tile": 64},
            {"vocab_size": 152064},
            {"name": "sail-vl-2b"},
        ):
            fields = {name: getattr(self.geometry, name) for name in self.geometry.__struct_fields__} | change
            with raises(ModelError, match="not compiled for sail-vl-tiny") as error:
                build_model("sail-vl-tiny", Geometry(**fields), seed=0)
            assert str(next(iter(change.values()))) in error.value.why

    def test_a_model_that_does_not_exist_is_refused_with_a_hint(self) -> None:
        with raises(ModelError, match="no model 'sail-vl-tny'") as error:
            build_model("sail-vl-tny", self.geometry, seed=0)
        assert error.value.mend == "did you mean sail-vl-tiny?"


def test_rotary_frequencies_survive_a_change_of_dtype() -> None:
    exact = 1 / 1e6 ** (torch.arange(0, 8, 2) / 8)
    for model in (
        build(toy("aimv2", "qwen3"), torch.bfloat16),
        SailVL(toy("aimv2", "qwen2"), torch.bfloat16),
    ):
        assert model.language.lm_head.weight.dtype == torch.bfloat16
        for name in ("inv_freq", "original_inv_freq"):
            found = getattr(model.language.model.rotary_emb, name)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, exact, atol=0, rtol=1e-6)
    full = 1 / 1e6 ** (torch.arange(0, 128, 2) / 128)
    assert (full.bfloat16().float() - full).abs().max() * 8000 > 5  # radians at position 8,000: what is at stake


def test_bfloat16_gives_nearly_the_same_loss() -> None:
    exact = build(toy("aimv2", "qwen3"))(pack(*SAMPLES))
    rounded = build(toy("aimv2", "qwen3"), torch.bfloat16)(pack(*SAMPLES))
    assert rounded.loss_sum.dtype == rounded.ce_N.dtype == torch.float32
    assert float(rounded.loss_sum) == approx(float(exact.loss_sum), rel=0.05)


PARAMETERS = {  # vision, projector, language; a tied head counts once
    "sail-vl2-2b": (682_031_616, 16_793_600, 1_720_574_976),
    "sail-vl-2b": (304_012_288, 8_662_016, 1_543_714_304),
    "sail-vl-8b": (304_012_288, 27_540_480, 7_615_616_512),
    "sail-vl-1.5-2b": (682_031_616, 11_811_840, 1_543_714_304),
    "sail-vl-1.5-8b": (304_012_288, 27_540_480, 7_615_616_512),
    "sail-vl-1.6-8b": (682_031_616, 34_884_608, 7_615_616_512),
    "sail-vl2-1b": (682_031_616, 7_354_368, 596_049_920),
    "sail-vl2-8b": (682_031_616, 41_963_520, 8_190_735_360),
    "sail-vl2-30b-a3b": (682_031_616, 16_793_600, 30_532_122_624),
}


@mark.parametrize("name", PARAMETERS)
def test_published_sizes(name: str) -> None:
    with torch.device("meta"):
        model = SailVL(ARCHITECTURES[name])
    assert describe(model) == list(zip(("vision", "projector", "language"), PARAMETERS[name], strict=True))


@mark.parametrize(
    ("name", "untied", "size"),
    [("sail-vl2-2b", 2_730_565_120, 5_461_130_240), ("sail-vl-2b", None, 4_179_524_608)],
)
def test_released_weights_to_the_byte(name: str, untied: int | None, size: int) -> None:
    """The released files store the head apart: SAIL-VL2-2B's index says `total_size`, SAIL-VL-2B's file is
    4.18 GB.
    """
    shape = ARCHITECTURES[name]
    apart = dataclasses.replace(shape, language=dataclasses.replace(shape.language, tied=False))
    with torch.device("meta"):
        parameters = sum(p.numel() for p in SailVL(apart).parameters())
        tied = sum(p.numel() for p in SailVL(shape).parameters())
    assert 2 * parameters == size
    assert untied in (None, parameters)
    if name == "sail-vl2-2b":
        assert tied == 2_419_400_192


def test_every_model_has_the_familys_tiles() -> None:
    assert all(a.tokens_per_tile == 256 and a.vision.tile == 448 for a in ARCHITECTURES.values())
    assert all(name == a.name for name, a in ARCHITECTURES.items())
