"""Progress of a sweep: a line for every finished trial, under it a bar where a person watches a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infosteer.cli.console import make_console
from infosteer.experiments.sweep.reporter import Progress, SweepReporter

_METRICS = 4  # shown in a line


def make_sweep_reporter() -> SweepReporter:
    """Lines on stderr, with a bar below them on a terminal."""
    console = make_console(stderr=True)
    return SweepBar(console) if console.is_terminal else SweepLines(console)


class SweepLines(SweepReporter):
    """One line an event."""

    def __init__(self, console: Any) -> None:
        self.console = console

    def sweep_started(self, *, path: Path, total: int, done: int, workers: int, baseline: str) -> None:
        self._say(
            f"sweep in {path}: {total} trials, {done} done before; {workers} worker{'s' if workers > 1 else ''}; "
            f"baseline arm: {baseline}"
        )

    def note(self, text: str) -> None:
        self._say(f"note: {text}")

    def trial_done(self, *, what: str, outcome: Mapping[str, Any], progress: Progress) -> None:
        place = f"[{progress.done}/{progress.total}] {what}"
        if outcome["status"] == "failed":
            self._say(f"{place}: FAILED: {outcome['error'].splitlines()[0]}")
            return
        metrics = list(outcome["metrics"].items())[:_METRICS]
        shown = ", ".join(f"{name} {value:.3f}" for name, value in metrics)
        left = "" if progress.seconds_left is None else f"; about {duration(progress.seconds_left)} left"
        self._say(f"{place}: {outcome['ran']['seconds']:.0f} s; {shown}{left}")

    def chosen(self, *, arm: str, cell: str, score: float | None) -> None:
        self._say(f"chosen for {arm}: " + (f"{cell} ({score:.4f})" if score is not None else "nothing, trials failed"))

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


class SweepBar(SweepLines):
    """The same lines above a bar of all trials."""

    def __init__(self, console: Any) -> None:
        super().__init__(console)
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self.bar = Bar(
            TextColumn("all trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self.task: Any = None

    def sweep_started(self, *, path: Path, total: int, done: int, workers: int, baseline: str) -> None:
        super().sweep_started(path=path, total=total, done=done, workers=workers, baseline=baseline)
        self.bar.start()
        self.task = self.bar.add_task("", total=total, completed=done, left="")

    def trial_done(self, *, what: str, outcome: Mapping[str, Any], progress: Progress) -> None:
        super().trial_done(what=what, outcome=outcome, progress=progress)
        left = "" if progress.seconds_left is None else f"{duration(progress.seconds_left)} left"
        self.bar.update(self.task, total=progress.total, completed=progress.done, left=left)

    def close(self) -> None:
        self.bar.stop()


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
