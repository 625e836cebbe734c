"""Rows that carry loss, masked means, and the information surrogate."""

from __future__ import annotations

import pytest
import torch

from infosteer import functional
from infosteer.errors import ConfigError
from infosteer.ops import surrogate
from infosteer.ops.masking import loss_rows, masked_mean, masked_sum
from infosteer.ops.surrogate import information_surrogate


def test_loss_rows_count_what_a_causal_loss_counts():
    labels = torch.tensor([[-100, -100, 5, 6, -100], [1, 2, 3, 4, 5]])
    want = torch.tensor([[False, True, True, False, False], [True, True, True, True, False]])
    assert torch.equal(loss_rows(labels), want)
    shift_labels = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    assert torch.equal(loss_rows(shift_labels, shifted=True), want)
    assert torch.equal(loss_rows(torch.where(labels == -100, 0, labels), ignore_index=0), want)
    logits = torch.randn(2, 5, 9, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 9), labels[:, 1:].reshape(-1))
    loss.backward()
    assert torch.equal(logits.grad.abs().sum(-1) > 0, want)  # exactly the rows that the loss looks at


def test_masked_mean_and_sum():
    x = torch.randn(3, 7).to(torch.bfloat16)
    mask = torch.rand(3, 7) > 0.4
    torch.testing.assert_close(masked_sum(x, mask), x.double()[mask].sum().float())
    torch.testing.assert_close(masked_mean(x, mask), x.double()[mask].mean().float())
    torch.testing.assert_close(masked_mean(x), x.double().mean().float())
    assert masked_mean(x.double(), mask).dtype == torch.float64
    assert masked_mean(x, torch.zeros(3, 7, dtype=torch.bool)) == 0
    assert masked_mean(torch.zeros(0)) == 0
    torch.testing.assert_close(masked_mean(x, mask[:, :1]), x.double()[mask[:, 0]].mean().float())


def test_masked_entries_do_not_count_whatever_they_are():
    x = torch.tensor([1.0, float("nan"), 3.0], requires_grad=True)
    mean = masked_mean(x, torch.tensor([True, False, True]))
    mean.backward()
    assert mean == 2
    assert x.grad.tolist() == [0.5, 0.0, 0.5]


def test_masking_errors():
    with pytest.raises(ConfigError, match="Labels"):
        loss_rows(torch.rand(2, 3))
    with pytest.raises(ConfigError, match="mask"):
        masked_sum(torch.rand(2, 3), torch.ones(2, 3))
    with pytest.raises(ConfigError, match="mask"):
        masked_mean(torch.rand(2, 3), torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_surrogate(dtype, monkeypatch):
    monkeypatch.setattr(surrogate, "_WIDEN_ELEMENTS", 70)  # several blocks of the vocabulary
    v, w = torch.randn(2, 3, 10).to(dtype), torch.randn(33, 10).to(dtype)
    phi = information_surrogate(v, w)
    assert phi.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    want = torch.einsum("abd,vd->abv", v.double(), w.double())
    torch.testing.assert_close(phi.double(), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(information_surrogate(v[0, 0], w).double(), want[0, 0], rtol=1e-5, atol=1e-5)
    assert information_surrogate(v, w.double()).dtype == torch.float64
    assert functional.information_surrogate is information_surrogate


def test_surrogate_errors():
    with pytest.raises(ConfigError, match="do not fit"):
        information_surrogate(torch.randn(10, 4), torch.randn(33, 10))
    with pytest.raises(ConfigError, match="floating"):
        information_surrogate(torch.randn(4), torch.ones(3, 4, dtype=torch.int64))
