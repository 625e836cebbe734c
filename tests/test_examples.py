"""The examples run as people run them, and the own loop's loss does not depend on how rows are split."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
sys.path.insert(0, str(ROOT / "tests" / "experiments"))

from tiny import save_model, write_rows  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


def start(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs in ``folder``, away from the repository, on one thread and without a network."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"sft_trl.py", "accelerate_loop.py", "graft.py"}


def test_sft_trl(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "sft_trl.py"), "--model", str(model), "--max-steps", "5"]
    printed = start([*command, "--output", "out"], tmp_path).stdout
    logged = dict(line.split() for line in printed.splitlines() if line.startswith("infosteer/"))
    assert float(logged["infosteer/change"]) > 0
    assert float(logged["infosteer/penalty"]) == pytest.approx(-0.01 * 2 * float(logged["infosteer/entropy"]), rel=1e-3)
    sidecar = json.loads((tmp_path / "out" / "infosteer.json").read_text())
    assert "key_lift" in json.dumps(sidecar)
    trained, before = load_file(tmp_path / "out" / "model.safetensors"), load_file(model / "model.safetensors")
    assert trained.keys() == before.keys()
    assert all(torch.isfinite(value).all() for value in trained.values())
    assert any(not torch.equal(value, before[name]) for name, value in trained.items())


@pytest.mark.skipif(
    not (ROOT / "src" / "infosteer" / "lab" / "base" / "model.safetensors").is_file(),
    reason="this checkout lacks the embedded base model",
)
@pytest.mark.parametrize("example", ["sft_trl.py", "accelerate_loop.py"])
def test_without_arguments_the_embedded_base_is_trained(example: str, tmp_path: Path) -> None:
    printed = start([sys.executable, str(EXAMPLES / example), "--max-steps", "1"], tmp_path).stdout
    assert "infosteer/entropy" in printed
    assert (tmp_path / "runs" / example.removesuffix(".py") / "model.safetensors").is_file()


def run_loop(model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, micro: int) -> dict[str, torch.Tensor]:
    """Weights after four steps of the accelerate example in this process, which has torch loaded already."""
    from accelerate.state import AcceleratorState

    settings = ["--model", str(model), "--output", str(folder), "--max-steps", "4", "--dtype", "float64"]
    monkeypatch.setattr(sys, "argv", ["accelerate_loop.py", *settings, "--micro", str(micro)])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    runpy.run_path(str(EXAMPLES / "accelerate_loop.py"), run_name="__main__")
    return load_file(folder / "model.safetensors")


def largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def test_accelerate_loop_does_not_depend_on_the_micro_batch(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_loop(model, tmp_path / "whole", monkeypatch, micro=8)
    for micro in (4, 1):
        parts = run_loop(model, tmp_path / str(micro), monkeypatch, micro=micro)
        assert largest_difference(parts, whole) < 1e-6
    before = {name: value.double() for name, value in load_file(model / "model.safetensors").items()}
    assert largest_difference(whole, before) > 1e-4  # it did train

    # As a command, two processes or one: the tokens of all of them are counted.
    settings = ["--model", str(model), "--max-steps", "4", "--dtype", "float64", "--micro", "4", "--output", "out"]
    printed = start([sys.executable, str(EXAMPLES / "accelerate_loop.py"), *settings], tmp_path).stdout
    assert "step 4: task loss" in printed
    assert "infosteer/entropy" in printed
    assert largest_difference(load_file(tmp_path / "out" / "model.safetensors"), whole) < 1e-6


def test_graft(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tuned model that differs in its layers and in its head: few weights of the layers are taken, no others."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, tuned = load_file(model / "model.safetensors"), AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    tuned.save_pretrained(tmp_path / "tuned")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "tuned")
    rows = write_rows(tmp_path / "rows.jsonl")
    settings = ["--density", "0.05", "--epochs", "2", "--batch-size", "6", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["graft.py", str(model), str(tmp_path / "tuned"), str(rows), *settings])
    runpy.run_path(str(EXAMPLES / "graft.py"), run_name="__main__")
    assert "epoch 2: loss" in capsys.readouterr().out
    after, made = load_file(tmp_path / "tuned" / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    for name, value in made.items():
        taken = value != base[name]
        assert torch.equal(value[taken], after[name][taken])
        assert bool(taken.any()) <= ("layers." in name or name == "model.norm.weight"), name
    assert any(not torch.equal(value, base[name]) for name, value in made.items())


@pytest.mark.slow
def test_accelerate_loop_does_not_depend_on_the_number_of_processes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_loop(model, tmp_path / "whole", monkeypatch, micro=8)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    settings = ["--model", str(model), "--max-steps", "4", "--dtype", "float64", "--micro", "2", "--output", "out"]
    start([*launch, str(EXAMPLES / "accelerate_loop.py"), *settings], tmp_path)
    assert largest_difference(load_file(tmp_path / "out" / "model.safetensors"), whole) < 1e-6


def test_rows_of_the_loop_have_unequal_lengths() -> None:
    """Else a mean of means would pass unnoticed."""
    from infosteer.lab import load

    assert len({len(row["completion"]) for row in load("facts", limit=32)}) > 2
