"""The CPU backend against a dense block mask, and the face to transformers, which must not leak."""

from __future__ import annotations

import importlib.util

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx, mark, raises
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from runtime.attention import (
    NAME,
    adapt_varlen_attn,
    attend,
    backend,
    passed_over,
    refuse_mask,
    register,
    use_backend,
    varlen_attention,
)

torch.set_num_threads(1)


def row(lengths: list[int], heads: int, kv_heads: int, width: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(sum(lengths), h, width, generator=generator).requires_grad_() for h in (heads, kv_heads, kv_heads)
    )
    return q, k, v, torch.tensor([0, *lengths]).cumsum(0).int()


def dense(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int], *, causal: bool, scale: float
) -> torch.Tensor:
    """Softmax over the whole row with everything outside a token's own segment masked out."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    allowed = segment[:, None] == segment[None, :]
    if causal:
        allowed &= torch.ones_like(allowed).tril()
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~allowed, -torch.inf).softmax(-1), v)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 3),
    causal=st.booleans(),
    scale=st.sampled_from([0.125, 0.5, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_the_segment_loop_equals_a_dense_block_mask_with_gradients(
    lengths: list[int], kv_heads: int, group: int, causal: bool, scale: float, seed: int
) -> None:
    q, k, v, cu_seqlens = row(lengths, kv_heads * group, kv_heads, 8, seed)
    expected = dense(q, k, v, lengths, causal=causal, scale=scale)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    expected_grads = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    found = varlen_attention(q, k, v, cu_seqlens, max(lengths), causal=causal, scale=scale)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    for a, b in zip(torch.autograd.grad((found * weight).sum(), (q, k, v)), expected_grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_segment_is_bit_equal_to_itself_alone() -> None:
    lengths = [7, 1, 12]
    q, k, v, cu_seqlens = row(lengths, 4, 2, 16)
    together = varlen_attention(q, k, v, cu_seqlens, 12, causal=True, scale=0.25)
    for start, stop in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True):
        alone = torch.tensor([0, stop - start], dtype=torch.int32)
        part = varlen_attention(
            q[start:stop], k[start:stop], v[start:stop], alone, stop - start, causal=True, scale=0.25
        )
        assert torch.equal(part, together[start:stop])


def test_what_cannot_be_meant_is_refused() -> None:
    q, k, v, cu_seqlens = row([4, 4], 4, 2, 8)
    with raises(ValueError, match="multiple"):
        varlen_attention(q[:, :3], k, v, cu_seqlens, 4, causal=True, scale=1.0)
    with raises(ValueError, match="int32"):
        varlen_attention(q, k, v, cu_seqlens.long(), 4, causal=True, scale=1.0)
    with raises(ValueError, match="8 tokens"):  # a boundary missing at the end would leave tokens without attention
        varlen_attention(q, k, v, cu_seqlens[:-1], 4, causal=True, scale=1.0)


def test_the_resolver_and_its_override() -> None:
    assert backend("cpu") == "sdpa_loop"
    assert backend("cpu", torch.float32, 20) == "sdpa_loop"
    with raises(ValueError, match="no attention backend 'fa9'"), use_backend("fa9"):
        pass
    with use_backend("varlen_attn"):
        assert backend("cpu") == "varlen_attn"
        q, k, v, cu_seqlens = row([4, 4], 2, 2, 8)
        with raises(NotImplementedError):  # it is really called, and has no CPU kernel
            varlen_attention(q, k, v, cu_seqlens, 4, causal=True, scale=1.0)
    assert backend("cpu") == "sdpa_loop"


def test_why_a_better_backend_is_passed_over(tmp_path, monkeypatch) -> None:
    """The capability is asked of a GPU; the rest of it is decided without one."""
    assert set(passed_over("cpu", torch.bfloat16, 128)) == {"flash_attn", "varlen_attn"}
    assert "this is a cpu" in passed_over("cpu", torch.bfloat16, 128)["varlen_attn"]
    assert "half precision" in passed_over("cuda", torch.float32, 128)["flash_attn"]
    assert "this is 20" in passed_over("cuda", torch.bfloat16, 20)["flash_attn"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "this GPU has 7.5" in passed_over("cuda", torch.bfloat16, 128)["flash_attn"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    if importlib.util.find_spec("flash_attn") is None:
        over = passed_over("cuda", torch.bfloat16, 128)
        assert list(over) == ["flash_attn"] and "not installed" in over["flash_attn"]
        (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol: _ZN2at')")
        monkeypatch.syspath_prepend(tmp_path)
        over = passed_over("cuda", torch.bfloat16, 128)
        assert list(over) == ["flash_attn"] and "does not load: undefined symbol" in over["flash_attn"]


class TestTorchReleases:
    """`varlen_attn` had several signatures; each is reached with the arguments it understands."""

    lengths = (5, 3)
    scale = 0.3

    def check(self, kernel, *, causal: bool) -> None:
        q, k, v, cu_seqlens = row(list(self.lengths), 4, 2, 8)
        found = kernel(q, k, v, cu_seqlens, 5, causal, self.scale)
        torch.testing.assert_close(
            found, dense(q, k, v, list(self.lengths), causal=causal, scale=self.scale), atol=2e-6, rtol=1e-5
        )

    @mark.parametrize("causal", [True, False])
    def test_2_10_causal_by_flag_own_scale_equal_heads(self, causal: bool) -> None:
        def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
            assert query.shape == key.shape
            return dense(query, key, value, list(self.lengths), causal=is_causal, scale=query.shape[-1] ** -0.5)

        self.check(adapt_varlen_attn(varlen_attn), causal=causal)

    @mark.parametrize("causal", [True, False])
    def test_causal_by_window_equal_heads(self, causal: bool) -> None:
        def varlen_attn(
            query,
            key,
            value,
            cu_seq_q,
            cu_seq_k,
            max_q,
            max_k,
            *,
            return_aux=None,
            scale=None,
            window_size=(-1, -1),
        ):
            assert query.shape == key.shape
            return dense(query, key, value, list(self.lengths), causal=window_size == (-1, 0), scale=scale)

        self.check(adapt_varlen_attn(varlen_attn), causal=causal)

    @mark.parametrize("causal", [True, False])
    def test_2_13_causal_by_window_grouped_heads(self, causal: bool) -> None:
        def varlen_attn(
            query,
            key,
            value,
            cu_seq_q,
            cu_seq_k,
            max_q,
            max_k,
            *,
            scale=None,
            window_size=(-1, -1),
            enable_gqa=False,
        ):
            assert enable_gqa and query.shape[1] == 2 * key.shape[1]
            return dense(query, key, value, list(self.lengths), causal=window_size == (-1, 0), scale=scale)

        self.check(adapt_varlen_attn(varlen_attn), causal=causal)


@mark.parametrize(("config", "model"), [(Qwen2Config, Qwen2ForCausalLM), (Qwen3Config, Qwen3ForCausalLM)])
class TestInsideTransformers:
    def build(self, config, model):
        torch.manual_seed(0)
        return model(
            config(
                vocab_size=50,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=8,
                intermediate_size=32,
                attn_implementation=register(),
            )
        )

    def test_the_name_keeps_clear_of_hub_kernels(self, config, model) -> None:
        assert "flash" not in NAME
        assert self.build(config, model).config._attn_implementation == NAME

    def test_segments_come_from_cu_seq_lens_even_where_positions_do_not_restart(self, config, model) -> None:
        built = self.build(config, model)
        tokens = torch.randint(0, 50, (1, 9), generator=torch.Generator().manual_seed(0))
        cu_seqlens = torch.tensor([0, 5, 9], dtype=torch.int32)
        positions = torch.arange(9)[None]
        packed = built(tokens, position_ids=positions, cu_seq_lens_q=cu_seqlens, max_length_q=5).logits[0]
        for start, stop in ((0, 5), (5, 9)):
            alone = built(
                tokens[:, start:stop],
                position_ids=positions[:, start:stop],
                cu_seq_lens_q=torch.tensor([0, stop - start], dtype=torch.int32),
                max_length_q=stop - start,
            ).logits[0]
            torch.testing.assert_close(packed[start:stop], alone, atol=1e-6, rtol=1e-5)

    def test_a_call_without_segments_raises(self, config, model) -> None:
        built = self.build(config, model)
        tokens = torch.zeros(1, 4, dtype=torch.int64)
        with raises(ValueError, match="without cu_seq_lens_q"):
            built(tokens)
        with raises(ValueError, match="without cu_seq_lens_q"):  # the length alone is not enough
            built(tokens, max_length_q=4)

    @mark.parametrize("shape", [(1, 4), (1, 1, 4, 4)])
    def test_any_mask_raises_even_one_of_ones(self, config, model, shape: tuple[int, ...]) -> None:
        built = self.build(config, model)
        cu_seqlens = torch.tensor([0, 2, 4], dtype=torch.int32)
        with raises(ValueError, match="no attention mask"):
            built(
                torch.zeros(1, 4, dtype=torch.int64),
                attention_mask=torch.ones(shape),
                cu_seq_lens_q=cu_seqlens,
                max_length_q=2,
            )

    def test_a_batch_of_rows_and_a_second_step_on_a_cache_raise(self, config, model) -> None:
        built = self.build(config, model)
        segments = {"cu_seq_lens_q": torch.tensor([0, 4], dtype=torch.int32), "max_length_q": 4}
        with raises(ValueError, match="one row, not 2"):
            built(torch.zeros(2, 4, dtype=torch.int64), **segments)
        cache = built(torch.zeros(1, 4, dtype=torch.int64), use_cache=True, **segments).past_key_values
        with raises(ValueError, match="no cache"):
            built(torch.zeros(1, 1, dtype=torch.int64), past_key_values=cache, **segments)


def test_options_that_are_not_done_are_refused() -> None:
    q, k, v, cu_seqlens = row([4], 2, 2, 8)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    face = {"cu_seq_lens_q": cu_seqlens, "max_length_q": 4}
    for option in ({"dropout": 0.1}, {"sliding_window": 2}, {"softcap": 30.0}):
        with raises(ValueError, match="no dropout"):
            attend(torch.nn.Module(), q, k, v, None, **face, **option)
    found, weights = attend(torch.nn.Module(), q, k, v, None, **face)
    assert found.shape == (1, 4, 2, 8) and weights is None
    assert found[0, 0, 0].tolist() == approx(v[0, 0, 0].tolist())  # the first token sees itself alone
    assert refuse_mask(attention_mask=None) is None
