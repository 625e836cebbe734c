"""Calling the command in this process, as its entry point does."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments"))  # for the tiny models

import tiny

from infosteer.cli.main import main

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def infosteer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Run ``infosteer ARGS``; gives exit code, stdout and stderr."""
    monkeypatch.setenv("INFOSTEER_DEBUG", "")
    logger = logging.getLogger("infosteer")
    level, handlers = logger.level, list(logger.handlers)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["infosteer", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as exit:
            code = int(exit.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield call
    logger.setLevel(level)
    logger.handlers = handlers


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and rows; read only."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny.recipe(folder)
    return folder
