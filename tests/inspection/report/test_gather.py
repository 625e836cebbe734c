"""From the folder to the page: what is torn, damaged, missing or large."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import random

from made_up import made_memories, made_tokens, make_run
from pages import parse

from infosteer.errors import RunError
from infosteer.inspection import data
from infosteer.inspection.report import write_report
from infosteer.inspection.report.gather import curves, gather, training_lines

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def _no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take most of the time, and are beside the point in most of these tests."""
    monkeypatch.setattr("infosteer.inspection.report.charts.available", lambda: False)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run"):
        write_report(tmp_path / "absent")
    with pytest.raises(RunError, match="not a run's folder"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_no_charts")
def test_torn_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=(1,), steps=3)
    whole = len(gather(run).log)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'[1, 2]\n"text"\n\xff\xfe\n{"event": "train", "arm": "plain", "seed": 1, "step": 40, "lo')
    found = gather(run)
    assert (len(found.log), found.skipped_lines) == (whole, 4)
    text = parse(write_report(run).read_text()).one("section", id="training").text()
    assert "4 unreadable lines of metrics.jsonl were skipped" in text


@pytest.mark.usefixtures("_no_charts")
def test_log_lines_of_any_shape(tmp_path: Path) -> None:
    lines = [
        {"event": "train", "arm": "plain", "seed": 1, "step": 1, "loss": "nan"},
        {"event": "train", "arm": "plain", "seed": 1, "step": 2, "loss": 2.0},
        {"event": "train", "arm": "plain", "seed": 1, "step": None, "loss": 2.0},
        {"event": "train", "arm": ["plain"], "seed": 1, "step": 3, "loss": 2.0},
        {"event": "train", "arm": "plain", "seed": True, "step": 3, "loss": 2.0},
        {"event": "train", "arm": "plain", "seed": 1, "step": 3, "loss": True},
        {"event": "evaluate", "arm": "plain", "seed": 1, "step": 3, "loss": 9.0},
        {"event": "train", "arm": "plain", "seed": 2, "step": 2, "loss": 10**400},
        {},
    ]
    assert curves(training_lines(lines), "loss") == {"plain": {1: [(2.0, 2.0)]}}
    run = make_run(tmp_path / "run", seeds=(1,), steps=2)
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines[:-2])
    write_report(run)


def test_probes_that_logged_are_shown_without_inspection_files(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=(1,), steps=2)
    for file in (run / "inspection").iterdir():
        file.unlink()
    with (run / "metrics.jsonl").open("w") as log:
        for step, shift in ((10, 0.0), (20, 0.125)):
            line = {
                "event": "train", "arm": "plain", "seed": 1, "step": step, "loss": 1.0,
                "infosteer/region_shift/low": 0.25 - shift, "infosteer/region_shift/middle": 0.5,
                "infosteer/region_shift/high": 0.25 + shift, "infosteer/region_shift/high/layer_0": 0.9,
                "infosteer/geometry/rankme/layer_3": 7.0, "infosteer/geometry/rankme": 40.0 + step,
                "infosteer/information_flux": 5.0,
            }  # fmt: skip
            log.write(json.dumps(line) + "\n")
    page = parse(write_report(run).read_text())
    regions, geometry, training = (page.one("section", id=name) for name in ("regions", "geometry", "training"))
    cells = [cell.text() for cell in regions.one("tbody").all("td")]
    assert cells == ["0.25 \u2192 0.125", "0.5", "0.25 \u2192 0.375"]
    heads = [cell.text() for cell in geometry.one("thead").all("th")]
    assert heads == ["arm", "rankme", "rankme, layer 3"], "the last hidden state first"
    assert [cell.text() for cell in geometry.one("tbody").all("td")] == ["50 \u2192 60", "7"]
    heads = [cell.text() for cell in training.one("thead").all("th")]
    assert heads == ["arm", "loss, penalty included", "information_flux"], "the others have sections"
    assert regions.all("svg")
    assert geometry.all("svg")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"schema": 2}, "schema 1"),
        ({"summary": {}}, "summary"),
        ({"summary": [1]}, r"summary\[0\]"),
        ({"comparisons": [{"arm": "a"}]}, r"comparisons\[0\].baseline"),
        ({"arms": [{"arm": "a", "seed": "1", "metrics": {}}]}, r"arms\[0\].seed"),
        ({"summary": [{"arm": "a", "metric": "m", "mean": None, "low": 0, "high": 0, "n": 1}]}, r"summary\[0\].mean"),
        ({"notes": "x"}, "notes"),
    ],
)
def test_damaged_results_are_named(change: dict[str, Any], key: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=(1,), steps=2)
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, **change}))
    with pytest.raises(RunError, match=key) as caught:
        write_report(run)
    assert "results.json" in str(caught.value)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["results.json", "recipe.yaml", "inspection/tokens.json", "inspection/memories.json"])
def test_cut_off_files_are_named(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=(1,), steps=2)
    whole = (run / name).read_bytes()
    (run / name).write_bytes(whole[: len(whole) // 2] if name.endswith("json") else b"arms: [")
    with pytest.raises(RunError, match=Path(name).name):
        write_report(run)


@pytest.mark.usefixtures("_no_charts")
def test_an_outcome_that_cannot_be_read_is_named_in_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=(1,), steps=2)
    (run / "outcomes" / "plain" / "seed-1.json").write_text('{"arm"')
    text = parse(write_report(run).read_text()).one("section", id="settings").text()
    assert f"not readable: outcomes{os.sep}plain{os.sep}seed-1.json" in text


@pytest.mark.usefixtures("_no_charts")
def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=(1,), steps=2)
    with pytest.raises(RunError, match="cannot be written"):
        write_report(run, run / "recipe.yaml" / "report.html")
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        write_report(run, tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert write_report(run, tmp_path / "new" / "page.html").is_file()


def test_no_torch_is_needed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=(1,), steps=2)
    code = (
        "import sys; from pathlib import Path; from infosteer.inspection.report import write_report;"
        f"write_report(Path({str(run)!r})); assert not {{'torch', 'transformers', 'pandas'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fifty_megabytes_report_in_thirty_seconds(tmp_path: Path) -> None:
    """And in a page of at most 5 MB that says what it left out."""
    run = make_run(tmp_path / "run", seeds=(1, 2), steps=30)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    with (run / "metrics.jsonl").open("w") as file:  # step 30 becomes 130, 230, ...
        file.writelines(line.replace('"step": ', f'"step": {turn}') for turn in range(1, 230) for line in lines)
    rng = random.Random(0)
    data.write(run, made_tokens(rng, layers=24, texts=12, length=500))
    data.write(run, made_memories(rng, layers=24, count=1000, width=1000))
    outcome = json.loads((run / "outcomes" / "plain" / "seed-1.json").read_text())
    outcome["examples"] = {"recall": {"exact_match": [0.0] * 1_000_000}}
    (run / "outcomes" / "plain" / "seed-1.json").write_text(json.dumps(outcome))
    size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    assert size >= 50e6, size
    began, busy = time.perf_counter(), time.process_time()
    path = write_report(run)
    spent = min(time.perf_counter() - began, time.process_time() - busy)  # other tests share the machine
    assert spent < 30, f"{spent:.1f} s"
    assert path.stat().st_size <= 5_000_000
    page = parse(path.read_text())
    assert "texts are left out" in page.one("section", id="tokens").text()
    assert "texts are cut, after 400 tokens" in page.one("section", id="tokens").text()
    assert "most specific of 24,000 memories" in page.one("section", id="memories").text()


def test_a_sweep_makes_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=(1,), steps=2)
    (run / "metrics.jsonl").unlink()
    with (run / "recipe.yaml").open("a") as recipe:
        recipe.write("sweep: {grid: {x: [1, 2]}}\n")
    results = json.loads((run / "results.json").read_text())
    for i, row in enumerate(results["comparisons"]):
        row["baseline"] = f"plain {i % 2}"
    results["sweep"] = {"missing": []}
    (run / "results.json").write_text(json.dumps(results))
    page = parse(write_report(run).read_text())
    assert "infosteer report SWEEP/trials/HASH" in page.one("section", id="training").text()
    assert "infosteer sweep " in page.one("section", id="reproduce").text()
    assert "difference from its baseline" in page.one("section", id="results").text()
    assert "None" not in page.one("main").text()


def test_published_results_make_a_page(tmp_path: Path) -> None:
    """The committed studies hold a recipe and results only."""
    study = ROOT / "docs" / "evidence" / "demo"
    tree = parse(write_report(study, tmp_path / "demo.html").read_text())
    assert tree.one("section", id="results").all("svg")
    assert "contamination is not known" in tree.one("section", id="settings").text()
    assert sorted(path.name for path in study.iterdir()) == ["recipe.yaml", "results.json"]
