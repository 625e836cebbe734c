"""Where the time of a whole ``infosteer run`` goes, from the start of Python to the report.

    python benchmarks/profile_run.py [RECIPE] [key=value ...] [--json FILE]

Runs the recipe (by default the demo with one seed) in this process, in a folder of its own, and gives every phase the
wall time that was spent in it and in no phase inside it. ``start-up`` is what the command loads before it knows what to
run; ``rest`` is what no phase claims.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Phase -> where its functions are looked up: module, then the attribute's path.
PHASES = {
    "imports of torch, transformers, TRL": [],
    "reading rows and sets": [
        ("infosteer.experiments.bench", "training_rows"),
        ("infosteer.experiments.bench", "load_sets"),
    ],
    "checking methods": [("infosteer.experiments.bench", "check_methods")],
    "loading the model": [("infosteer.training.trainer", "load_model"), ("infosteer.training.sft", "load_tokenizer")],
    "tokenising": [("infosteer.training.sft", "encode_rows")],
    "training": [("transformers", "Trainer.train")],
    "training: forward and loss": [("trl", "SFTTrainer.compute_loss")],
    "training: backward": [("accelerate", "Accelerator.backward")],
    "training: optimizer": [("accelerate.optimizer", "AcceleratedOptimizer.step")],
    "decoding answers": [("infosteer.evaluation.decode", "decode_ids")],
    "evaluating, all else": [("infosteer.experiments.bench", "evaluate_sets")],
    "contamination": [("infosteer.experiments.bench", "check_rows")],
    "results": [("infosteer.experiments.run", "write_results")],
    "report": [("infosteer.cli.report", "write_report_of")],
}


class Clock:
    """Wall seconds by phase; a phase stops while one inside it runs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = ["rest"]
        self._since = time.perf_counter()

    def switch(self, phase: str | None) -> None:
        """Begin a phase, or with None end the innermost."""
        now = time.perf_counter()
        self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now
        if phase is None:
            self._open.pop()
        else:
            self._open.append(phase)

    def wrap(self, owner: Any, name: str, phase: str) -> None:
        """Let a function of a module or class count as a phase."""
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.switch(phase)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch(None)

        setattr(owner, name, timed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="demo")
    parser.add_argument("overrides", nargs="*", help="key=value, as in infosteer run")
    parser.add_argument("--json", type=Path, help="also write the seconds to this file")
    options = parser.parse_args()
    overrides = options.overrides or (["seeds=[71]", "evaluate_base=false"] if options.recipe == "demo" else [])

    clock = Clock()
    clock.switch("start-up")
    from infosteer.experiments.run import run

    clock.switch(None)
    clock.switch("imports of torch, transformers, TRL")
    import torch

    import infosteer.experiments.bench
    import infosteer.training.sft  # noqa: F401

    clock.switch(None)
    for phase, places in PHASES.items():
        for module, path in places:
            owner: Any = importlib.import_module(module)
            *inner, name = path.split(".")
            for part in inner:
                owner = getattr(owner, part)
            clock.wrap(owner, name, phase)
    from infosteer.cli import report

    with tempfile.TemporaryDirectory() as folder:
        report.write_report_of(run(options.recipe, Path(folder) / "run", overrides=overrides), json=True)
    clock.switch("end")
    seconds = {phase: value for phase, value in clock.seconds.items() if phase != "end"}
    total = sum(seconds.values())
    for phase, value in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"{phase:<40}{value:>9.2f} s{value / total:>8.1%}")
    print(f"{'all':<40}{total:>9.2f} s")
    if options.json:
        result = {
            "command": " ".join(["python benchmarks/profile_run.py", options.recipe, *overrides]),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "seconds": seconds,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
