"""Sessions on the kernels: launches, gradients, and a training as in PyTorch."""

from __future__ import annotations

import pytest
import torch

from infosteer.ops.backends import use_backend
from infosteer.ops.gated import gated


def session_gradients(methods, backend):
    from transformers import LlamaConfig, LlamaForCausalLM

    import infosteer

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=40, **sizes)
    model = LlamaForCausalLM(config).train()
    ids = torch.randint(2, 40, (1, 4))
    with use_backend(backend), infosteer.steer(model, methods) as session:
        loss = session.loss(model(input_ids=ids, labels=ids).loss)
        loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("methods", "launches"),
    [
        ([{"method": "key_lift", "fraction": 0.2}, {"method": "key_entropy", "weight": 0.5}], 2),
        ([{"method": "key_entropy", "weight": 0.5}], 2),
        ([{"method": "key_lift", "fraction": 0.2, "entropy_low": 0.1}, {"method": "key_entropy", "weight": 0.5}], 4),
        ([{"method": "key_lift", "fraction": 0.2}, {"method": "key_norm", "weight": 0.5}], 2),
    ],
    ids=["both", "entropy", "both, lifted by entropy", "another penalty"],
)
def test_a_session_on_the_kernels(methods, launches, monkeypatch):
    """Edit and penalty share a backward pass, one launch a layer, where the edit takes every row."""
    from infosteer.ops.kernels import rows as kernels

    calls = []
    backward = kernels.rows_backward
    monkeypatch.setattr(kernels, "rows_backward", lambda *arguments: (calls.append(1), backward(*arguments)))
    want, want_grads = session_gradients(methods, "torch")
    assert not calls
    loss, grads = session_gradients(methods, "triton")
    assert len(calls) == launches
    torch.testing.assert_close(loss, want)
    for got, expected in zip(grads, want_grads, strict=True):
        assert (got - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("methods", [["key_lift"], ["key_entropy"], ["key_lift", "key_entropy"]], ids="+".join)
def test_a_session_trains_on_the_fused_kernels_as_on_pytorch(methods, monkeypatch):
    from tests.models.tiny_models import tiny, tokens

    import infosteer
    from infosteer.core import firing

    calls = []
    monkeypatch.setattr(firing, "gated", lambda *given, **settings: calls.append(1) or gated(*given, **settings))
    lift = "infosteer.methods.interventions.key_lift.method.gated"
    monkeypatch.setattr(lift, lambda *given, **settings: calls.append(1) or gated(*given, **settings))
    chosen = [{"method": name, **({"fraction": 0.2} if name == "key_lift" else {"weight": 0.5})} for name in methods]
    found = []
    for backend in ("triton", "torch"):
        with use_backend(backend):
            model, ids = tiny("llama").train(), tokens()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            with infosteer.steer(model, chosen) as session:
                for _ in range(2):  # the first step is measured, which takes the coefficients one by one
                    optimizer.zero_grad()
                    loss = session.loss(model(input_ids=ids, labels=ids).loss)
                    loss.backward()
                    optimizer.step()
            found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
        assert len(calls) == 2  # two layers, on the kernels only
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
