"""What steering costs: the page says what was measured, and the benchmarks behind it run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.scripts import load_script

ROOT = Path(__file__).parents[1]
TINY = ["--hidden", "56", "--width", "96", "--tokens", "32", "--rounds", "2", "--json"]


def test_the_page_says_what_was_measured() -> None:
    module = load_script("render_costs")
    text = module.PAGE.read_text(encoding="utf-8")
    assert {match["name"] for match in module.PART.finditer(text)} == set(module.TABLES)
    assert module.render(text) == text, "run: python benchmarks/render_costs.py"


@pytest.mark.parametrize(
    ("script", "extra", "part"),
    [
        ("rivals", ["--memory-runs", "0", "--threads", "1"], "time"),
        ("overhead", ["--memory-runs", "0", "--threads", "1", "--vary", "layers=1,2"], "varied"),
        ("processes", ["--processes", "1"], "processes"),
    ],
)
def test_the_benchmarks_run(script: str, extra: list[str], part: str) -> None:
    """On a tiny model; what comes out is not looked at beyond its shape."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *TINY, *extra]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout[done.stdout.index("{") :])[part]
    flat = json.dumps(found)
    assert "both" in flat
    assert "NaN" not in flat
