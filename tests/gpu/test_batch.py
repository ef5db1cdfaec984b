"""A row on its way through a GPU: the batch that a CPU makes of it, and nothing that waits for the device."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from runtime.batch import Batch, Row, words_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def made() -> Row:
    """Three segments of 9 tokens, two spans, one image of 4 tokens."""
    words = np.zeros(words_of(9, 3, 2, 1), np.int32)
    words[:9] = [5, 60, 62, 62, 62, 62, 61, 7, 8]
    words[9:13] = [0, 7, 8, 9]
    words[13:15], words[15:17], words[17:19] = [1, 7], [2, 1], [0, 2]
    words[19:21] = np.array([1.0, 0.5], np.float32).view(np.int32)
    words[21:23] = [2, 4]
    return Row(
        words=torch.from_numpy(words),
        tokens=9,
        segments=3,
        spans=2,
        images=1,
        targets=3,
        max_seqlen=7,
        tiles_M=torch.arange(3 * 4, dtype=torch.uint8).reshape(1, 3, 2, 2),
        image_rows=4,
    )


def test_a_row_expands_to_the_same_batch_without_waiting_for_the_device() -> None:
    row = made()
    pinned = row.each(torch.Tensor.pin_memory)
    pinned.each(lambda tensor: tensor.cuda()).expand()  # kernels are loaded
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = pinned.each(lambda tensor: tensor.to("cuda", non_blocking=True)).expand()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    here = row.expand()
    for field in dataclasses.fields(Batch):
        one, other = getattr(here, field.name), getattr(there, field.name)
        if isinstance(one, torch.Tensor):
            assert other.device.type == "cuda" and other.dtype == one.dtype
            assert torch.equal(other.cpu(), one), field.name
        else:
            assert one == other
