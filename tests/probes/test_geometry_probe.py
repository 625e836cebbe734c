"""The geometry probe against hidden states taken from the model by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import infosteer
from infosteer.methods.probes.geometry import RepresentationGeometry

VOCABULARY = 31


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, vocab_size=VOCABULARY,
        initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).train()


def batch(rows: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCABULARY, (rows, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :3] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_rows_of(hidden: Tensor, labels: Tensor) -> np.ndarray:
    kept = torch.nn.functional.pad(labels[:, 1:] != -100, (0, 1))
    return hidden[kept].detach().double().numpy()


def rank_of_covariance(z: np.ndarray) -> float:
    values = np.linalg.eigvalsh(np.cov(z.T, bias=True))
    p = values / values.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def metrics_of(session: Any) -> dict[str, float]:
    return {name.removeprefix("infosteer/geometry/"): value for name, value in session.probes.metrics().items()}


def test_final_states_of_the_rows_that_carry_loss() -> None:
    rows, model = batch(), llama()
    states = model(**rows, output_hidden_states=True).hidden_states
    z = loss_rows_of(states[-1], rows["labels"])
    with infosteer.steer(model, [RepresentationGeometry(tokens="loss")]) as session:
        model(**rows, use_cache=False).loss.backward()
        found = metrics_of(session)
    s = np.linalg.svd(z, compute_uv=False)
    p = s / s.sum() + 1e-7
    assert found["rankme"] == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=1e-5)
    assert found["rankme_cov"] == pytest.approx(rank_of_covariance(z), rel=1e-5)
    assert found["rows"] == len(z)


def test_all_tokens_and_no_padding() -> None:
    rows, model = batch(), llama()
    states = model(**rows, output_hidden_states=True).hidden_states
    with infosteer.steer(model, [RepresentationGeometry(states="both", layers=[0])]) as session:
        model(**rows, use_cache=False).loss.backward()
        found = metrics_of(session)
    kept = rows["attention_mask"].bool()
    for name, hidden in (("rankme_cov", states[-1]), ("rankme_cov/layer_0", states[1])):
        wanted = rank_of_covariance(hidden[kept].detach().double().numpy())
        assert found[name] == pytest.approx(wanted, rel=1e-5)
    assert found["rows"] == int(kept.sum())
    with infosteer.steer(model, [RepresentationGeometry()]) as session:
        model(input_ids=rows["input_ids"], labels=rows["labels"], use_cache=False).loss.backward()
        assert metrics_of(session)["rows"] == rows["input_ids"].numel(), "without a mask nothing is padding"


def test_states_of_layers() -> None:
    rows, model = batch(), llama()
    states = model(**rows, output_hidden_states=True).hidden_states  # the last of them is normed
    raw: list[Tensor] = []
    handle = model.model.layers[2].register_forward_hook(lambda module, args, output: raw.append(output))
    model(**rows)
    handle.remove()
    with infosteer.steer(model, [RepresentationGeometry(states="both", layers=[0, 2], tokens="loss")]) as session:
        loss = model(**rows, use_cache=False).loss
        loss.backward()
        both = metrics_of(session)
    for layer, hidden in ((0, states[1]), (2, raw[0])):
        wanted = rank_of_covariance(loss_rows_of(hidden, rows["labels"]))
        assert both[f"rankme_cov/layer_{layer}"] == pytest.approx(wanted, rel=1e-5)
    assert "rankme_cov/layer_1" not in both
    assert both["rankme_cov"] == pytest.approx(rank_of_covariance(loss_rows_of(states[3], rows["labels"])), rel=1e-5)
    with infosteer.steer(model, [RepresentationGeometry(states="layers", layers=[1])]) as session:
        model(**rows, use_cache=False).loss.backward()
        assert {name.partition("/")[2] for name in metrics_of(session)} == {"layer_1"}


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputes_are_not_counted_twice(reentrant: bool) -> None:
    rows, model = batch(), llama()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    probe = RepresentationGeometry(states="both")
    with infosteer.steer(model, [probe]) as session:
        loss = model(**rows, use_cache=False).loss
        before = metrics_of(session)
        loss.backward()
        assert metrics_of(session) == before
    assert not model.model.layers[0]._forward_hooks


def test_micro_batches_of_a_step_add_up_and_the_next_step_starts_anew() -> None:
    rows, model = batch(), llama()
    found = []
    with infosteer.steer(model, [RepresentationGeometry(every=1)]) as session:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        for size in (12, 4):
            for start in range(0, 12, size):
                part = {name: value[start : start + size] for name, value in rows.items()}
                model(**part, use_cache=False).loss.backward()
            found.append(metrics_of(session))
            optimizer.step()
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=1e-5), name


def test_collapse_of_the_final_states_is_seen() -> None:
    """The measure must fall when a training pulls all states together."""
    rows, model = batch(), llama()
    ranks = []
    with infosteer.steer(model, [RepresentationGeometry(every=1)]) as session:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(25):
            hidden = model.model(input_ids=rows["input_ids"]).last_hidden_state
            spread = hidden - hidden.mean(dim=(0, 1))
            target = spread[..., :1].detach()  # one direction stays
            ((spread[..., 1:] ** 2).mean() + ((spread[..., :1] - target) ** 2).mean()).backward()
            ranks.append(metrics_of(session)["rankme_cov"])
            optimizer.step()
            optimizer.zero_grad()
    assert ranks[-1] < 0.7 * ranks[0]


def test_evaluation_scope_sees_evaluation_only() -> None:
    rows, model = batch(), llama()
    with infosteer.steer(model, [RepresentationGeometry(scope="evaluation")]) as session:
        model(**rows, use_cache=False).loss.backward()
        assert metrics_of(session) == {}
        with torch.no_grad():
            model.eval()(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"])
        assert metrics_of(session)["rows"] == float(rows["attention_mask"].sum())
