"""docs/evaluation.md: its commands run, its table is that of the committed results, its names are those of the code."""

from __future__ import annotations

import json
import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from tests.scripts import load_script

from infosteer.cli.main import main
from infosteer.evaluation.tasks import list_tasks, task_info
from infosteer.experiments.suite.results import SCORES
from infosteer.experiments.suite.settings import CHECK_ROWS

from .suite_inputs import write_data

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "evaluation.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines() if line.strip()
]


@pytest.fixture(scope="module")
def renderer() -> types.ModuleType:
    return load_script("render_eval")


def test_the_page_says_what_the_results_say(renderer: types.ModuleType) -> None:
    base, halved = (renderer.read(name) for name in ("eval-base", "eval-bfloat16"))
    assert renderer.render(TEXT, base, halved) == TEXT, "run python benchmarks/render_eval.py"
    for name, results in (("eval-base", base), ("eval-bfloat16", halved)):
        if results is not None:
            (command,) = [line for line in COMMANDS if line.endswith(f"runs/{name}")]
            assert results["evaluation"]["limit"] == int(re.findall(r"--limit (\d+)", command)[0])
            assert str(ROOT) not in json.dumps(results)


def test_the_base_knows_nothing_as_the_page_says(renderer: types.ModuleType) -> None:
    assert "no better than the\ncommonest answer alone" in TEXT
    for task in renderer.read("eval-base")["tasks"]:
        if task["group"] == "commonsense":
            assert task["measures"]["exact_match"]["beside_chance"] == "below"
        if task["chance"]:
            assert task["measures"]["option_accuracy"]["low"] <= task["majority"]
        if task["task"] == "aqua":
            assert task["measures"]["exact_match"]["mean"] > task["measures"]["strict_match"]["mean"] == 0


def test_rendering(renderer: types.ModuleType) -> None:
    score = {"mean": 0.25, "low": 0.2, "high": 0.3, "interval": "wilson", "beside_chance": "below"}
    results: dict[str, Any] = {
        "tasks": [{"arm": "m", "task": "boolq", "n": 4, "chance": 0.5, "majority": 0.75,
                   "measures": {"exact_match": score}, "failures": {"no_answer": 3}, "contamination": None}],
        "macro": [], "batch_effect": [], "environment": {"packages": {"torch": "1", "transformers": "2"}},
        "evaluation": dict.fromkeys(("engine", "dtype", "batch_size", "device", "shots", "seed"), 0),
    }  # fmt: skip
    page = "a\n<!-- eval-base:begin -->\nold\n<!-- eval-base:end -->\nb\n"
    full = renderer.render(page, results, None)
    assert "| boolq | 4 | 50.0 | 75.0 | 25.0 (20.0 to 30.0)- | - | - | - | 3 | - |" in full
    assert "old" not in full
    assert renderer.render(full, results, None) == full
    assert renderer.render(full, None, None).count("\n") == 4
    share = {"share": 0.5, "low": 0.25, "high": 0.75}
    results["evaluation"]["dtype"] = "bfloat16"
    results["batch_effect"] = [
        {
            "arm": "m",
            "batch_sizes": [1, 8],
            "rows": 4,
            "predictions": share,
            "verdicts": share,
            "options": None,
            "nll_largest": 0.02,
        }
    ]
    told = renderer.render("<!-- eval-bfloat16:begin -->\n<!-- eval-bfloat16:end -->", None, results)
    assert "bfloat16: changed between batch sizes 1 and 8, % of 4 rows: predicted texts 50.0 (25.0 to 75.0)" in told


def arguments_of(command: str, world: Path, out: Path) -> list[str]:
    """A command of the page with small data, a tiny model, and two rows of each task."""
    program, *words = shlex.split(command)
    assert program == "infosteer"
    for i, word in enumerate(words):
        if word.startswith("../shared/data/llm-adapters"):
            words[i] = word.replace("../shared/data/llm-adapters", str(world / "data"))
        elif word.startswith("runs/") and words[i - 1] == "--model":
            words[i] = str(world / word)
        elif words[i - 1] == "--output":
            words[i] = str(out)
        elif words[i - 1] == "--limit":
            words[i] = "2"
    if "--model" not in words:
        words += ["--model", f"embedded={world / 'runs/a/checkpoints/plain/seed-1'}"]
    if "--data" not in words:
        words += ["--data", str(world / "data")]
    if "--limit" not in words:
        words += ["--limit", "2"]
    return [*words, "--max-new-tokens", "2", "--device", "cpu"]


def write_all_tasks(data: Path) -> Path:
    """Three rows of every task of the suite, and training rows of one, in their layout and with their options."""
    write_data(data, boolq=3, gsm8k=3)
    for info in map(task_info, list_tasks("all15")):
        place = data / info.local.rpartition("/")[2]
        place.mkdir(exist_ok=True)
        kind = "boolq" if info.options else "gsm8k"
        rows = [json.loads(line) for line in (data / kind / "test.jsonl").read_text().splitlines()]
        if info.options and info.name != "boolq":
            count, letters = info.options[0], info.name == "aqua"
            names = ["ABCDE"[i] if letters else f"answer{i + 1}" for i in range(count)]
            for i, row in enumerate(rows):
                if letters:
                    ending = "Answer Choices: " + " ".join(f"({name}) {i} apples" for name in names)
                else:
                    listed = " ".join(f"{name[0].upper()}{name[1:]}: {i} apples" for name in names)
                    ending = f"{listed}\n\nAnswer format: {'/'.join(names)}"
                row |= {"instruction": f"What of {i}?\n\n{ending}", "answer": names[1]}
                row |= {"output": f"the correct answer is {names[1]}"}
        (place / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "gsm8k" / "train.jsonl").write_text((data / "gsm8k" / "test.jsonl").read_text())
    return data


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(
    command: str,
    tmp_path: Path,
    random_model: Any,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_all_tasks(tmp_path / "data")
    for arm in ("plain", "lift"):
        place = tmp_path / "runs" / "a" / "checkpoints" / arm / "seed-1"
        random_model.save_pretrained(place)
        tokenizer.save_pretrained(place)
    monkeypatch.setattr(sys, "argv", ["infosteer", *arguments_of(command, tmp_path, tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, capsys.readouterr().err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["tasks"]
    if "--against" in command:
        assert results["tasks"][0]["contamination"]["dirty"] == 2
    if command.count("--model") == 2:
        assert [row["arm"] for row in results["arms"]] == ["plain", "lift"]
        assert results["comparisons"]


def test_names_and_numbers_are_those_of_the_code() -> None:
    assert set(SCORES) <= set(re.findall(r"`(\w+)`", TEXT))
    assert f"the first {CHECK_ROWS} rows of each task" in TEXT
