"""kill -9 in the middle of a task: whole batches are kept, and the rest comes out with the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from infosteer.experiments.suite.run import run_suite
from infosteer.experiments.suite.settings import SuiteSettings

from .suite_inputs import read_json, read_lines, write_data

# Evaluates and kills itself in the fifth batch of the second task's decoding.
SUICIDE = """
import json, os, signal, sys
from infosteer.experiments.suite.reporter import SuiteReporter
from infosteer.experiments.suite.run import run_suite
from infosteer.experiments.suite.settings import SuiteSettings

class Killer(SuiteReporter):
    def progress(self, what, done, total):
        if what == "gsm8k: decoding" and done == 10:
            os.kill(os.getpid(), signal.SIGKILL)

run_suite(SuiteSettings(**json.loads(sys.argv[1])), sys.argv[2], reporter=Killer())
"""


def test_killed_in_the_middle_of_a_task(tmp_path: Path, taught_model: Any, tokenizer: Any) -> None:
    taught_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_data(tmp_path / "data", boolq=6, gsm8k=14)
    settings: dict[str, Any] = {
        "models": [str(tmp_path / "model")],
        "tasks": ["boolq", "gsm8k"],
        "data": str(tmp_path / "data"),
        "batch_size": 2,
        "max_new_tokens": 8,
        "device": "cpu",
    }
    whole = run_suite(SuiteSettings(**settings), tmp_path / "whole")
    path = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", SUICIDE, json.dumps(settings), str(path)], env=environment, timeout=300
    )
    assert done.returncode == -signal.SIGKILL
    assert not (path / "outcomes").exists()
    assert (path / "predictions" / "model" / "seed-0" / "boolq.jsonl").is_file(), "a finished task can be read"
    (cache,) = (path / "cache").iterdir()
    # options and answers of boolq in three batches each, options of gsm8k in seven, its answers in four of seven
    assert [len(line) for line in read_lines(cache)] == [2] * (3 + 3 + 7 + 4)
    with cache.open("ab") as file:
        file.write(b'{"torn": {"text": "by the ki')
    run_suite(SuiteSettings(**settings), path)
    assert len(read_lines_but_torn(cache)) == 3 + 3 + 7 + 7, "three batches were left, and nothing was asked twice"
    for file in sorted([*(whole / "outcomes").rglob("*.json"), *(whole / "predictions").rglob("*.jsonl")]):
        assert (path / file.relative_to(whole)).read_bytes() == file.read_bytes(), file
    assert read_json(path / "results.json") == read_json(whole / "results.json")


def read_lines_but_torn(path: Path) -> list[Any]:
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            assert line.startswith('{"torn"')
    return found
