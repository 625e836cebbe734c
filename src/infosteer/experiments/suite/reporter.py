"""What an evaluation tells while it goes on. The base class says nothing; the command line has one that prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class SuiteReporter:
    """Receives the events of an evaluation."""

    def started(self, *, path: Path, models: int, finished: int, tasks: int) -> None:
        """So many models meet so many tasks; some were finished before."""

    def note(self, text: str) -> None:
        """Something worth knowing that stops nothing."""

    def model_started(self, *, arm: str, seed: int) -> None:
        """One model begins, with its loading."""

    def progress(self, what: str, done: int, total: int) -> None:
        """So many rows of a part of a task are done."""

    def task_finished(self, *, arm: str, seed: int, task: str, facts: Mapping[str, Any]) -> None:
        """One task of one model is done: its number of rows, measures, failures and seconds."""

    def model_finished(self, *, arm: str, seed: int, seconds: float) -> None:
        """One model is done with all tasks."""

    def model_failed(self, *, arm: str, seed: int, error: Exception) -> None:
        """One model could not be evaluated; the others go on."""

    def close(self) -> None:
        """The evaluation is over, whatever way it ended."""
