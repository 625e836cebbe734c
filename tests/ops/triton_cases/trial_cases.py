"""Kernels are tried before they are used: one that fails or differs is replaced, with one warning."""

from __future__ import annotations

import logging

import pytest
import torch

from infosteer.ops import backends
from infosteer.ops.backends import use_backend
from infosteer.ops.entropy import key_entropy
from infosteer.ops.intervene import intervene


@pytest.fixture
def trials_on(monkeypatch):
    monkeypatch.setattr(backends, "INTERPRETED", False)
    monkeypatch.setattr(backends, "_tried", {})
    for module in ("intervene", "entropy", "steered"):
        monkeypatch.setattr(f"infosteer.ops.{module}.kernels_take", lambda k: True)


def test_a_trial_passes(trials_on, caplog):
    k = torch.randn(2, 19)
    with caplog.at_level(logging.WARNING):
        intervene(k.requires_grad_(), 0.2).sum().backward()
        key_entropy(k)
    assert not caplog.records
    assert len(backends._tried) == 3
    assert all(backends._tried.values())


@pytest.mark.parametrize("failure", ["raises", "wrong mask", "wrong values"])
def test_a_kernel_that_fails_is_replaced_with_one_warning(failure, trials_on, monkeypatch, caplog):
    from infosteer.ops.kernels import rows as kernels

    honest = kernels.rows_forward

    def broken(k, buffers, *settings):
        if failure == "raises":
            raise RuntimeError("out of resource: shared memory\nmore")
        honest(k, buffers, *settings)
        if failure == "wrong mask":
            buffers[1][0, 0] = (buffers[1][0, 0] + 4) % 64
        else:
            buffers[0][0, -1] += 1

    monkeypatch.setattr(kernels, "rows_forward", broken)
    k = torch.randn(2, 19)
    with caplog.at_level(logging.WARNING):
        got = [intervene(k, 0.2), intervene(k, 0.2)]
    with use_backend("torch"):
        pass
    assert len(caplog.records) == 1
    assert "rows forward" in caplog.text
    words = {"raises": "out of resource", "wrong mask": "other entries", "wrong values": "edited rows"}
    assert words[failure] in caplog.text
    monkeypatch.setattr("infosteer.ops.intervene.kernels_take", lambda k: False)
    assert all(torch.equal(x, intervene(k, 0.2)) for x in got)
