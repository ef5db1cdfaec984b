"""Attention over packed rows: one function, three backends, one resolver.

A row is the tokens of several samples end to end; `cu_seqlens` says where each begins. Attention is
block-diagonal: no sample sees another. The backends, in order of preference:

* `flash_attn`: the `flash-attn` package, when it is installed (the `flash` extra);
* `varlen_attn`: `torch.nn.attention.varlen`, FlashAttention inside the CUDA build of torch;
* `sdpa_loop`: one `scaled_dot_product_attention` call a segment. Runs anywhere and in any precision; it is
  what a CPU uses and what the other two are tested against. A dense block mask gives the same numbers at many
  times the cost.

transformers reaches this through its attention interface (`register`), never through a patch. Its own packed
paths fall back to plain causal attention, silently, when a mask or a cache is present or positions do not
restart; this one raises instead, so that a leak between samples cannot happen unseen.

Shapes: T tokens of the row, S segments, H query heads, G key and value heads (G divides H), D head width.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils.weak import WeakTensorKeyDictionary

log = logging.getLogger(__name__)

NAME = "mixc_varlen"
"""Our name in transformers' interfaces. Without "flash", which transformers would look up as a hub kernel."""

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, bool, float], torch.Tensor]

_override: str | None = None


def varlen_attention(
    q_THD: torch.Tensor,
    k_TGD: torch.Tensor,
    v_TGD: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    *,
    causal: bool,
    scale: float,
) -> torch.Tensor:
    """Softmax attention inside each segment of a packed row. Returns [T, H, D] in the dtype of `q_THD`.

    `cu_seqlens` is int32 [S+1] on the device of the row, from 0 to T, and is not changed afterwards;
    `max_seqlen` is the longest segment. No host-device synchronisation, except that `sdpa_loop` off the CPU
    reads `cu_seqlens` back once a tensor (so once a forward, not once a layer). Raises ValueError for shapes
    that cannot be meant.
    """
    if k_TGD.shape != v_TGD.shape or q_THD.shape[0] != k_TGD.shape[0] or q_THD.shape[1] % k_TGD.shape[1]:
        raise ValueError(
            "attention over a packed row wants q [T, H, D] and k, v [T, G, D] with H a multiple of G, not "
            f"{list(q_THD.shape)}, {list(k_TGD.shape)}, {list(v_TGD.shape)}"
        )
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 2 or cu_seqlens.dtype != torch.int32:
        raise ValueError(f"cu_seqlens must be int32 [segments + 1], not {cu_seqlens.dtype} {list(cu_seqlens.shape)}")
    kernel = _kernel(backend(q_THD.device, q_THD.dtype, q_THD.shape[-1]))
    return kernel(q_THD, k_TGD, v_TGD, cu_seqlens, max_seqlen, causal, scale)


def backend(device: torch.device | str, dtype: torch.dtype = torch.bfloat16, head_dim: int = 128) -> str:
    """The name of the backend that serves this device, dtype and head width; decided once for each."""
    return _override or _resolve(torch.device(device), dtype, head_dim)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Serve every call with the named backend, for tests and benchmarks. ValueError if it is not here."""
    global _override
    _kernel(name)
    before, _override = _override, name
    try:
        yield
    finally:
        _override = before


def passed_over(device: torch.device | str, dtype: torch.dtype, head_dim: int) -> dict[str, str]:
    """Why each backend that is better than the one for this device, dtype and head width does not serve it; in
    order of preference."""
    unfit = _unfit(torch.device(device), dtype, head_dim)
    over: dict[str, str] = {}
    for name in ("flash_attn", "varlen_attn"):
        try:
            if unfit:
                raise ValueError(unfit)
            _kernel(name)
        except ValueError as error:
            over[name] = str(error)
        else:
            break
    return over


def _unfit(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why FlashAttention 2's kernels, which both better backends run, cannot serve this; empty where they can."""
    if device.type != "cuda":
        return f"FlashAttention runs on a GPU, and this is a {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"FlashAttention is for half precision, and this is {dtype}"
    if head_dim % 8 or head_dim > 256:
        return f"FlashAttention takes heads of a multiple of 8 up to 256, and this is {head_dim}"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f"FlashAttention needs compute capability 8.0, and this GPU has {'.'.join(map(str, capability))}"
    return ""


@functools.cache
def _resolve(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    over = passed_over(device, dtype, head_dim)
    for why in over.values():
        log.info("%s", why)
    return next(name for name in ("flash_attn", "varlen_attn", "sdpa_loop") if name not in over)


@functools.cache
def _kernel(name: str) -> Kernel:
    match name:
        case "flash_attn":
            return _flash_attn_kernel()
        case "varlen_attn":
            return _varlen_attn_kernel()
        case "sdpa_loop":
            return _sdpa_loop
    raise ValueError(f"there is no attention backend {name!r}; there are flash_attn, varlen_attn and sdpa_loop")


def _flash_attn_kernel() -> Kernel:
    if importlib.util.find_spec("flash_attn") is None:
        raise ValueError("the attention backend flash_attn needs the package flash-attn, which is not installed")
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError as error:  # built for another torch, or only flash_attn.cute (flash-attn-4) is there
        log.warning("flash-attn is installed but does not load, so it is not used: %s", error)
        raise ValueError(f"flash-attn does not load: {error}") from error

    def flash_attn(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens: torch.Tensor,
        max_seqlen: int,
        causal: bool,
        scale: float,
    ) -> torch.Tensor:
        return flash_attn_varlen_func(
            *(q, k, v),
            *(cu_seqlens, cu_seqlens),
            *(max_seqlen, max_seqlen),
            causal=causal,
            softmax_scale=scale,
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )

    return flash_attn


def _varlen_attn_kernel() -> Kernel:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as error:
        raise ValueError("the attention backend varlen_attn needs torch 2.10 or later") from error
    return adapt_varlen_attn(varlen_attn)


def adapt_varlen_attn(varlen_attn: Callable[..., Any]) -> Kernel:
    """Give torch's `varlen_attn` one face over its releases.

    2.10 says causal by `is_causal` and has no `scale`; later ones by `window_size=(-1, 0)`. `enable_gqa` came
    after `window_size`; the check that demands it came with it, so without it keys and values are repeated.
    """
    known = inspect.signature(varlen_attn).parameters

    def torch_varlen(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens: torch.Tensor,
        max_seqlen: int,
        causal: bool,
        scale: float,
    ) -> torch.Tensor:
        options: dict[str, Any] = {}
        if "window_size" in known:
            options["window_size"] = (-1, 0) if causal else (-1, -1)
        else:
            options["is_causal"] = causal
        if "scale" in known:
            options["scale"] = scale
        else:
            q = q * (scale * q.shape[-1] ** 0.5)  # its own scale is D ** -0.5
        if q.shape[1] != k.shape[1]:
            if "enable_gqa" in known:
                options["enable_gqa"] = True
            else:
                k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
        return varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, **options)

    return torch_varlen


def _sdpa_loop(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    causal: bool,
    scale: float,
) -> torch.Tensor:
    bounds = _host_bounds(cu_seqlens)
    if bounds[0] != 0 or bounds[-1] != len(q):
        raise ValueError(f"cu_seqlens goes from {bounds[0]} to {bounds[-1]}, but the row has {len(q)} tokens")
    grouped = q.shape[1] != k.shape[1]
    outputs = []
    for start, stop in pairwise(bounds):
        q_1HLD, k_1GLD, v_1GLD = (x[start:stop].transpose(0, 1)[None] for x in (q, k, v))
        o_1HLD = F.scaled_dot_product_attention(
            q_1HLD, k_1GLD, v_1GLD, is_causal=causal, scale=scale, enable_gqa=grouped
        )
        outputs.append(o_1HLD[0].transpose(0, 1))
    return torch.cat(outputs)


_bounds = WeakTensorKeyDictionary()


def _host_bounds(cu_seqlens: torch.Tensor) -> list[int]:
    if cu_seqlens.device.type == "cpu":
        return cu_seqlens.tolist()
    if cu_seqlens not in _bounds:
        _bounds[cu_seqlens] = cu_seqlens.tolist()
    return _bounds[cu_seqlens]


def register() -> str:
    """Make `NAME` known to transformers as an attention implementation and return it. Idempotent."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, refuse_mask)
    return NAME


def keep_out_of_graphs() -> None:
    """Let torch.compile leave calls of `attend` as they are, from here on: it could not trace those that ask the host."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, torch.compiler.disable(attend))


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention face: query [1, H, T, D], key and value [1, G, T, D]; returns ([1, T, H, D],
    None).

    The segments come as transformers' own keyword arguments for packed rows, `cu_seq_lens_q` and
    `max_length_q`, given to the model's forward. Raises ValueError without them, with a mask (but one without elements, which
    says that there is none), a batch of rows, keys from a cache, dropout, a sliding window or a soft cap: whatever is asked for and not done here
    would be a wrong model, silently.
    """
    if attention_mask is not None and attention_mask.numel():
        raise ValueError(_MASK)
    if cu_seq_lens_q is None or max_length_q is None:
        raise ValueError(
            "attention over a packed row was called without cu_seq_lens_q and max_length_q: every sample "
            "would see those before it; give them to the model's forward"
        )
    if query.shape[0] != 1:
        raise ValueError(f"a packed batch is one row, not {query.shape[0]}")
    if key.shape[2] != query.shape[2]:
        raise ValueError(
            f"{query.shape[2]} queries against {key.shape[2]} keys: a packed row has no cache; pass use_cache=False"
        )
    if dropout or sliding_window is not None or softcap is not None:
        raise ValueError("packed attention has no dropout, no sliding window and no soft cap")
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    q_THD, k_THD, v_THD = (x[0].transpose(0, 1) for x in (query, key, value))
    o_THD = varlen_attention(
        q_THD,
        k_THD,
        v_THD,
        cu_seq_lens_q,
        max_length_q,
        causal=causal,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
    )
    return o_THD[None], None


_MASK = (
    "packed attention takes no attention mask: samples are told apart by cu_seq_lens_q alone, and a mask, "
    "even one of ones, would have to be ignored; leave attention_mask out"
)


def refuse_mask(*_: Any, attention_mask: torch.Tensor | None = None, **__: Any) -> None:
    """transformers' mask face: makes none, and raises ValueError when the caller brought one."""
    if attention_mask is not None:
        raise ValueError(_MASK)
