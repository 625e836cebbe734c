"""A made-up data folder in the layout of the suite, a few rows a task. Not a test module."""

from __future__ import annotations

import json
from pathlib import Path

CHOICES = {  # folder -> the options' words
    "boolq": ["true", "false"],
    "piqa": ["solution1", "solution2"],
    "social_i_qa": ["answer1", "answer2", "answer3"],
    "winogrande": ["option1", "option2"],
    "ARC-Easy": ["answer1", "answer2", "answer3", "answer4"],
    "ARC-Challenge": ["answer1", "answer2", "answer3", "answer4"],
    "openbookqa": ["answer1", "answer2", "answer3", "answer4"],
    "hellaswag": ["ending1", "ending2", "ending3", "ending4"],
}
NUMBERS = ["gsm8k", "AddSub", "mawps", "MultiArith", "SingleEq", "SVAMP"]
UNTRAINED = ("hellaswag", "AddSub", "MultiArith", "SingleEq", "SVAMP")  # test rows only, as at hand


def make(folder: Path, *, train: int = 12, test: int = 6) -> Path:
    """The folder, to be named by INFOSTEER_DATA."""
    suite = folder / "llm-adapters"
    for name in [*CHOICES, *NUMBERS]:
        (suite / name).mkdir(parents=True)
        for split, count in (("train", train), ("test", test)):
            if split == "test" or name not in UNTRAINED:
                rows = [_row(name, split, index) for index in range(count)]
                (suite / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _row(name: str, split: str, index: int) -> dict[str, str]:
    if name in NUMBERS:
        asked = f"{split} problem {index}: a box holds {index} balls and gets {index + 1} more. How many are there?"
        answer = str(2 * index + 1)
        worked = f"There are {index} + {index + 1} = {answer} balls. The answer is {answer}"
        return {
            "instruction": asked,
            "input": "",
            "output": worked if split == "train" else "",
            "answer": f"{answer}.0",
        }
    options = CHOICES[name]
    answer = options[index % len(options)]
    listed = " ".join(f"{option.capitalize()}: thing {k}" for k, option in enumerate(options))
    if name == "boolq":
        listed = ""
    asked = f"{split} question {index} of {name}?\n\n{listed}\n\nAnswer format: {'/'.join(options)}"
    return {"instruction": asked, "input": "", "output": f"the correct answer is {answer}", "answer": answer}
