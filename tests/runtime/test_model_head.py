"""The head's loss in chunks against the plain one, and its gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import mark

from runtime.model.head import Output, SupervisedHead

torch.set_num_threads(1)


def inputs(targets: int, width: int, vocab: int, seed: int, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(targets, width, generator=generator).to(dtype).requires_grad_()
    weight = torch.nn.Parameter(torch.randn(vocab, width, generator=generator).to(dtype))
    labels = torch.randint(0, vocab, (targets,), generator=generator)
    weights = torch.rand(targets, generator=generator)
    return hidden, weight, labels, weights


def plain(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> Output:
    ce = F.cross_entropy(F.linear(hidden, weight).float(), labels, reduction="none")
    return Output((weights * ce).sum(), ce)


@settings(max_examples=40, deadline=None)
@given(
    targets=st.integers(0, 20),
    width=st.integers(1, 8),
    vocab=st.integers(2, 30),
    rows=st.integers(1, 24),
    seed=st.integers(0, 2**16),
    upstream=st.sampled_from([1.0, 0.25, 128.0]),
)
def test_chunks_equal_the_plain_loss_with_gradients(
    targets: int, width: int, vocab: int, rows: int, seed: int, upstream: float
) -> None:
    hidden, weight, labels, weights = inputs(targets, width, vocab, seed)
    expected = plain(hidden, weight, labels, weights)
    wanted = torch.autograd.grad(expected.loss_sum * upstream, (hidden, weight))
    found = SupervisedHead(weight, rows)(hidden, labels, weights)
    torch.testing.assert_close(found.loss_sum, expected.loss_sum, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.ce_N, expected.ce_N, atol=1e-5, rtol=1e-5)
    assert not found.ce_N.requires_grad
    for a, b in zip(torch.autograd.grad(found.loss_sum * upstream, (hidden, weight)), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * upstream, rtol=1e-5)


def test_half_precision_keeps_sums_in_float32() -> None:
    """Many chunks in bfloat16 end as near the exact gradient as one chunk does: small terms are not lost."""
    hidden, weight, labels, weights = inputs(4096, 8, 16, 0, torch.bfloat16)
    exact = torch.autograd.grad(
        plain(hidden.double(), weight.double(), labels, weights.double()).loss_sum, (hidden, weight)
    )
    for rows in (4096, 16):
        found = SupervisedHead(weight, rows)(hidden, labels, weights)
        assert found.loss_sum.dtype == found.ce_N.dtype == torch.float32
        gradients = torch.autograd.grad(found.loss_sum, (hidden, weight))
        for a, b in zip(gradients, exact, strict=True):
            assert a.dtype == torch.bfloat16
            assert (a.double() - b.double()).norm() < 0.01 * b.double().norm()


@mark.parametrize("learns", ["hidden", "weight"])
def test_only_what_learns_gets_a_gradient(learns: str) -> None:
    hidden, weight, labels, weights = inputs(6, 4, 9, 0)
    hidden.requires_grad_(learns == "hidden")
    weight.requires_grad_(learns == "weight")
    wanted = {"hidden": hidden, "weight": weight}[learns]
    (expected,) = torch.autograd.grad(plain(hidden, weight, labels, weights).loss_sum, wanted)
    SupervisedHead(weight, 4)(hidden, labels, weights).loss_sum.backward()
    torch.testing.assert_close(wanted.grad, expected)
    assert (hidden.grad is None) is (learns != "hidden") and (weight.grad is None) is (learns != "weight")


def test_without_a_graph_it_only_measures() -> None:
    hidden, weight, labels, weights = inputs(6, 4, 9, 0)
    head = SupervisedHead(weight, 4)
    with torch.no_grad():
        found = head(hidden, labels, weights)
    assert not found.loss_sum.requires_grad
    torch.testing.assert_close(found.ce_N, plain(hidden, weight, labels, weights).ce_N)


def test_as_a_plain_head_it_gives_logits() -> None:
    hidden, weight, _, _ = inputs(6, 4, 9, 0)
    assert torch.equal(SupervisedHead(weight)(hidden), F.linear(hidden, weight))
    assert dict(SupervisedHead(weight).named_parameters())["weight"] is weight


@settings(max_examples=40, deadline=None)
@given(
    targets=st.integers(0, 20),
    vocab=st.integers(2, 30),
    rows=st.integers(1, 24),
    seed=st.integers(0, 2**16),
    smoothing=st.sampled_from([0.0, 0.1, 0.7]),
    z=st.sampled_from([0.0, 1e-4, 0.3]),
)
def test_smoothing_and_z_loss_equal_torchs_by_autograd(
    targets: int, vocab: int, rows: int, seed: int, smoothing: float, z: float
) -> None:
    hidden, weight, labels, weights = inputs(targets, 5, vocab, seed)
    logits = F.linear(hidden, weight)
    losses = (
        F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing) + z * logits.logsumexp(-1) ** 2
    )
    expected = (weights * losses).sum()
    wanted = torch.autograd.grad(expected * 3, (hidden, weight))
    head = SupervisedHead(weight, rows)
    head.label_smoothing, head.z_loss = smoothing, z
    found = head(hidden, labels, weights)
    torch.testing.assert_close(found.loss_sum, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.ce_N, plain(hidden, weight, labels, weights).ce_N, atol=1e-5, rtol=1e-5)
    for a, b in zip(torch.autograd.grad(found.loss_sum * 3, (hidden, weight)), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)
