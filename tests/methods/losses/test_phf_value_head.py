"""The value head of reward-weighted losses: gradients by hand, micro-batches, an interrupted training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from steered import batch, llama

import infosteer
from infosteer.experiments.reporter import Reporter
from infosteer.experiments.run import run
from infosteer.methods.losses.phf import PreferenceLoss
from infosteer.methods.losses.phf.value import ValueHead

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))  # for the tiny models

import tiny


@pytest.mark.parametrize("chunk", [3, 1000])
def test_the_value_head_learns_and_reaches_the_model(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infosteer.core.token_losses.CHUNK_ROWS", chunk)
    rows, model = batch(), llama().double()
    marks = torch.where(rows["input_ids"] % 2 == 0, -0.9, -0.1)
    method = PreferenceLoss(objective="awr", alpha=0.4, beta=0.5, value_rate=0.05)
    out = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], output_hidden_states=True)
    chosen = (rows["labels"] != -100)[:, 1:]
    hidden, logits = out.hidden_states[-1][:, :-1][chosen], out.logits[:, :-1][chosen]
    targets, reward = rows["input_ids"][:, 1:][chosen], marks[:, 1:][chosen].double()
    head = torch.zeros(hidden.shape[-1], dtype=torch.float64, requires_grad=True)
    value = -torch.sigmoid(hidden @ head)
    weight = ((reward - value.detach()) / 0.5).exp()
    wanted = (0.4 * weight * F.cross_entropy(logits, targets, reduction="none") + 0.6 * (reward - value) ** 2).mean()
    wanted.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with infosteer.steer(model, [method], measure_every=1) as session:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        errors = []
        for step in range(30):
            optimizer.zero_grad()
            loss = session.loss(model(**rows, marks_phf=marks, use_cache=False).loss)
            loss.backward()
            handle = session.applied.handles[0]
            assert isinstance(handle, ValueHead)
            if step == 0:
                torch.testing.assert_close(loss.detach().double(), wanted.detach(), rtol=1e-5, atol=0)
                torch.testing.assert_close(handle.parameters()[0].grad.double(), head.grad, rtol=1e-4, atol=1e-8)
                for name, gradient in expected.items():
                    torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-7)
            optimizer.step()
            errors.append(session.metrics()["infosteer/phf/value_error"])
        assert errors[-1] < 0.9 * errors[0]
        names = list(model.state_dict())
    assert handle.parameters() == [], "nothing stays behind"
    assert list(model.state_dict()) == names


def test_micro_batches_do_not_matter_to_the_value_head() -> None:
    rows, heads = batch(), []
    marks = torch.where(rows["input_ids"] % 2 == 0, -0.9, -0.1)
    total = int((rows["labels"][:, 1:] != -100).sum())
    for size in (4, 1):
        model = llama()
        with infosteer.steer(model, [PreferenceLoss(objective="awr", alpha=0.4)]) as session:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
            for start in range(0, 4, size):
                part = {name: value[start : start + size] for name, value in {**rows, "marks_phf": marks}.items()}
                loss = model(**part, num_items_in_batch=total, use_cache=False).loss
                session.loss(loss, num_items=total).backward()
            (head,) = session.applied.handles[0].parameters()
            gradient = head.grad.clone()
            optimizer.step()
            heads.append((gradient, head.detach().clone()))
    for one, other in zip(*heads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


class Interrupter(Reporter):
    def steps(self, *, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt


def test_an_interrupted_training_with_values_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """The value head and its moments are in the checkpoint; a divergence is from the model before all training."""
    arm = [
        {"method": "data/phf", "objective": "score", "words": ["A", "C", "E"]},
        {"method": "losses/phf", "objective": "awr", "alpha": 0.3, "beta": 0.5, "value_rate": 0.05},
        {"method": "base_divergence", "weight": 0.5},
    ]
    changes: dict[str, Any] = {"train": {"save_steps": 2, "save_model": True}, "seeds": [1]}
    recipe = tiny.recipe(tmp_path, arms={"awr": arm}, **changes)
    whole = run(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "cut", reporter=Interrupter())
    folder = Path("checkpoints") / "awr" / "seed-1"
    kept = load_file(tmp_path / "cut" / folder / "checkpoint-2" / "infosteer-state.safetensors")
    assert {name.partition("/")[2] for name in kept} == {"weight", "step", "exp_avg", "exp_avg_sq"}
    run(recipe, tmp_path / "cut")
    found, wanted = ((tmp_path / name / folder / "model.safetensors").read_bytes() for name in ("cut", "whole"))
    assert found == wanted
    assert not (whole / folder / "infosteer-state.safetensors").exists(), "a saved model needs none of it"
