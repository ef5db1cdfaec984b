"""What `runtime.doctor` says where there is a GPU."""

from __future__ import annotations

import torch
from pytest import mark

pytestmark = [
    mark.gpu,
    mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_gpu_is_told_with_the_attention_that_it_runs(monkeypatch) -> None:
    from runtime.doctor import examine

    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    said = [finding.what for finding in examine()]
    capability = ".".join(map(str, torch.cuda.get_device_capability(0)))
    assert any(what.startswith("GPU 0: ") and f"compute capability {capability}" in what for what in said)
    attention = [what for what in said if what.startswith("attention in bfloat16")]
    if torch.cuda.get_device_capability(0) >= (8, 0):
        assert attention[0].endswith(("flash_attn", "varlen_attn"))
    assert any("NCCL" in what for what in said)
