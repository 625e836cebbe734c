"""Progress of an evaluation: bars on a terminal, plain lines otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infosteer.cli.console import make_console
from infosteer.experiments.suite.reporter import SuiteReporter

_SHOWN = ("exact_match", "option_accuracy")


def make_suite_reporter() -> SuiteReporter:
    """Bars where a person watches a terminal, lines in files, pipes and logs."""
    console = make_console(stderr=True)
    return SuiteBars(console) if console.is_terminal else SuiteLines(console)


class SuiteLines(SuiteReporter):
    """One line a task, and one about every quarter of a long part."""

    def __init__(self, console: Any) -> None:
        self.console = console
        self.models = self.number = self.tasks = self.task = 0
        self._what, self._quarter = "", 0

    def started(self, *, path: Path, models: int, finished: int, tasks: int) -> None:
        self.models, self.number, self.tasks = models, finished, tasks
        self._say(f"evaluation in {path}: {models} models, {finished} finished before; {tasks} tasks")

    def note(self, text: str) -> None:
        self._say(f"note: {text}")

    def model_started(self, *, arm: str, seed: int) -> None:
        self.number, self.task = self.number + 1, 0
        self._say(f"[{self.number}/{self.models}] {_named(arm, seed)}")

    def progress(self, what: str, done: int, total: int) -> None:
        quarter = 4 * done // max(total, 1)
        if what != self._what:
            self._what, self._quarter = what, 0
        if total >= 1000 and self._quarter < quarter < 4:
            self._quarter = quarter
            self._say(f"    {what}: {done}/{total}")

    def task_finished(self, *, arm: str, seed: int, task: str, facts: Mapping[str, Any]) -> None:
        self.task += 1
        self._say(f"  [{self.task}/{self.tasks}] {task}: {_short(facts)}")

    def model_finished(self, *, arm: str, seed: int, seconds: float) -> None:
        self._say(f"  done in {seconds:.0f} s")

    def model_failed(self, *, arm: str, seed: int, error: Exception) -> None:
        self._say(f"  FAILED: {error}")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


class SuiteBars(SuiteLines):
    """A bar for the present part of a task under a bar for the model's tasks, with a line for whatever is done."""

    def __init__(self, console: Any) -> None:
        super().__init__(console)
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.whole: Any = None
        self.part: Any = None

    def started(self, *, path: Path, models: int, finished: int, tasks: int) -> None:
        super().started(path=path, models=models, finished=finished, tasks=tasks)
        self.bars.start()

    def model_started(self, *, arm: str, seed: int) -> None:
        super().model_started(arm=arm, seed=seed)
        self._drop()
        self.whole = self.bars.add_task(f"{_named(arm, seed)}: tasks", total=self.tasks)
        self.part = self.bars.add_task("loading", total=None)

    def progress(self, what: str, done: int, total: int) -> None:
        if self.part is not None:
            self.bars.update(self.part, description=what, completed=done, total=total)

    def task_finished(self, *, arm: str, seed: int, task: str, facts: Mapping[str, Any]) -> None:
        super().task_finished(arm=arm, seed=seed, task=task, facts=facts)
        self.bars.advance(self.whole)

    def model_finished(self, *, arm: str, seed: int, seconds: float) -> None:
        self._drop()
        super().model_finished(arm=arm, seed=seed, seconds=seconds)

    def model_failed(self, *, arm: str, seed: int, error: Exception) -> None:
        self._drop()
        super().model_failed(arm=arm, seed=seed, error=error)

    def close(self) -> None:
        self.bars.stop()

    def _drop(self) -> None:
        for bar in (self.whole, self.part):
            if bar is not None:
                self.bars.remove_task(bar)
        self.whole = self.part = None


def _named(arm: str, seed: int) -> str:
    return arm if seed == 0 else f"{arm}, seed {seed}"


def _short(facts: Mapping[str, Any]) -> str:
    shown = {m: v for m, v in facts["measures"].items() if m in _SHOWN} or dict(list(facts["measures"].items())[:2])
    told = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
    return f"{facts['n']} rows, {told}; {facts['seconds']:.0f} s"
