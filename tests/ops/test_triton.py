"""The Triton kernels: their cases are in ``triton_cases/``, here they are started in the interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels need triton (pip install 'infosteer[kernels]')")

ROOT = Path(__file__).resolve().parents[2]


def run_cases(marker: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", marker]
    quiet = ["-W", "ignore::RuntimeWarning"]  # of NumPy, which the interpreter computes with
    named = ["-o", "python_files=*_cases.py", str(ROOT / "tests" / "ops" / "triton_cases")]
    done = subprocess.run([*command, *quiet, *named], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


def test_kernels_in_the_interpreter() -> None:
    run_cases("not slow")


@pytest.mark.slow
def test_kernels_in_the_interpreter_all() -> None:
    run_cases("slow")
