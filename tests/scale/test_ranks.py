"""Engines in two processes; those that are not installed are skipped by name. ``make test-slow`` runs them."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "engines" / "checks.py"
pytestmark = pytest.mark.slow


def check(name: str, out: Path) -> dict[str, Any]:
    """What a check found, run by two processes on the CPU."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": "2"}
    shared |= {
        "OMP_NUM_THREADS": "1",
        "LOCAL_WORLD_SIZE": "2",
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), name, str(out)],
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    outputs = [process.communicate(timeout=400)[0] for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(output[-3000:] for output in outputs)
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "fsdp2-before"])
def test_two_processes(name: str, tmp_path: Path) -> None:
    found = check(name, tmp_path / "out.json")
    assert found["gradient"] < 1e-5
    assert found["identity"]
    assert found.get("protection", 0.0) < 1e-5


@pytest.mark.parametrize("name", ["zero-1", "zero-2", "zero-3"])
def test_deepspeed(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("pip install deepspeed")
    found = check(name, tmp_path / "out.json")
    assert found["gradient"] < 1e-5
    assert found["identity"]
