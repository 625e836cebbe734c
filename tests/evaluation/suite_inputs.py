"""What tests of ``infosteer eval`` ask for: a data folder of two tasks, settings, and a reporter that remembers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from infosteer.experiments.suite.reporter import SuiteReporter
from infosteer.experiments.suite.settings import SuiteSettings

TRUE_FALSE = "Please answer the following question with true or false, question: {}?\n\nAnswer format: true/false"


def write_data(folder: Path, *, boolq: int = 11, gsm8k: int = 9) -> Path:
    """Rows in the suite's layout; question lengths differ, so that padding matters."""
    rows: dict[str, list[dict[str, Any]]] = {
        "boolq": [
            {"instruction": TRUE_FALSE.format("is it " + "very " * (i % 4) + f"wet on day {i}"), "answer": answer}
            for i in range(boolq)
            for answer in ["false" if i % 3 else "true"]
        ],
        "gsm8k": [
            {"instruction": f"Ann has {i} songs and sings {i + 2} more. How many are sung?", "answer": f"{2 * i + 2}.0"}
            for i in range(gsm8k)
        ],
    }
    for name, some in rows.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        full = [{"input": "", "output": f"the correct answer is {row['answer']}", **row} for row in some]
        (place / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in full))
    return folder


def asked(world: Path, **changes: Any) -> SuiteSettings:
    """Two tasks and the rows that the small model was taught, on the model and the data of ``world``."""
    settings: dict[str, Any] = {
        "models": (str(world / "model"),),
        "tasks": ("boolq", "gsm8k", f"{world / 'taught.jsonl'}"),
        "data": str(world / "data"),
        "batch_size": 2,
        "max_new_tokens": 6,
        "device": "cpu",
    }
    return SuiteSettings(**{**settings, **changes})


class Told(SuiteReporter):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done: list[tuple[str, int, str]] = []
        self.counts: list[tuple[str, int, int]] = []
        self.begun: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def model_started(self, *, arm: str, seed: int) -> None:
        self.begun.append(arm)

    def progress(self, what: str, done: int, total: int) -> None:
        self.counts.append((what, done, total))

    def task_finished(self, *, arm: str, seed: int, task: str, facts: Any) -> None:
        self.done.append((arm, seed, task))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]
