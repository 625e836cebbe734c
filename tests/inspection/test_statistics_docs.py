"""The commands of docs/statistics.md run, on two made-up runs; docs/contamination.md is in step with the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from made_runs import make_run
from typer.testing import CliRunner

from infosteer.cli.main import app
from infosteer.evaluation.contamination import COMMON, COVER_N, DIRTY_SHARE, TOUCH_N, Contamination
from infosteer.evaluation.statistics import TESTS

DOCS = Path(__file__).resolve().parents[2] / "docs"
COMMANDS = re.findall(r"^\$ infosteer (.*)$", (DOCS / "statistics.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("statistics")
    for number, name in enumerate(("NAME", "OTHER")):
        make_run(folder / "runs" / name, number, sets=("new_people", "new_form", "recall"))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 0, result.output
    words = {"latex": "toprule", "bh": "mean of lab (2)", "comparison": "compare.tex"}
    for option, word in words.items():
        assert option not in command or word in result.output
    assert (folder / "comparison" / "compare.csv").is_file() or "comparison" not in command


def test_there_are_commands_and_every_test_is_explained() -> None:
    text = (DOCS / "statistics.md").read_text(encoding="utf-8")
    assert len(COMMANDS) >= 4
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) - {"test"} == {*TESTS, "wilson", "bootstrap"}


def test_contamination_page_names_counts_and_thresholds() -> None:
    text = (DOCS / "contamination.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| \**`(\w+)`\** \|", text, re.MULTILINE))
    assert named <= set(Contamination.__slots__)
    assert named == {"exact", "normalised", "with_answer", "touched", "covered", "dirty"}
    for words in (
        f"{TOUCH_N}-gram",
        f"{DIRTY_SHARE:.0%}".replace("%", " %"),
        f"{COVER_N}-gram",
        f"more than {COMMON} ",
    ):
        assert words in text
