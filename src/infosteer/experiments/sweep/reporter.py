"""What a sweep tells while it goes on. The base class says nothing; the command line has one that prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a sweep is.

    Attributes:
        done, total: trials, failed ones included; the total is an estimate until the cells are chosen.
        seconds_left: expected time to the end; None before a trial was timed.
    """

    done: int
    total: int
    seconds_left: float | None


class SweepReporter:
    """Receives the events of a sweep, in the process that was started by hand."""

    def sweep_started(self, *, path: Path, total: int, done: int, workers: int, baseline: str) -> None:
        """A sweep of so many different trials begins; some were done before."""

    def note(self, text: str) -> None:
        """Something worth knowing that stops nothing."""

    def trial_done(self, *, what: str, outcome: Mapping[str, Any], progress: Progress) -> None:
        """A trial has an outcome, by whichever process."""

    def chosen(self, *, arm: str, cell: str, score: float | None) -> None:
        """Tuning is done and this is an arm's best cell; without a score, all its trials failed."""

    def close(self) -> None:
        """The sweep is over, whatever way it ended."""
