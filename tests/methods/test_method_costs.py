"""The benchmark of all methods runs on any of them and counts what it says it counts."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = ["--hidden", "64", "--width", "64", "--layers", "1", "--tokens", "32", "--threads", "1", "--rounds", "3"]


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["methods.py", *TINY, "--memory-runs", "0", *options])
    runpy.run_path(str(BENCHMARKS / "methods.py"), run_name="__main__")


def test_methods_beside_the_plain_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run(monkeypatch, "--methods", "gr*", "--json", "--output", str(tmp_path / "new" / "costs.json"))
    found = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "new" / "costs.json").read_text()) == found
    assert set(found["time"]) == {"plain", "plain again", "params/grafting"}
    assert found["settings"]["params/grafting"]["method"] == "grafting"
    for row in found["time"].values():
        assert 0 < row["ratio_quartiles"][0] <= row["ratio_median"] <= row["ratio_quartiles"][1]
    assert found["time"]["params/grafting"]["finish_s"] > 0
    assert found["missing"] == found["memory"] == {}
    run(monkeypatch, "--methods", "noisy_labels")
    assert "for 1,000 rows" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(monkeypatch, "--methods", "no_such_method")
    assert "no_such_method" in capsys.readouterr().err
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["methods.py", *TINY, "--peak-of", "params/galore"])
    runpy.run_path(str(BENCHMARKS / "methods.py"), run_name="__main__")
    peak, held = map(int, capsys.readouterr().out.split())
    assert peak > 50_000
    monkeypatch.setattr(sys, "argv", ["methods.py", *TINY, "--peak-of", "plain"])
    runpy.run_path(str(BENCHMARKS / "methods.py"), run_name="__main__")
    assert held < int(capsys.readouterr().out.split()[1])
    assert torch.get_num_threads() == 1
