"""What steering costs in a training step, in time and in peak memory, beside the plain trainer.

    python benchmarks/overhead.py                 # both, as a table
    python benchmarks/overhead.py --json --output overhead.json
    python benchmarks/overhead.py --vary tokens=256,512,1024 --memory-runs 0

Time: one process, one model an arm with the same weights, steps interleaved in a rotating order; each round gives a
ratio to the plain step of that round, and the median ratio with its quartiles is reported. "plain again" is a second
plain arm: its ratio is the noise. A step is the trainer's ``compute_loss`` and the backward pass; the optimizer's step
is left out, so that nothing hides behind it. Memory: one subprocess an arm, three steps with AdamW, the
process's peak resident size.

Shape by default: a slice of Qwen2.5-0.5B (d = 896, M = 4864), 2 layers, 512 tokens, fp32, 2 threads.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Trainer, TrainingArguments

import infosteer
from infosteer.ops.backends import describe

# glibc keeps freed memory back by rules of its own, which moves the peak by 2 % from run to run; so set, it gives
# every tensor back at once, and the peak repeats to a tenth of a percent.
EXACT_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
}

Step = Callable[[], None]
Builder = Callable[[Qwen2ForCausalLM, argparse.Namespace], Step]


def build_model(options: argparse.Namespace) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=options.hidden,
        intermediate_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=2048,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config).train()


def build_batch(options: argparse.Namespace) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 2048, (options.batch, options.tokens // options.batch))
    return {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}


def trainer_step(
    model: Qwen2ForCausalLM, options: argparse.Namespace, methods: list[dict[str, Any]] | None = None
) -> Step:
    """One training step under transformers' Trainer, with methods attached or plain; gradients set to None first."""
    folder = tempfile.mkdtemp(prefix="overhead-")
    # Logging steps measure entropies besides; steps between them are what is timed.
    arguments = TrainingArguments(folder, use_cpu=True, report_to="none", logging_strategy="no", disable_tqdm=True)
    trainer = Trainer(model=model, args=arguments)
    if methods is not None:
        infosteer.attach(trainer, copy.deepcopy(methods))
    inputs = build_batch(options)
    count = torch.tensor(inputs["labels"][:, 1:].numel())
    run = torch.compile(model, backend=options.compile) if options.compile else model

    def step() -> None:
        model.zero_grad(set_to_none=True)
        trainer.accelerator.backward(trainer.compute_loss(run, dict(inputs), num_items_in_batch=count))

    return step


METHODS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "plain again": [],
    "intervention": [{"method": "key_lift"}],
    "intervention, half": [{"method": "key_lift", "fraction": 0.5}],
    "regularisation": [{"method": "key_entropy"}],
    "both": [{"method": "key_lift"}, {"method": "key_entropy"}],
}
ARMS: dict[str, Builder] = {
    arm: functools.partial(trainer_step, methods=methods or None) for arm, methods in METHODS.items()
}


def measure_time(arms: Mapping[str, Builder], options: argparse.Namespace) -> dict[str, Any]:
    model = build_model(options)
    steps = {arm: build(copy.deepcopy(model), options) for arm, build in arms.items()}
    for _ in range(2):  # the first call of a session measures how minor its edits are
        for step in steps.values():
            step()
    return in_turn(steps, options.rounds)


def in_turn(steps: Mapping[str, Step], rounds: int, before: Step = lambda: None) -> dict[str, Any]:
    """Times of steps that are made in a rotating order, and their ratios to the plain one of the same round; ``before``
    is called before each and not timed."""
    names = list(steps)
    times: dict[str, list[float]] = {arm: [] for arm in names}
    for turn in range(rounds):
        for arm in names[turn % len(names) :] + names[: turn % len(names)]:
            before()
            begin = time.perf_counter()
            steps[arm]()
            times[arm].append(time.perf_counter() - begin)
    found = {}
    for arm in names:
        ratios = [a / b for a, b in zip(times[arm], times["plain"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if arm != "plain" else (1.0, 1.0, 1.0)
        found[arm] = {
            "ratio_median": middle,
            "ratio_quartiles": [low, high],
            "ratio_of_best": min(times[arm]) / min(times["plain"]),
            "median_ms": statistics.median(times[arm]) * 1e3,
        }
    return found


def environment() -> dict[str, str]:
    """What the times depend on besides the shape."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "back end": describe()["cpu"],
    }


def write_json(result: Mapping[str, Any], file: Path | None) -> None:
    """Writes a result to a file, where one is asked for."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def vary(
    arms: Mapping[str, Builder], options: argparse.Namespace, name: str, values: Sequence[int]
) -> dict[int, dict[str, float]]:
    """Milliseconds that each arm adds to the plain step (median of the rounds), for other values of one size."""
    found = {}
    for value in values:
        times = measure_time(arms, argparse.Namespace(**{**vars(options), name: value}))
        plain = times["plain"]["median_ms"]
        found[value] = {"plain": plain} | {
            arm: (row["ratio_median"] - 1) * plain for arm, row in times.items() if arm != "plain"
        }
    return found


def measure_memory(arms: Mapping[str, Builder], script: str, options: argparse.Namespace) -> dict[str, Any]:
    peaks: dict[str, list[int]] = {arm: [] for arm in arms}
    for _ in range(options.memory_runs):
        for arm in arms:
            command = [sys.executable, script, "--peak-of", arm, *options.forwarded]
            result = subprocess.run(
                command, capture_output=True, text=True, check=True, env={**os.environ, **EXACT_MALLOC}
            )
            peaks[arm].append(int(result.stdout.strip().splitlines()[-1]))
    plain = statistics.median(peaks["plain"])
    return {
        arm: {"peak_mib": statistics.median(values) / 1024, "ratio": statistics.median(values) / plain}
        for arm, values in peaks.items()
    }


def peak_of(build: Builder, options: argparse.Namespace) -> int:
    """Peak resident KiB of this process after three steps with AdamW."""
    model = build_model(options)
    step = build(model, options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    for _ in range(3):
        step()
        optimizer.step()
    return peak_resident_kib()


def peak_resident_kib() -> int:
    """Peak resident size of this process alone: ``ru_maxrss`` starts at the size of the process that forked it."""
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
        return int(fields["VmHWM"].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(arms: Mapping[str, Builder], script: str, description: str | None) -> None:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=896, help="d, divisible by 14")
    parser.add_argument("--width", type=int, default=4864, help="M, memories of a layer")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", default="", metavar="BACKEND", help="compile every model: aot_eager, inductor")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--memory-runs", type=int, default=3, help="0 leaves memory out")
    parser.add_argument(
        "--vary", metavar="NAME=A,B,...", help="time again for other values of hidden, width, layers, tokens or threads"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    parser.add_argument("--peak-of", choices=list(arms), help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = ("hidden", "width", "layers", "tokens", "batch", "threads")
    options.forwarded = [part for name in (*shape, "compile") for part in (f"--{name}", str(getattr(options, name)))]
    torch.set_num_threads(options.threads)
    if options.peak_of:
        print(peak_of(arms[options.peak_of], options))
        return
    result = {
        "command": "python " + " ".join([f"benchmarks/{Path(script).name}", *sys.argv[1:]]),
        "shape": {name: getattr(options, name) for name in shape},
        "compile": options.compile,
        "rounds": options.rounds,
        "environment": environment(),
        "time": measure_time(arms, options),
        "memory": measure_memory(arms, script, options) if options.memory_runs else {},
    }
    if options.vary:
        name, _, values = options.vary.partition("=")
        if name not in shape or not values:
            parser.error(f"--vary is one of {', '.join(shape)}, then = and numbers")
        result["varied"] = {name: vary(arms, options, name, [int(value) for value in values.split(",")])}
    write_json(result, options.output)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'arm':<24}{'step, median ratio':>20}{'quartiles':>20}{'best over best':>16}{'peak memory':>14}")
    for arm, time_ in result["time"].items():
        low, high = time_["ratio_quartiles"]
        memory = result["memory"].get(arm)
        print(
            f"{arm:<24}{time_['ratio_median'] - 1:>+20.1%}{f'{low - 1:+.1%} to {high - 1:+.1%}':>20}"
            f"{time_['ratio_of_best'] - 1:>+16.1%}" + (f"{memory['ratio'] - 1:>+14.2%}" if memory else "")
        )
    for name, rows in result.get("varied", {}).items():
        print(f"\nmilliseconds added to the step, by {name}")
        for value, row in rows.items():
            print(f"{value:>8}  " + "  ".join(f"{arm} {added:+.1f}" for arm, added in row.items()))


if __name__ == "__main__":
    main(ARMS, __file__, __doc__)
