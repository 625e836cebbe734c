"""``infosteer.attach``: methods for a Trainer or TRL trainer instance, in one line."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from infosteer.core.calibration import Calibration, as_batches
from infosteer.core.effects import Methods, as_methods, refuse_data_methods
from infosteer.core.metrics import PREFIX, summarise
from infosteer.core.session import Session
from infosteer.core.steer import find_sites
from infosteer.errors import ArchitectureError, AttachError, NonFiniteLossError
from infosteer.training.compat import (
    bare_optimizer,
    is_measured_step,
    loop_of,
    loss_factor,
    refuse_trainer,
    task_batches,
)
from infosteer.training.method_state import load_method_state, save_method_state
from infosteer.training.sidecar import write_sidecar

logger = logging.getLogger(__name__)


def attach(
    trainer: Any,
    methods: Methods,
    *,
    trust_structure: bool = False,
    calibration: Calibration | None = None,
    rows_transformed: bool = False,
) -> Session:
    """Steers the training of a transformers or TRL trainer instance; call it before ``trainer.train()``.

    The trainer's loss code stays as it is. ``compute_loss`` of this instance is wrapped, since only there are the loss
    and the number of tokens it was divided by both known; the penalty's gradient joins in the backward. ``loss`` in
    the logs stays the task loss, comparable between arms; at logging steps it is accompanied by ``infosteer/task_loss``
    and ``infosteer/penalty`` (both of that step), ``infosteer/entropy`` and ``infosteer/entropy/layer_i`` (nats),
    ``infosteer/change`` (mean |k' - k|) and ``infosteer/sign_change`` (share of coefficients).
    Saved models get an ``infosteer.json``. A loss that is not finite stops the training before it reaches the weights.

    Args:
        trainer: an instance of Trainer, SFTTrainer or a subclass, with its model, not yet training.
        methods: method instances, an arm's mappings, or a recipe with one arm (a mapping or a
            YAML file's path); an empty list only observes.
        trust_structure: allow the structural search for architectures that the table does not have.
        calibration: texts, or batches of ``input_ids``, for methods that ask which memories a text uses.
        rows_transformed: the rows that the trainer was built with went through ``infosteer.transform_rows`` with these
            methods; without it, methods on the surface ``data`` are refused.

    Raises:
        AttachError: DataParallel, a compiled model, a second attach, a trainer that is training already, data methods
            whose rows were not transformed.
        ArchitectureError: a model whose key coefficients cannot be located.
        ConfigError: settings that do not fit.

    Example:
        ``infosteer.attach(trainer, [infosteer.Intervention(), infosteer.EntropyRegularization()])``
    """
    refuse_trainer(trainer)
    chosen = as_methods(methods)
    if not rows_transformed:
        refuse_data_methods(chosen)
    try:
        sites = find_sites(trainer.model, trust_structure=trust_structure)
    except ArchitectureError as error:
        if chosen:
            raise
        logger.info("no key coefficients are observed: %s", error.what)
        sites = []
    batches = None if calibration is None else as_batches(calibration, getattr(trainer, "processing_class", None))
    session = Session(
        trainer.model,
        chosen,
        sites,
        measure_every=0,
        calibration=batches,
        task=functools.partial(task_batches, trainer),
    )
    session.values = False
    bridge = _Bridge(trainer, session)
    callback = _StepCallback(trainer, session)
    trainer.add_callback(callback)
    wrapped = {name: _wrap(trainer, name, getattr(bridge, name)) for name in ("compute_loss", "log", "save_model")}

    def detach() -> None:
        trainer.remove_callback(callback)
        for name, wrapper in wrapped.items():
            if vars(trainer).get(name) is wrapper:  # else somebody wrapped it again, and ours only passes through
                delattr(trainer, name)

    session.on_remove.append(detach)
    return session


def _wrap(trainer: Any, name: str, around: Any) -> Any:
    """Puts ``around(original, ...)`` in the place of a method of this one instance."""
    wrapper = functools.wraps(getattr(trainer, name))(functools.partial(around, getattr(trainer, name)))
    setattr(trainer, name, wrapper)
    return wrapper


class _Bridge:
    """What the wrapped methods of one trainer share."""

    def __init__(self, trainer: Any, session: Session) -> None:
        self.trainer, self.session = trainer, session
        self.task_loss: list[tuple[torch.Tensor, bool]] = []

    def compute_loss(self, original: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The trainer's loss with the penalties coupled to it."""
        session, trainer = self.session, self.trainer
        if session.removed or not (model.training and torch.is_grad_enabled()):
            return original(model, inputs, *args, **kwargs)
        session.step, session.total_steps = trainer.state.global_step, trainer.state.max_steps or None
        session.measure_next = is_measured_step(trainer)
        session.labels_hint = inputs.get("labels") if isinstance(inputs, Mapping) else None
        try:
            result = original(model, inputs, *args, **kwargs)
        finally:
            session.labels_hint = None
        loss = result[0] if isinstance(result, tuple) else result
        num_items = kwargs.get("num_items_in_batch", args[1] if len(args) > 1 else None)
        self._check_finite(loss)
        coupled, _ = session.couple(loss, num_items=num_items, factor=loss_factor(trainer, num_items))
        if session.measure_next:
            self.task_loss.append((loss.detach(), num_items is None))
        return (coupled, *result[1:]) if isinstance(result, tuple) else coupled

    def log(self, original: Any, logs: dict[str, float], *args: Any, **kwargs: Any) -> Any:
        """The trainer's log with the values of the last measured step; all processes must come here, as they do."""
        if "loss" in logs and not self.session.removed and not any(key.startswith("eval_") for key in logs):
            logs.update(self._metrics())
        return original(logs, *args, **kwargs)

    def save_model(self, original: Any, output_dir: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """The trainer's save, followed by the sidecar."""
        result = original(output_dir, *args, **kwargs)
        if self.trainer.args.should_save and not self.session.removed:
            write_sidecar(output_dir or self.trainer.args.output_dir, self.session)
            if output_dir and kwargs.get("_internal_call"):  # a checkpoint, not a model for others
                save_method_state(output_dir, self.session)
        return result

    def _metrics(self) -> dict[str, float]:
        accelerator = self.trainer.accelerator
        sums = self.session.sums()
        losses, self.task_loss = self.task_loss, []
        steps = self.trainer.current_gradient_accumulation_steps or 1
        total = sum(float(loss) / (steps if mean else 1) for loss, mean in losses)
        keys = sorted(sums)
        values = torch.tensor([total, *(sums[key] for key in keys)], dtype=torch.float64, device=accelerator.device)
        if accelerator.num_processes > 1:
            if accelerator.device.type == "mps":
                values = values.float()
            values = accelerator.reduce(values, reduction="sum")
        metrics = summarise(dict(zip(keys, values[1:].tolist(), strict=True)))
        metrics |= self._observations() | self.session.applied.metrics()
        if losses:
            metrics[f"{PREFIX}task_loss"] = float(values[0]) / accelerator.num_processes
        for method, description in zip(self.session.methods, self.session.describe(), strict=True):
            if not isinstance(method.strength, float):
                done = max(self.trainer.state.global_step - 1, 0)  # the step that is logged
                strength = method.strength_at(done, self.session.total_steps)
                metrics[f"{PREFIX}strength/{description['method']}"] = strength
        return metrics

    def _observations(self) -> dict[str, float]:
        """What the probes say, as a mean over processes: each has seen its own share of the batch."""
        accelerator = self.trainer.accelerator
        seen = self.session.probes.metrics()
        if accelerator.num_processes > 1 and seen:
            values = torch.tensor(list(seen.values()), dtype=torch.float32, device=accelerator.device)
            seen = dict(zip(seen, accelerator.reduce(values, reduction="mean").tolist(), strict=True))
        return dict(seen)

    def _check_finite(self, loss: torch.Tensor) -> None:
        # On an accelerator this would wait for the device in every step; there only logging steps are checked.
        if (loss.device.type == "cpu" or self.session.measure_next) and not torch.isfinite(loss.detach()).all():
            raise NonFiniteLossError(
                "the training loss is not finite; the weights were not updated with it",
                where=f"optimizer step {self.trainer.state.global_step + 1}",
                got=float(loss.detach()),
                fix="lower the learning rate or the strength; checkpoints saved so far are kept in "
                f"{self.trainer.args.output_dir}",
            )


class _StepCallback(TrainerCallback):
    """Finds out methods without effect where no torch optimizer hook ran (engines with their own step)."""

    def __init__(self, trainer: Any, session: Session) -> None:
        self.trainer, self.session = trainer, session

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.session.step = state.global_step - 1  # of the step that just ended
        self.session.check_effects()
        self.session.step = state.global_step

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.session.step = max(state.global_step - 1, 0)  # schedules may have no value behind their last step
        self.session.finish()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        wrapped = kwargs.get("model")
        if type(wrapped).__name__ == "DataParallel":
            raise AttachError(
                "DataParallel copies the model for every forward", fix="launch one process a GPU with accelerate launch"
            )
        if state.global_step:
            load_method_state(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.session)
        if isinstance(optimizer := bare_optimizer(kwargs.get("optimizer")), torch.optim.Optimizer):
            self.session.begin(optimizer, loop_of(self.trainer))
