"""One supervised fine-tuning run with TRL: load, attach the arm's methods, train, hand the model back.

With equal seeds every arm starts from the same weights and sees the same rows in the same order; a run that was killed
goes on from its last whole checkpoint and ends, on CPU, with the same bits.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from infosteer.core.data import DataMethod
from infosteer.core.surfaces import InterventionMethod
from infosteer.errors import ConfigError, NonFiniteLossError, RunError
from infosteer.training.callbacks import LogLine, last_checkpoint, log_callback
from infosteer.training.compat import compact_loss
from infosteer.training.encode import Encoded, encode_rows
from infosteer.training.loading import load_tokenizer
from infosteer.training.new_tokens import add_new_tokens
from infosteer.training.settings import TrainSettings
from infosteer.training.trainer import build_trainer, quiet

LAST_GOOD = "last-good"  # folder of the weights before a loss that was not finite


@dataclass(kw_only=True)
class Trained:
    """What one arm and seed gave: the model in evaluation mode, hooks still attached until ``close``.

    ``rows`` are those trained on, after the data methods.
    """

    model: Any
    tokenizer: Any
    session: Any
    methods: Sequence[Any]
    steps: int
    train_loss: float
    seconds: float
    rows: Sequence[Mapping[str, Any]]
    encoded: Encoded
    main_process: bool
    wait: Callable[[], None] = field(repr=False)

    def served_edits(self) -> list[InterventionMethod]:
        """The interventions at work while the model is evaluated, with the strength that their schedules ended at."""
        edits = [one for one in self.methods if isinstance(one, InterventionMethod)]
        last = [replace(edit, strength=edit.strength_at(self.steps, self.steps)) for edit in edits]
        return [edit for edit in last if edit.scope in ("evaluation", "always") and not edit.off]

    def close(self) -> None:
        """Detach the methods; the model is the caller's."""
        self.session.remove()


def train_sft(
    *,
    model: str,
    rows: Sequence[Mapping[str, Any]],
    settings: TrainSettings,
    methods: Sequence[Any],
    seed: int,
    output_dir: Path,
    trust_structure: bool = False,
    calibration: Sequence[str] | None = None,
    on_log: LogLine | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train one arm from one seed.

    Args:
        model: ``embedded``, a folder, or a hub id.
        rows: prompt and completion, as text or as chat messages.
        methods: instances or mappings, as ``infosteer.attach`` takes them; empty for plain training.
        output_dir: holds trainer checkpoints while training and the final model afterwards (``settings.save_model``).
        calibration: texts for methods that ask which memories a text uses.
        on_log: called on the main process with every log line (step, epoch, loss, ...).
        on_step: called on the main process with the steps done and their number: at the start (0, or where it resumes)
            and after every step.

    Raises: InfoSteerError for models that cannot be loaded, rows without labels, settings that the trainer refuses, a
        loss that is not finite, and a GPU whose memory is full.
    """
    from infosteer.core.effects import as_methods
    from infosteer.training.transform import transform_rows

    chosen = as_methods(list(methods))
    rows = transform_rows(rows, chosen, seed=seed)
    tokenizer = load_tokenizer(model)
    if settings.packing and any("segments" in row for row in rows):
        raise ConfigError(
            "Packing would put sequences of different tasks behind each other as if they were one.",
            where="train.packing",
            got=True,
            fix="leave it off: rows of several answers are long as they are",
        )
    new_tokens = add_new_tokens(tokenizer, chosen)
    encoded = encode_rows(
        rows,
        tokenizer,
        completion_only_loss=settings.completion_only_loss,
        max_length=settings.max_length,
        methods=chosen,
    )
    with quiet():
        ordered = any(isinstance(method, DataMethod) and method.ordered and not method.off for method in chosen)
        trainer = build_trainer(
            model, tokenizer, encoded, settings, seed, output_dir,
            new_tokens=new_tokens, ordered=ordered, methods=chosen,
        )  # fmt: skip
        if on_log is not None or on_step is not None:
            trainer.add_callback(log_callback(on_log, on_step))
        from infosteer.training.attach import attach

        session = attach(
            trainer, chosen, trust_structure=trust_structure, calibration=calibration, rows_transformed=True
        )
        started = time.monotonic()
        try:
            with compact_loss(settings.compact_loss):
                outcome = trainer.train(resume_from_checkpoint=last_checkpoint(output_dir))
            if settings.save_model:
                trainer.save_model(str(output_dir))
        except BaseException as error:
            if isinstance(error, NonFiniteLossError) and settings.save_model:
                _keep_last_good(trainer, output_dir)
            session.remove()
            if type(error).__name__ == "OutOfMemoryError":
                raise RunError(
                    "The GPU ran out of memory.",
                    where="train.per_device_train_batch_size",
                    got=settings.per_device_train_batch_size,
                    fix="halve it and double train.gradient_accumulation_steps, or set train.gradient_checkpointing",
                ) from error
            raise
        if trainer.accelerator.is_main_process:
            _drop_checkpoints(output_dir)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    _ready_for_evaluation(trained, settings)
    return Trained(
        model=trained,
        tokenizer=tokenizer,
        session=session,
        methods=chosen,
        steps=int(outcome.global_step),
        train_loss=float(outcome.training_loss),
        seconds=time.monotonic() - started,
        rows=rows,
        encoded=encoded,
        main_process=trainer.accelerator.is_main_process,
        wait=trainer.accelerator.wait_for_everyone,
    )


def _keep_last_good(trainer: Any, output_dir: Path) -> None:
    """Saves the weights that a loss which is not finite has not reached, unless an earlier update broke them."""
    if all(bool(parameter.isfinite().all()) for parameter in trainer.model.parameters()):
        trainer.save_model(str(output_dir / LAST_GOOD))


def _drop_checkpoints(output_dir: Path) -> None:
    for path in output_dir.glob("checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        output_dir.rmdir()  # only succeeds when no model was to be kept


def _ready_for_evaluation(model: Any, settings: TrainSettings) -> None:
    """Undo what training needs and generation does not: checkpointing, and a switched-off key-value cache."""
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_disable()
    model.config.use_cache = True
    model.eval()
