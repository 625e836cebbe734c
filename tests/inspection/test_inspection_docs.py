"""The commands of docs/inspection.md run, on the embedded model and on a tiny run."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments"))

import tiny

from infosteer.cli.main import app

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "inspection.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ infosteer (.*)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a finished run, as the page takes for granted."""
    from infosteer.experiments.run import run

    folder = tmp_path_factory.mktemp("tour")
    run(tiny.recipe(folder, train={"save_model": True}, seeds=[1, 2]), folder / "runs" / "NAME")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 0, result.output
    assert result.output.strip()
    if "--output" in command:
        assert (folder / "flux.html").is_file()
    if "runs/NAME" in command:
        assert (folder / "runs" / "NAME" / "inspection" / "regions.json").is_file()


def test_there_are_commands_and_the_memory_of_the_tour_says_what_it_should() -> None:
    assert len(COMMANDS) >= 8
    found = CliRunner().invoke(app, ["memory", "embedded", "--layer", "5", "--index", "338"])
    assert "baker" in found.output
