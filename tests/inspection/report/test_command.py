"""``infosteer report``, and the report at the end of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

from made_up import make_run

from infosteer.cli.main import app
from infosteer.cli.report import write_report_of
from infosteer.errors import RunError


@pytest.fixture
def _no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take most of the time, and are beside the point in most of these tests."""
    monkeypatch.setattr("infosteer.inspection.report.charts.available", lambda: False)


def test_the_command_prints_where_the_page_lies(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=(1,), steps=3)
    page, figures = tmp_path / "elsewhere" / "page.html", tmp_path / "figures"
    done = CliRunner().invoke(app, ["report", str(run), "--output", str(page), "--figures", str(figures)])
    assert done.output.split() == [str(page), str(figures)]
    assert done.exit_code == 0, done.output
    assert page.is_file()
    assert (figures / "training.png").is_file()


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 1
    assert isinstance(done.exception, RunError)


@pytest.mark.usefixtures("_no_charts")
@pytest.mark.parametrize("json", [False, True])
def test_a_run_ends_with_its_report(json: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", seeds=(1,), steps=3)
    write_report_of(run, json=json)
    out, err = capsys.readouterr()
    assert (err if json else out) == f"report: {run / 'report.html'}\n"
    assert (out if json else err) == ""


@pytest.mark.usefixtures("_no_charts")
@pytest.mark.parametrize("damage", ["results.json", "inspection/tokens.json"])
def test_a_report_that_fails_does_not_fail_the_run(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", seeds=(1,), steps=3)
    (run / damage).write_text("{")
    write_report_of(run)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("The report was not written: ")
    assert damage in err


def test_a_surprise_does_not_fail_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def surprise(run: Path) -> Path:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr("infosteer.inspection.report.write_report", surprise)
    write_report_of(Path("nowhere"))
    assert capsys.readouterr().err == "The report was not written: surprise\n"
