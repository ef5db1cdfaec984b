"""The CUDA backends against the segment loop on the CPU, which tests/runtime/test_attention.py proves right.

Tolerances: inputs are rounded to the half type first, the reference runs on them in float32, so what is left
is the kernel's own rounding of probabilities and outputs: a few units in the last place of values of order
one. bfloat16 has 8 bits (unit 2^-8 = 0.004), float16 11 (0.0005). Gradients sum over up to 1,000 keys and get
ten times that.
"""

from __future__ import annotations

import torch
from pytest import fixture, mark, skip

from runtime.attention import _kernel, backend, use_backend, varlen_attention

pytestmark = [
    mark.gpu,
    mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: FlashAttention has no CPU kernel"),
]

LENGTHS = [1, 517, 3, 256, 1000, 64]
TOLERANCE = {torch.bfloat16: 0.02, torch.float16: 0.0025}


@fixture(params=["varlen_attn", "flash_attn", "sdpa_loop"])
def name(request) -> str:
    try:
        _kernel(request.param)
    except ValueError as error:
        skip(str(error))
    return request.param


def row(heads: int, kv_heads: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    q, k, v, g = (
        torch.randn(sum(LENGTHS), h, width, generator=generator).to(dtype) for h in (heads, kv_heads, kv_heads, heads)
    )
    return q, k, v, g


def run(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, causal: bool, scale: float
) -> list[torch.Tensor]:
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    cu_seqlens = torch.tensor([0, *LENGTHS], device=q.device).cumsum(0).int()
    output = varlen_attention(*leaves, cu_seqlens, max(LENGTHS), causal=causal, scale=scale)
    return [output.detach(), *torch.autograd.grad(output, leaves, g)]


@mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@mark.parametrize(("heads", "kv_heads", "width"), [(4, 4, 64), (12, 2, 128), (2, 1, 16)])
@mark.parametrize("causal", [True, False])
def test_backends_equal_the_cpu_loop(
    name: str, dtype: torch.dtype, heads: int, kv_heads: int, width: int, causal: bool
) -> None:
    inputs = row(heads, kv_heads, width, dtype)
    expected = run(*(x.float() for x in inputs), causal, 0.1)
    with use_backend(name):
        found = run(*(x.cuda() for x in inputs), causal, 0.1)
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.dtype == dtype
        slack = TOLERANCE[dtype] * (10 if index else 1)
        torch.testing.assert_close(a.cpu().float(), b, atol=slack, rtol=slack)


@mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_segment_does_not_see_its_neighbours(name: str, dtype: torch.dtype) -> None:
    """Other samples' keys and values are made huge: what leaked, with whatever weight, would show."""
    q, k, v, g = (x.cuda() for x in row(4, 2, 64, dtype))
    start, stop = 1, 518
    poisoned_k, poisoned_v = k.clone(), v.clone()
    for x in (poisoned_k, poisoned_v):
        x[:start], x[stop:] = 1000.0, 1000.0
    with use_backend(name):
        clean = run(q, k, v, g, True, 0.125)[0][start:stop]
        found = run(q, poisoned_k, poisoned_v, g, True, 0.125)[0][start:stop]
    assert torch.equal(found, clean)


def test_no_host_synchronisation() -> None:
    q, k, v, _ = (x.cuda() for x in row(4, 2, 64, torch.bfloat16))
    cu_seqlens = torch.tensor([0, *LENGTHS], device="cuda").cumsum(0).int()
    if backend(q.device, q.dtype, 64) == "sdpa_loop":
        skip("this device has no FlashAttention kernel; the loop reads cu_seqlens back once a forward")
    varlen_attention(q, k, v, cu_seqlens, max(LENGTHS), causal=True, scale=0.125)
    torch.cuda.set_sync_debug_mode("error")
    try:
        varlen_attention(q, k, v, cu_seqlens, max(LENGTHS), causal=True, scale=0.125)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_resolver_takes_flash_for_half_and_the_loop_for_float32() -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        skip("FlashAttention needs compute capability 8.0")
    assert backend("cuda", torch.bfloat16) in ("flash_attn", "varlen_attn")
    assert backend("cuda", torch.float32) == "sdpa_loop"
    assert backend("cuda", torch.bfloat16, 20) == "sdpa_loop"
