"""Progress of a run: bars on a terminal, plain lines otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infosteer.cli.console import make_console
from infosteer.experiments.reporter import Reporter


def make_reporter() -> Reporter:
    """Bars where a person watches a terminal, lines in files, pipes and logs."""
    console = make_console(stderr=True)
    return BarReporter(console) if console.is_terminal else LineReporter(console)


class LineReporter(Reporter):
    """One line an event, and one about every quarter of a training."""

    def __init__(self, console: Any) -> None:
        self.console = console
        self.trainings = self.number = 0
        self._quarter = 0

    def run_started(self, *, path: Path, trainings: int, finished: int, baseline: str) -> None:
        self.trainings, self.number = trainings, finished
        self._say(f"run in {path}: {trainings} trainings, {finished} finished before; baseline arm: {baseline}")

    def note(self, text: str) -> None:
        self._say(f"note: {text}")

    def training_started(self, *, arm: str, seed: int) -> None:
        self.number += 1
        self._quarter = 0
        self._say(f"[{self.number}/{self.trainings}] {arm}, seed {seed}: training")

    def steps(self, *, done: int, total: int) -> None:
        quarter = 4 * done // max(total, 1)
        if self._quarter < quarter < 4:
            self._quarter = quarter
            self._say(f"  step {done}/{total}")

    def training_finished(self, *, arm: str, seed: int, metrics: Mapping[str, float], seconds: float) -> None:
        self._say(f"  done in {seconds:.0f} s; {_short(metrics)}")

    def training_failed(self, *, arm: str, seed: int, error: Exception) -> None:
        self._say(f"  FAILED: {error}")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


class BarReporter(LineReporter):
    """A bar for the present training under a bar for the run, with a line for whatever is done."""

    def __init__(self, console: Any) -> None:
        super().__init__(console)
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[info]}"),
            console=console,
            transient=True,
        )
        self.whole: Any = None
        self.part: Any = None

    def run_started(self, *, path: Path, trainings: int, finished: int, baseline: str) -> None:
        super().run_started(path=path, trainings=trainings, finished=finished, baseline=baseline)
        self.progress.start()
        self.whole = self.progress.add_task("all trainings", total=trainings, completed=finished, info="")

    def training_started(self, *, arm: str, seed: int) -> None:
        self.number += 1
        self._drop_part()
        self.part = self.progress.add_task(f"{arm}, seed {seed}", total=None, info="loading")

    def steps(self, *, done: int, total: int) -> None:
        if self.part is not None:
            self.progress.update(self.part, completed=done, total=total)

    def logged(self, *, arm: str, seed: int, line: Mapping[str, Any]) -> None:
        if self.part is not None and "loss" in line:
            self.progress.update(self.part, info=f"loss {float(line['loss']):.3f}")

    def evaluating(self, *, what: str, done: int, total: int) -> None:
        if self.part is not None:
            self.progress.update(self.part, info=f"{what} {done}/{total}")

    def training_finished(self, *, arm: str, seed: int, metrics: Mapping[str, float], seconds: float) -> None:
        self._drop_part()
        self.progress.advance(self.whole)
        self._say(f"{arm}, seed {seed}: {seconds:.0f} s; {_short(metrics)}")

    def training_failed(self, *, arm: str, seed: int, error: Exception) -> None:
        self._drop_part()
        self._say(f"{arm}, seed {seed} FAILED: {error}")

    def close(self) -> None:
        self.progress.stop()

    def _drop_part(self) -> None:
        if self.part is not None:
            self.progress.remove_task(self.part)
            self.part = None


def _short(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
