"""What a run hangs into the trainer: log lines for the caller, and checkpoints that say when they are whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

LogLine = Callable[[dict[str, Any]], None]
_WHOLE = "whole"  # file that marks a trainer checkpoint as completely written


def last_checkpoint(output_dir: Path) -> str | None:
    """The newest trainer checkpoint that was written to its end, or None."""
    whole = [path for path in output_dir.glob("checkpoint-*") if (path / _WHOLE).is_file()]
    newest = max(whole, key=checkpoint_step, default=None)
    return None if newest is None else str(newest)


def checkpoint_step(path: str | Path | None) -> int:
    """The optimiser step of a trainer checkpoint; 0 for None."""
    return int(Path(path).name.rpartition("-")[2]) if path else 0


def log_callback(on_log: LogLine | None, on_step: Callable[[int, int], None] | None) -> Any:
    from transformers import TrainerCallback

    class LogCallback(TrainerCallback):
        """Hands the trainer's log lines to the caller instead of printing them."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if on_step is not None and state.is_world_process_zero:
                on_step(int(state.global_step), int(state.max_steps))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if on_step is not None and state.is_world_process_zero:
                on_step(int(state.global_step), int(state.max_steps))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if on_log is not None and logs and state.is_world_process_zero:
                on_log({"step": int(state.global_step), **logs})

    return LogCallback()


def checkpoint_callback() -> Any:
    from transformers import TrainerCallback

    class CheckpointCallback(TrainerCallback):
        """Marks a checkpoint as whole once everything in it has been written."""

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _WHOLE).touch()

    return CheckpointCallback()
