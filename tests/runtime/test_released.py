"""Released checkpoints: their names, their towers computed by other code, there and back, and every way to be wrong."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from blake3 import blake3
from safetensors.torch import load_file, save_file

from runtime import initial, tensor_files, weights
from runtime.batch import Batch
from runtime.errors import ArgumentError, CheckpointError
from runtime.export import export
from runtime.initial import Initial
from runtime.model import released
from runtime.model.sail_vl import PARTS, SailVL
from runtime.model.zoo import ARCHITECTURES
from runtime.processes import Place
from runtime.safetensor import Stored, raw
from tests.runtime.small import GEOMETRY
from tests.runtime.test_model import SAMPLES, build, logits, pack, toy

ALONE = Place(rank=0, world=1, local_rank=0, local_world=1)
TWINS = ["sail-vl-tiny", "sail-vl-tiny-v1", "sail-vl-tiny-v1.5", "sail-vl-tiny-moe"]


def drawn(name: str, seed: int = 1, dtype: torch.dtype = torch.float32) -> SailVL:
    torch.manual_seed(seed)
    model = SailVL(ARCHITECTURES[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)  # vectors begin as ones and zeros: all alike
    return model.to(dtype)


def saved(model: SailVL, folder: Path, name: str) -> Path:
    weights.save(
        model,
        folder,
        ALONE,
        model=name,
        geometry={**{f: getattr(GEOMETRY, f) for f in GEOMETRY.__struct_fields__}, "name": name},
        root="0" * 64,
        stage="tune",
        steps=1,
        precision="bf16" if model.projector.mlp[0].weight.dtype == torch.bfloat16 else "fp32",
        pixel_shuffle=model.shape.pixel_shuffle,
    )
    return folder


@pytest.fixture(scope="module", params=TWINS)
def exported(alone_for_module, request, tmp_path_factory) -> tuple[SailVL, Path, Path]:
    """A twin, its weights as a stage leaves them, and as they are released."""
    folder = tmp_path_factory.mktemp("export")
    model = drawn(request.param)
    stage = saved(model, folder / "stage", request.param)
    export(stage, folder / "out", "released")
    return model, stage, folder / "out"


@pytest.fixture(scope="module")
def alone_for_module():
    import os

    from runtime import processes

    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    processes.prepare()
    processes.join(processes.place(), torch.device("cpu"))


class TestNames:
    def test_sail_vl2_2b_has_the_490_names_of_its_index(self) -> None:
        names = sorted(name for entry in released.entries(ARCHITECTURES["sail-vl2-2b"]) for name in entry.released)
        assert len(names) == 490
        # of the names of the published model.safetensors.index.json, sorted, one a line
        assert blake3("\n".join(names).encode()).hexdigest() == NAMES_OF_SAIL_VL2_2B

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_every_tensor_of_every_model_is_in_one_entry(self, name: str) -> None:
        with torch.device("meta"):
            ours = dict(SailVL(ARCHITECTURES[name]).named_parameters(remove_duplicate=False))
        entries = released.entries(ARCHITECTURES[name])
        named = [each for entry in entries for each in entry.ours]
        assert sorted(named) == sorted(ours)
        theirs = [each for entry in entries for each in entry.released]
        assert len(theirs) == len(set(theirs))
        for entry in entries:  # there and back, by shapes
            held = [ours[each] for each in entry.ours]
            out = entry.to_released(held)
            assert len(out) == len(entry.released)
            assert [t.shape for t in entry.to_ours(out)] == [t.shape for t in held]


class TestTowersByOtherCode:
    """The released towers' arithmetic, stated over their own tensor names."""

    def test_aimv2(self) -> None:
        model = build(toy("aimv2", "qwen3"))
        t = _named(model, released.vision_entries(model.shape.vision, ""))
        pixels = torch.randn(2, 3, 56, 56)

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * t[name]

        x = F.conv2d(
            pixels, t["preprocessor.patchifier.proj.weight"], t["preprocessor.patchifier.proj.bias"], stride=14
        )
        x = norm(x.flatten(2).transpose(1, 2), "preprocessor.patchifier.norm.weight") + t["preprocessor.pos_embed"]
        for layer in range(2):
            b = f"trunk.blocks.{layer}."
            qkv = (norm(x, b + "norm_1.weight") @ t[b + "attn.qkv.weight"].T).reshape(2, 16, 3, 2, 8)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            o = F.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1) @ v
            x = x + o.transpose(1, 2).reshape(2, 16, 16) @ t[b + "attn.proj.weight"].T
            y = norm(x, b + "norm_2.weight")
            y = F.silu(y @ t[b + "mlp.fc1.weight"].T) * (y @ t[b + "mlp.fc3.weight"].T)
            x = x + y @ t[b + "mlp.fc2.weight"].T
        x = norm(x, "trunk.post_trunk_norm.weight")
        torch.testing.assert_close(model.vision(pixels).flatten(1, 2), x, atol=1e-5, rtol=1e-5)

    def test_internvit(self) -> None:
        model = build(toy("internvit", "qwen2"))
        with torch.no_grad():
            for name, parameter in model.vision.named_parameters():
                if parameter.ndim == 1:
                    parameter.add_(
                        torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1
                    )
        t = _named(model, released.vision_entries(model.shape.vision, ""))
        pixels = torch.randn(2, 3, 56, 56)

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.layer_norm(x, (16,), t[name + ".weight"], t[name + ".bias"], 1e-6)

        def linear(x: torch.Tensor, name: str) -> torch.Tensor:
            return F.linear(x, t[name + ".weight"], t[name + ".bias"])

        x = F.conv2d(pixels, t["embeddings.patch_embedding.weight"], t["embeddings.patch_embedding.bias"], stride=14)
        x = torch.cat([t["embeddings.class_embedding"].expand(2, 1, 16), x.flatten(2).transpose(1, 2)], 1)
        x = x + t["embeddings.position_embedding"]
        for layer in range(2):
            b = f"encoder.layers.{layer}."
            q, k, v = linear(norm(x, b + "norm1"), b + "attn.qkv").reshape(2, 17, 3, 2, 8).permute(2, 0, 3, 1, 4)
            o = (F.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1) @ v).transpose(1, 2).reshape(2, 17, 16)
            x = x + linear(o, b + "attn.proj") * t[b + "ls1"]
            x = x + linear(F.gelu(linear(norm(x, b + "norm2"), b + "mlp.fc1")), b + "mlp.fc2") * t[b + "ls2"]
        torch.testing.assert_close(model.vision(pixels).flatten(1, 2), x[:, 1:], atol=1e-5, rtol=1e-5)


def _named(model: SailVL, entries: list[released.Entry]) -> dict[str, torch.Tensor]:
    held = dict(model.named_parameters())
    return {
        name: tensor.detach()
        for entry in entries
        for name, tensor in zip(entry.released, entry.to_released([held[each] for each in entry.ours]), strict=True)
    }


class TestThereAndBack:
    def test_the_model_is_the_same_to_the_last_bit(self, exported) -> None:
        model, _, folder = exported
        other = drawn(model.shape.name, seed=2)
        said = initial.load(other, Initial(whole=folder))
        assert "released model" in said
        for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b), name
        assert (other.language.lm_head.weight is other.language.model.embed_tokens.weight) == model.shape.language.tied

    def test_and_so_are_the_files(self, exported, tmp_path) -> None:
        model, _, folder = exported
        other = drawn(model.shape.name, seed=2)
        initial.load(other, Initial(whole=folder))
        export(saved(other, tmp_path / "stage", model.shape.name), tmp_path / "again", "released")
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
            p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()
        }

    def test_config_json_says_what_the_model_is(self, exported) -> None:
        model, _, folder = exported
        config = json.loads((folder / "config.json").read_text())
        assert config["llm_config"]["model_type"] == model.shape.language.kind
        assert config["select_layer"] == -1 and config["max_dynamic_patch"] == 12 and config["ps_version"] == "v2"

    def test_several_files_and_an_index_are_the_same_model(self, exported, tmp_path) -> None:
        model, _, folder = exported
        tensors = load_file(folder / "model.safetensors")
        stored = {name: Stored(tuple(t.shape), t.dtype) for name, t in tensors.items()}
        tensor_files.write(tmp_path, tensors.items(), stored, limit=12_000_000)
        assert (tmp_path / "model-00001-of-00004.safetensors").exists() or len(list(tmp_path.glob("*.safetensors"))) > 1
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values()) and set(
            index["weight_map"]
        ) == set(tensors)
        other = drawn(model.shape.name, seed=2)
        initial.load(other, Initial(whole=tmp_path))
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))

    def test_parts_make_a_model_with_a_random_projector(self, exported, tmp_path) -> None:
        model, _, folder = exported
        tensors = load_file(folder / "model.safetensors")
        for part, prefix in (("vit", "vision_model."), ("llm", "language_model.")):
            (tmp_path / part).mkdir()
            own = {name.removeprefix(prefix): t.clone() for name, t in tensors.items() if name.startswith(prefix)}
            if part == "llm" and model.shape.language.tied:
                del own["lm_head.weight"]  # as Qwen publishes it
            save_file(own, tmp_path / part / "model.safetensors")
        other = drawn(model.shape.name, seed=2)
        before = [p.clone() for p in other.projector.parameters()]
        said = initial.load(other, Initial(vision=tmp_path / "vit", language=tmp_path / "llm"))
        assert "vision:" in said and "language:" in said
        for part in ("vision", "language"):
            pairs = zip(getattr(model, part).parameters(), getattr(other, part).parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
        assert all(torch.equal(a, b) for a, b in zip(before, other.projector.parameters(), strict=True))

    def test_a_part_may_be_taken_out_of_a_whole_model(self, exported) -> None:
        model, _, folder = exported
        other = drawn(model.shape.name, seed=2)
        initial.load(other, Initial(vision=folder))
        assert all(torch.equal(a, b) for a, b in zip(model.vision.parameters(), other.vision.parameters(), strict=True))
        assert not torch.equal(model.language.model.norm.weight, other.language.model.norm.weight)

    def test_bf16_stays_bf16(self, alone_for_module, tmp_path) -> None:
        model = drawn("sail-vl-tiny-v1", dtype=torch.bfloat16)
        export(saved(model, tmp_path / "stage", "sail-vl-tiny-v1"), tmp_path / "out", "released")
        assert {t.dtype for t in load_file(tmp_path / "out/model.safetensors").values()} == {torch.bfloat16}
        assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "bfloat16"


def test_a_new_process_has_the_same_logits(exported) -> None:
    """Of the stage's weights and of their export, bit for bit those of the model that was saved."""
    model, stage, folder = exported
    program = (
        "import sys, torch; torch.set_num_threads(1); from pathlib import Path; from blake3 import blake3;"
        "from runtime import initial; from runtime.model.sail_vl import SailVL; from runtime.model.zoo import ARCHITECTURES;"
        "from tests.runtime.test_released import hidden_states;"
        "models = [(SailVL(ARCHITECTURES[sys.argv[1]]), Path(place)) for place in sys.argv[2:]];"
        "[initial.load(model, initial.Initial(whole=place)) for model, place in models];"
        "print(*(blake3(hidden_states(model)).hexdigest() for model, _ in models))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, model.shape.name, str(stage), str(folder)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [blake3(hidden_states(model)).hexdigest()] * 2


def hidden_states(model: SailVL) -> bytes:
    """Logits of a text with one tile, as bytes; of every thousandth word, for they are many."""
    with torch.no_grad():
        return bytes(raw(logits(model.eval(), one_tile(300))[:, ::1000]))


def one_tile(tokens: int) -> Batch:
    return dataclasses.replace(
        pack(SAMPLES[0]),
        tokens_T=torch.arange(tokens) * 7 % 1000,
        positions_T=torch.arange(tokens),
        cu_seqlens=torch.tensor([0, tokens], dtype=torch.int32),
        max_seqlen=tokens,
        tiles_M=torch.arange(3 * 448 * 448).reshape(1, 3, 448, 448).mul(31).remainder(251).to(torch.uint8),
        image_positions=torch.arange(20, 276),
    )


class TestAHeadOfItsOwn:
    def test_it_is_kept_where_the_model_would_share_it(self, alone_for_module, tmp_path) -> None:
        model = drawn("sail-vl-tiny")
        export(saved(model, tmp_path / "stage", "sail-vl-tiny"), tmp_path / "out", "released")
        tensors = load_file(tmp_path / "out/model.safetensors")
        tensors["language_model.lm_head.weight"] = tensors["language_model.lm_head.weight"] * 2
        save_file(tensors, tmp_path / "out/model.safetensors")
        other = drawn("sail-vl-tiny", seed=2)
        initial.load(other, Initial(whole=tmp_path / "out"))
        assert torch.equal(other.language.lm_head.weight, 2 * model.language.lm_head.weight)
        assert torch.equal(other.language.model.embed_tokens.weight, model.language.model.embed_tokens.weight)
        # and through the folder of a stage, and out again
        third = drawn("sail-vl-tiny", seed=3)
        initial.load(third, Initial(whole=saved(other, tmp_path / "next", "sail-vl-tiny")))
        assert torch.equal(third.language.lm_head.weight, other.language.lm_head.weight)
        export(tmp_path / "next", tmp_path / "again", "released")
        assert json.loads((tmp_path / "again/config.json").read_text())["llm_config"]["tie_word_embeddings"] is False
        assert torch.equal(
            load_file(tmp_path / "again/model.safetensors")["language_model.lm_head.weight"],
            tensors["language_model.lm_head.weight"],
        )


def hollow(model: SailVL, *given: str, dtype: torch.dtype = torch.float32, seed: int = 2) -> SailVL:
    """A model of the same shape that waits for the weights of some parts."""
    torch.manual_seed(seed)
    return SailVL(model.shape, dtype, given=given)


def same(one: SailVL, other: SailVL) -> None:
    """All that a model holds, buffers that no file has included."""
    for held in ("named_parameters", "named_buffers"):
        pairs = zip(getattr(one, held)(), getattr(other, held)(), strict=True)
        for (name, a), (its_name, b) in pairs:
            assert name == its_name and (a.dtype, a.device, a.requires_grad) == (b.dtype, b.device, b.requires_grad)
            assert torch.equal(a, b) and a.stride() == b.stride(), name
            assert b.untyped_storage().nbytes() == b.nbytes, name  # it keeps nothing else in memory
    assert one.state_dict().keys() == other.state_dict().keys()


class TestBuiltWithoutWeights:
    """A model that is given all its weights is the one that they would have been copied over, to the last bit of its logits."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("place", ["stage", "out"])
    def test_it_is_the_model_that_was_drawn_and_written_over(self, exported, place, dtype) -> None:
        model, _, folder = exported
        torch.manual_seed(2)
        old, new = SailVL(model.shape, dtype), hollow(model, *PARTS, dtype=dtype)
        assert all(each.is_meta for each in new.parameters())
        for other in (old, new):
            initial.load(other, Initial(whole=folder.with_name(place)))
        same(old, new)
        assert hidden_states(old) == hidden_states(new)

    def test_nothing_is_drawn(self, exported) -> None:
        before = torch.random.get_rng_state()
        SailVL(exported[0].shape, given=PARTS)
        assert torch.equal(before, torch.random.get_rng_state())

    @pytest.mark.parametrize(
        ("given", "empty"),
        [
            (("vision", "language"), {"language"}),
            (("vision",), set()),
            (("language",), {"language"}),
            (("projector", "language"), {"projector", "language"}),
        ],
    )
    def test_the_random_parts_are_those_of_a_model_that_is_all_random(self, exported, given, empty) -> None:
        model, _, folder = exported
        old, new = hollow(model), hollow(model, *given)
        assert {name for name, part in new.named_children() if next(part.parameters()).is_meta} == empty
        if "projector" not in given:
            made = Initial(**dict.fromkeys(given, folder))
            assert initial.given(made) == given
            for other in (old, new):
                initial.load(other, made)
            same(old, new)
        for name in set(PARTS) - set(given):
            pairs = zip(getattr(old, name).parameters(), getattr(new, name).parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)

    def test_weights_that_do_not_come_are_missed(self, exported) -> None:
        model, _, folder = exported
        with pytest.raises(AssertionError, match=r"built for other weights .* it has no language\."):
            initial.load(hollow(model, "language"), Initial(vision=folder))

    def test_a_head_of_its_own(self, exported, tmp_path) -> None:
        model, _, folder = exported
        tensors = load_file(folder / "model.safetensors")
        tensors["language_model.lm_head.weight"] = tensors["language_model.lm_head.weight"] * 2
        save_file(tensors, tmp_path / "model.safetensors")
        old, new = hollow(model), hollow(model, *PARTS)
        for other in (old, new):
            initial.load(other, Initial(whole=tmp_path))
        same(old, new)
        assert torch.equal(new.language.lm_head.weight, 2 * model.language.lm_head.weight)
        again = hollow(model, *PARTS)
        initial.load(again, Initial(whole=saved(new, tmp_path / "stage", model.shape.name)))
        same(new, again)

    def test_it_learns_as_the_other_does(self, exported) -> None:
        model, _, folder = exported
        gradients = []
        for other in (hollow(model), hollow(model, *PARTS)):
            initial.load(other, Initial(whole=folder))
            other.requires_grad_(True)
            other(one_tile(300)).loss_sum.backward()
            gradients.append([each.grad for each in other.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


class TestWhatIsWrongIsNamed:
    @pytest.fixture
    def folder(self, alone_for_module, tmp_path) -> Path:
        export(saved(drawn("sail-vl-tiny"), tmp_path / "stage", "sail-vl-tiny"), tmp_path / "out", "released")
        return tmp_path / "out"

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda t: t.pop("mlp1.1.bias"), "1 tensors missing, such as mlp1.1.bias"),
            (lambda t: t.update(extra=torch.zeros(1)), "1 tensors that it does not have, such as extra"),
            (lambda t: t.update({"mlp1.1.bias": torch.zeros(7)}), "would make projector.mlp.1.bias [7]"),
            (
                lambda t: t.update({"vision_model.trunk.blocks.0.attn.qkv.weight": torch.zeros(95, 32)}),
                "attn.qkv.weight",
            ),
        ],
    )
    def test_tensors(self, folder, change, says) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(CheckpointError) as error:
            initial.load(drawn("sail-vl-tiny"), Initial(whole=folder))
        assert says in str(error.value)

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("llm_config", "num_attention_heads"), 4),
            (("llm_config", "rope_theta"), 10000.0),
            (("llm_config", "rope_scaling"), {"type": "yarn"}),
            (("vision_config", "num_attention_heads"), 4),
            (("select_layer",), -4),
        ],
    )
    def test_what_no_tensor_shows(self, folder, path, value) -> None:
        config = json.loads((folder / "config.json").read_text())
        at = config
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError) as error:
            initial.load(drawn("sail-vl-tiny"), Initial(whole=folder))
        assert ".".join(path) in str(error.value)

    def test_the_order_of_pixel_shuffle_is_taken_over(self, folder) -> None:
        config = json.loads((folder / "config.json").read_text())
        shape = ARCHITECTURES["sail-vl-tiny"]
        assert initial.adopted(shape, Initial(whole=folder)) == shape
        (folder / "config.json").write_text(json.dumps(config | {"ps_version": "v1"}))
        adopted = initial.adopted(shape, Initial(whole=folder))
        assert adopted == dataclasses.replace(shape, pixel_shuffle="v1")
        model = SailVL(adopted)
        initial.load(model, Initial(whole=folder))
        stage = saved(model, folder.with_name("next"), "sail-vl-tiny")
        assert initial.adopted(shape, Initial(whole=stage)) == adopted
        (folder / "config.json").write_text(json.dumps(config | {"ps_version": "v3"}))
        with pytest.raises(CheckpointError, match="no pixel shuffle 'v3'"):
            initial.adopted(shape, Initial(whole=folder))

    def test_files(self, folder, tmp_path) -> None:
        for contents, says in (
            (b"", "not a model's description"),
            (b"[]", "it is no JSON object"),
        ):
            (folder / "config.json").write_bytes(contents)
            with pytest.raises(CheckpointError, match=says):
                initial.adopted(ARCHITECTURES["sail-vl-tiny"], Initial(whole=folder))
        (folder / "config.json").unlink()
        file = folder / "model.safetensors"
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
        with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
            initial.load(drawn("sail-vl-tiny"), Initial(whole=folder))
        file.write_bytes(data)
        index = folder / "model.safetensors.index.json"
        for contents, says in (
            (b"{", "not an index of weights"),
            (json.dumps({"weight_map": {"a": "../../etc/passwd"}}).encode(), "outside the folder"),
            (json.dumps({"weight_map": {"a": "model-1.safetensors"}}).encode(), "cannot be read as safetensors"),
            (json.dumps({"weight_map": {"a": "model.safetensors"}}).encode(), "do not agree"),
        ):
            index.write_bytes(contents)
            with pytest.raises(CheckpointError, match=says):
                initial.load(drawn("sail-vl-tiny"), Initial(whole=folder))
        with pytest.raises(CheckpointError, match="neither model"):
            initial.load(drawn("sail-vl-tiny"), Initial(whole=tmp_path / "nowhere"))

    def test_a_whole_and_parts(self, folder) -> None:
        with pytest.raises(ArgumentError, match="or with parts"):
            initial.check(Initial(whole=folder, vision=folder))
        initial.check(Initial(whole=folder))
        initial.check(Initial(vision=folder, language=folder))

    def test_export(self, folder, tmp_path) -> None:
        with pytest.raises(CheckpointError, match="no weights of a trained stage"):
            export(tmp_path, tmp_path / "new", "released")
        with pytest.raises(ArgumentError, match="something is in this folder"):
            export(tmp_path / "stage", folder, "released")
        with pytest.raises(ArgumentError, match="its tower is no InternViT"):
            export(tmp_path / "stage", tmp_path / "new", "transformers")
        assert not (tmp_path / "new").exists()


def test_transformers_opens_an_export_and_computes_the_same(alone_for_module, tmp_path, monkeypatch) -> None:
    """Whole, from a folder, in code that is not ours: logits and gradients."""
    from transformers import AutoModelForImageTextToText

    from runtime.images import normalise

    shape = toy("internvit", "qwen2")
    monkeypatch.setitem(ARCHITECTURES, "toy", dataclasses.replace(shape, name="toy"))
    model = build(shape)
    about = {f: getattr(GEOMETRY, f) for f in GEOMETRY.__struct_fields__}
    about |= {"name": "toy", "tile_size": 56, "tokens_per_tile": 4, "vocab_size": 80, "image_context_id": 79}
    weights.save(
        model,
        tmp_path / "stage",
        ALONE,
        model="toy",
        geometry=about,
        root="0" * 64,
        stage="s",
        steps=1,
        precision="fp32",
    )
    export(tmp_path / "stage", tmp_path / "out", "transformers")
    other, report = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "out", attn_implementation="eager", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    sample = SAMPLES[2]
    expected = other(
        input_ids=torch.tensor([sample.tokens]), pixel_values=normalise(sample.tiles), use_cache=False
    ).logits[0]
    found = logits(model, pack(sample))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    predict = torch.arange(len(sample.tokens) - 1 - sample.supervised, len(sample.tokens) - 1)
    labels = torch.tensor(sample.tokens)[predict + 1]
    F.cross_entropy(expected[predict], labels, reduction="sum").mul(sample.weight).backward()
    model(pack(sample)).loss_sum.backward()
    theirs = dict(other.named_parameters())
    from runtime.export import _renamed

    for name, parameter in model.named_parameters():
        twin = theirs[_renamed(name)] if _renamed(name) in theirs else theirs["lm_head.weight"]
        scale = max(1.0, float(twin.grad.abs().max()))
        torch.testing.assert_close(parameter.grad, twin.grad, atol=1e-5 * scale, rtol=1e-4, msg=name)


NAMES_OF_SAIL_VL2_2B = "39782062d543169a0ecd7881138628b259a41c78c0bfe063146eadb6f1f22bf8"
