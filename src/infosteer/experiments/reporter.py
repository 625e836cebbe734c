"""What a run tells while it goes on. The base class says nothing; the command line has one that prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Reporter:
    """Receives the events of a run, on the main process only."""

    def run_started(self, *, path: Path, trainings: int, finished: int, baseline: str) -> None:
        """A run of so many trainings (arms x seeds) begins; some were finished before."""

    def note(self, text: str) -> None:
        """Something worth knowing that stops nothing."""

    def training_started(self, *, arm: str, seed: int) -> None:
        """One arm and seed begins, with the loading of the model."""

    def steps(self, *, done: int, total: int) -> None:
        """Optimiser steps of the present training."""

    def logged(self, *, arm: str, seed: int, line: Mapping[str, Any]) -> None:
        """A log line of the trainer."""

    def evaluating(self, *, what: str, done: int, total: int) -> None:
        """So many examples of a part of the evaluation are done."""

    def training_finished(self, *, arm: str, seed: int, metrics: Mapping[str, float], seconds: float) -> None:
        """One arm and seed is done and saved."""

    def training_failed(self, *, arm: str, seed: int, error: Exception) -> None:
        """One arm and seed failed; the others go on."""

    def close(self) -> None:
        """The run is over, whatever way it ended."""
