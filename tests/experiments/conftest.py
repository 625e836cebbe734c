"""A tiny run shared by tests that only read one."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from infosteer.experiments.run import run


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and rows; read only."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny.recipe(folder)
    return folder


@pytest.fixture(scope="session")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of the tiny recipe; read only."""
    return run(tiny.recipe(inputs), tmp_path_factory.mktemp("runs") / "finished")
