"""attach: logging keys, the sidecar, refusals, and what stops a run."""

from __future__ import annotations

import gc
import json
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import WEIGHT, Grads, SFTTrainer, build_trainer, penalty_gradient, relative_error, tiny_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import infosteer
from infosteer.errors import AttachError, ConfigError, NoEffectError, NonFiniteLossError, RunError
from infosteer.training.sidecar import read_sidecar

METHODS = [infosteer.Intervention(fraction=0.1), infosteer.EntropyRegularization(weight=0.1)]


def plain_trainer(folder: Path, model: Any = None, **settings: Any) -> Trainer:
    generator = torch.Generator().manual_seed(4)
    data = []
    for i in range(8):
        ids = torch.randint(4, 52, (12,), generator=generator)
        labels = ids.clone()
        labels[: 2 + i % 4] = -100
        data.append({"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)})
    arguments = {
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "max_grad_norm": 0.0,
        **settings,
    }
    return Trainer(
        model=model if model is not None else tiny_model(),
        args=TrainingArguments(output_dir=str(folder), **arguments),
        train_dataset=data,
    )


class ZeroTrainer(Trainer):
    """Trainer whose task loss is multiplied by 0."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs) * 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1], ids=["labels in the call", "labels kept by the trainer"])
def test_transformers_trainer(tmp_path: Path, smoothing: float) -> None:
    trainer = plain_trainer(tmp_path, label_smoothing_factor=smoothing)
    trainer.__class__ = ZeroTrainer
    batches = [dict(batch) for _, batch in zip(range(4), trainer.get_train_dataloader(), strict=False)]
    wanted = penalty_gradient(tiny_model(), batches)
    grads = Grads()
    trainer.add_callback(grads)
    infosteer.attach(trainer, [infosteer.EntropyRegularization(weight=WEIGHT)])
    trainer.train()
    assert relative_error(grads.steps[0], wanted) < 1e-5


def test_logged_values(tmp_path: Path) -> None:
    trainer = build_trainer(str(tmp_path), micro=2, accumulate=4, max_steps=4, logging_steps=2)
    session = infosteer.attach(trainer, METHODS)
    opened: list[bool] = []
    original = session.open_call
    session.open_call = lambda module: opened.append((call := original(module)).measure) or call  # type: ignore[method-assign]
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 2
    for log in logs:
        for key in (
            "task_loss",
            "penalty",
            "entropy",
            "change",
            "sign_change",
            *(f"entropy/layer_{i}" for i in range(3)),
        ):
            assert isinstance(log[f"infosteer/{key}"], float), key
        assert log["infosteer/penalty"] < 0 < log["infosteer/entropy"] < torch.log(torch.tensor(48.0))
    first_batch = 1  # the very first call is measured once, to report how minor the edits are
    assert opened.count(True) == 8 + first_batch, "statistics are computed at logging steps only"
    assert len(opened) == 16


def test_task_loss_is_the_trainers_loss(tmp_path: Path) -> None:
    bare = build_trainer(str(tmp_path / "a"), micro=2, accumulate=4)
    bare.train()
    trainer = build_trainer(str(tmp_path / "b"), micro=2, accumulate=4)
    infosteer.attach(trainer, [infosteer.EntropyRegularization(weight=0.1)])
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["loss"] == bare.state.log_history[0]["loss"]
    assert log["infosteer/task_loss"] == pytest.approx(log["loss"], rel=1e-5)


def test_saved_models_have_a_sidecar_and_stay_ordinary(tmp_path: Path) -> None:
    trainer = build_trainer(str(tmp_path), max_steps=2, save_strategy="steps", save_steps=1)
    infosteer.attach(trainer, METHODS)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    for folder in (tmp_path / "checkpoint-1", tmp_path / "final"):
        facts = json.loads((folder / "infosteer.json").read_text())
        assert [infosteer.core.registry.build_method(m) for m in facts["methods"]] == METHODS
        assert facts["versions"]["torch"] == torch.__version__
        assert len(facts["sites"]) == 3
    assert read_sidecar(tmp_path / "checkpoint-2")["step"] == 2
    assert read_sidecar(tmp_path) is None
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert torch.equal(again.model.embed_tokens.weight, trainer.model.model.embed_tokens.weight)
    (tmp_path / "final" / "infosteer.json").write_text("{")
    with pytest.raises(RunError, match="sidecar"):
        read_sidecar(tmp_path / "final")


def test_resuming_gives_the_same_weights(tmp_path: Path) -> None:
    """Schedules go on where they were: the step comes from the trainer's state."""
    methods = [
        {"method": "key_entropy", "weight": 0.5, "strength": {"points": [[0, 0.0], [4, 1.0]]}},
        {"method": "key_lift", "fraction": 0.2},
        {"method": "protect_memory", "values": 0.5},
    ]
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "micro": 2, "accumulate": 2}
    whole = build_trainer(str(tmp_path / "whole"), **settings)
    infosteer.attach(whole, methods)
    whole.train()
    resumed = build_trainer(str(tmp_path / "resumed"), **settings)
    infosteer.attach(resumed, methods)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_loss_that_is_not_finite_stops_before_the_weights(tmp_path: Path) -> None:
    class Broken(SFTTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            return loss * float("nan") if self.state.global_step == 2 else loss

    good = build_trainer(str(tmp_path / "good"), max_steps=2, lr_scheduler_type="constant")
    good.train()
    trainer = build_trainer(str(tmp_path / "bad"), kind=Broken, max_steps=5, lr_scheduler_type="constant")
    infosteer.attach(trainer, [])
    with pytest.raises(NonFiniteLossError, match="optimizer step 3"):
        trainer.train()
    for (name, a), b in zip(good.model.named_parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_evaluation_runs_the_plain_model(tmp_path: Path) -> None:
    losses = []
    for methods in (None, METHODS):
        trainer = build_trainer(str(tmp_path / str(len(losses))))
        trainer.eval_dataset = trainer.train_dataset
        if methods is not None:
            infosteer.attach(trainer, methods)
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[0] == losses[1]


def test_lora_is_steered_in_its_adapters_too(tmp_path: Path) -> None:
    trainer = build_trainer(str(tmp_path), lora=True)
    session = infosteer.attach(trainer, [infosteer.Intervention(fraction=0.2)])
    assert all("base_model" in site.name for site in session.sites)
    trainer.train()
    assert session.metrics()["infosteer/change"] > 0


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trainer instance"):
        infosteer.attach(tiny_model(), METHODS)
    trainer = build_trainer(str(tmp_path / "a"))
    infosteer.attach(trainer, METHODS)
    with pytest.raises(AttachError, match="steered already"):
        infosteer.attach(trainer, METHODS)
    trainer = build_trainer(str(tmp_path / "b"))
    trainer.compute_loss_func = lambda *args, **kwargs: None
    with pytest.raises(AttachError, match="compute_loss_func"):
        infosteer.attach(trainer, METHODS)
    trainer = build_trainer(str(tmp_path / "c"))
    with pytest.raises(ConfigError, match="one arm"):
        infosteer.attach(trainer, {"arms": {"a": [], "b": []}})


def test_removing_the_session_gives_the_bare_trainer_back(tmp_path: Path) -> None:
    bare = build_trainer(str(tmp_path / "a"), max_steps=2)
    bare.train()
    trainer = build_trainer(str(tmp_path / "b"), max_steps=2)
    infosteer.attach(trainer, [*METHODS, infosteer.ProtectMemory()]).remove()
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final" / "infosteer.json").exists()
    assert not any("infosteer" in key for log in trainer.state.log_history for key in log)
    for (name, a), b in zip(bare.model.named_parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    again = build_trainer(str(tmp_path / "c"), max_steps=1)
    infosteer.attach(again, [infosteer.Intervention(fraction=0.5)]).remove()
    session = infosteer.attach(again, [infosteer.Intervention(fraction=0.1)])
    again.train()
    assert again.state.log_history[0]["infosteer/change"] == pytest.approx(session.metrics()["infosteer/change"])


def test_attached_trainers_are_freed(tmp_path: Path) -> None:
    trainer = build_trainer(str(tmp_path), max_steps=1)
    infosteer.attach(trainer, METHODS)
    trainer.train()
    model = weakref.ref(trainer.model)
    del trainer
    gc.collect()
    assert model() is None


def test_models_made_at_the_start_of_training_are_refused(tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path)
    trainer.model_init = tiny_model
    with pytest.raises(AttachError, match="model_init"):
        infosteer.attach(trainer, METHODS)


def test_schedules_in_checkpointed_training(tmp_path: Path) -> None:
    """Strength falls to 0 half-way; TRL checkpoints activations by default. A warm-up from 0 is no error either."""
    for points in ([[0.0, 1.0], [0.5, 0.0]], [[0.0, 0.0], [1.0, 1.0]]):
        schedule = {"points": points, "unit": "fraction"}
        methods = [
            {"method": "key_entropy", "weight": 0.5, "strength": schedule},
            {"method": "key_lift", "fraction": 0.2, "strength": schedule},
            {"method": "protect_memory", "strength": schedule},
        ]
        for kwargs in ({"use_reentrant": False}, {"use_reentrant": True}):
            trainer = build_trainer(
                str(tmp_path), max_steps=4, gradient_checkpointing=True, gradient_checkpointing_kwargs=kwargs
            )
            trainer.eval_dataset = trainer.train_dataset
            infosteer.attach(trainer, methods)
            trainer.evaluate()
            trainer.train()
            strengths = [log["infosteer/strength/key_lift"] for log in trainer.state.log_history if "loss" in log]
            assert strengths[0] == points[0][1]
            assert strengths[-1] == points[-1][1]


def test_protection_without_anything_to_protect_is_an_error(tmp_path: Path) -> None:
    trainer = build_trainer(str(tmp_path))
    for name, parameter in trainer.model.named_parameters():
        parameter.requires_grad_("mlp" not in name)
    infosteer.attach(trainer, [infosteer.ProtectMemory()])
    with pytest.raises(NoEffectError, match="protect_memory"):
        trainer.train()


def test_protection_under_the_trainer(tmp_path: Path) -> None:
    trainer = build_trainer(str(tmp_path), max_steps=3, weight_decay=0.1)
    start = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    infosteer.attach(trainer, [infosteer.ProtectMemory(values=0.0, keys=0.5, gates=1.0)])
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, start[name]) == ("down_proj" in name), name


def test_unlocatable_models_can_be_observed_but_not_steered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    def routed() -> Any:
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        return MixtralForCausalLM(MixtralConfig(**sizes, num_key_value_heads=2, num_local_experts=2, vocab_size=52))

    with pytest.raises(infosteer.errors.ArchitectureError):
        infosteer.attach(plain_trainer(tmp_path / "a", routed()), METHODS)
    trainer = plain_trainer(tmp_path / "b", routed())
    with caplog.at_level(logging.INFO):
        infosteer.attach(trainer, [])
    assert "no key coefficients are observed" in caplog.text
    trainer.train()
