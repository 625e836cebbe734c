"""Rows of three tasks as they stand in files, a data folder of them, and where the real ones are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from infosteer.evaluation.tasks import expand, task_info
from infosteer.evaluation.tasks.facts import SUITE

DATA = Path(os.environ.get("INFOSTEER_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not (DATA / SUITE).is_dir(), reason=f"no data at {DATA}")
SUITE_TASKS = expand("all15")
BOOLQ = {
    "instruction": "Please answer the following question with true or false, question: is ice cold?\n\n"
    "Answer format: true/false",
    "input": "",
    "output": "the correct answer is true",
    "answer": "true",
}
OBQA = {
    "instruction": "Please choose the correct answer to the question: Fish live in\n\n"
    "Answer1: water Answer2: trees Answer3: sand Answer4: fire\n\nAnswer format: answer1/answer2/answer3/answer4",
    "input": "",
    "output": "the correct answer is answer1",
    "answer": "answer1",
}
GSM8K = {"instruction": "Two and two apples: how many?", "input": "", "output": "The answer is 4.", "answer": "4.0"}


def write(folder: Path, task: str, *rows: Any, split: str = "test") -> Path:
    """A data folder with rows of one task; a row may be text, as it would stand in a file."""
    file = folder / Path(task_info(task).local).name / f"{split}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def with_training(folder: Path) -> Path:
    """A data folder of sums: three test questions, eight to train on, two of which are asked in the test."""

    def row(number: int) -> dict[str, Any]:
        return GSM8K | {
            "instruction": f"{number} plus 1?",
            "answer": number + 1,
            "output": f"The answer is {number + 1}.",
        }

    write(folder, "gsm8k", *map(row, range(3)))
    write(folder, "gsm8k", *map(row, range(1, 9)), split="train")
    return folder
