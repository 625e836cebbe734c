"""``train.compact_loss``: logits where labels are, the same loss and gradients, and TRL as it was afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Grads, build_trainer, rows, tiny_model, tiny_tokenizer
from trl.trainer import utils

from infosteer.errors import ConfigError
from infosteer.training.compat import compact_loss
from infosteer.training.settings import TrainSettings
from infosteer.training.sft import train_sft


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many positions each call of TRL's loss computed logits for."""
    seen: list[int] = []
    apply = utils._ChunkedLogProbFunction.apply

    class Counted:
        @staticmethod
        def apply(hidden: torch.Tensor, *rest: Any) -> Any:
            seen.append(hidden.shape[0])
            return apply(hidden, *rest)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Counted)
    return seen


def train(folder: Path, wanted: bool, **settings: Any) -> tuple[list[float], list[dict[str, torch.Tensor]]]:
    trainer = build_trainer(str(folder), max_steps=3, completion_only_loss=True, **settings)
    grads = Grads()
    trainer.add_callback(grads)
    with compact_loss(wanted):
        trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log], grads.steps


@pytest.mark.parametrize("settings", [{}, {"lora": True}, {"micro": 2, "accumulate": 4}, {"bf16": True}], ids=str)
def test_loss_and_gradients_are_the_same_up_to_rounding(settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    losses, steps = train(tmp_path / "all", False, **settings)
    torch.manual_seed(0)
    few_losses, few_steps = train(tmp_path / "few", True, **settings)
    tolerance = 2e-2 if settings.get("bf16") else 1e-5
    assert few_losses == pytest.approx(losses, rel=tolerance)
    for name, grad in steps[0].items():  # the later steps start from weights that differ by rounding already
        assert (few_steps[0][name] - grad).norm() <= tolerance * grad.norm() + 1e-7, name


def test_logits_are_computed_where_labels_are_and_nowhere_else(scored: list[int], tmp_path: Path) -> None:
    train(tmp_path / "all", False)
    everywhere, scored[:] = list(scored), []
    train(tmp_path / "few", True)
    answers = sum(len(row["completion"].split()) + 1 for row in rows())  # and the end token
    assert scored == [answers] * 3
    assert all(count > 1.2 * answers for count in everywhere)


def test_a_batch_without_labels_costs_and_changes_nothing(scored: list[int], tmp_path: Path) -> None:
    trainer = build_trainer(str(tmp_path))
    ids = torch.full((2, 5), 7)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.full_like(ids, -100)}
    with compact_loss(True):
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
    assert loss.item() == 0.0
    assert scored == [0]
    assert all(p.grad is None or not p.grad.any() for p in trainer.model.parameters())


@pytest.mark.parametrize("wanted", [True, False])
def test_a_run_does_as_its_recipe_says(scored: list[int], wanted: bool, tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    settings = TrainSettings(
        max_steps=2, per_device_train_batch_size=8, gradient_accumulation_steps=1, compact_loss=wanted, save_model=False
    )
    given = {"model": str(tmp_path / "model"), "rows": rows(), "methods": [], "seed": 1, "output_dir": tmp_path / "out"}
    train_sft(settings=settings, **given).close()
    answers = sum(len(row["completion"].split()) + 1 for row in rows())
    assert len(scored) == 2
    assert all((count == answers) is wanted for count in scored)


def test_a_loss_that_asks_nobody_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="infosteer"), compact_loss(True):
        pass
    assert "compact_loss" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", logger="infosteer"), compact_loss(True):
        utils._use_triton(torch.device("cpu"))
    assert not caplog.text


def test_trl_is_as_it_was_even_after_an_error() -> None:
    before = utils._use_triton
    with compact_loss(True):
        assert utils._use_triton(torch.device("cpu"))
        assert not utils._use_triton(torch.device("meta"))
    assert utils._use_triton is before
    with pytest.raises(RuntimeError, match="inside"), compact_loss(True):
        raise RuntimeError("inside")
    assert utils._use_triton is before
    with compact_loss(False):
        assert utils._use_triton is before


def test_a_trl_without_the_switch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(utils, "_use_triton")
    with pytest.raises(ConfigError, match="version of TRL"), compact_loss(True):
        pass
