"""What each method costs in a training step, in time and in peak memory, beside the plain trainer.

    python benchmarks/methods.py                          # every method that acts on a model, as a table
    python benchmarks/methods.py --methods 'params/*' --json --output methods.json

Each method is taken from the registry with the settings of its own ``recipe.yaml``. Time: one process, one model an arm
with the same weights; the steps of an arm (forward, loss, backward, the optimizer's step, zeroing) are interleaved with
those of the others in a rotating order. Each round gives a ratio to the plain step of that round; the median ratio with
its quartiles is reported, and the mean for what happens in some steps only. "plain again" is a second plain arm: its
ratio is the noise. What a method does before training or at its end is timed by itself (``begin`` and ``finish``,
seconds). Memory: one subprocess an arm, some steps, the process's peak resident size; ``optimizer`` is what the
optimizer's state holds. Methods on the surface ``data`` act
before training: the time of their transformation is given, by 1,000 rows.

The steps are those of an own loop (``infosteer.steer``) with AdamW on a slice of the embedded base's shape, or on
``--hidden``, ``--width``, ``--layers``; ``benchmarks/overhead.py`` measures the core methods under the Trainer at the
shape of Qwen2.5-0.5B.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import yaml
from overhead import EXACT_MALLOC, peak_resident_kib
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import infosteer
from infosteer.core.registry import build_method, method_info
from infosteer.errors import InfoSteerError
from infosteer.methods.params.galore import state_bytes
from infosteer.training.token_rows import marking_methods

PLAIN, AGAIN = "plain", "plain again"
VOCABULARY = 4096


def settings_of(key: str) -> dict[str, Any]:
    """The method's mapping in its own recipe."""
    recipe = yaml.safe_load(method_info(key).recipe.read_text(encoding="utf-8"))
    for arm in recipe["arms"].values():
        for mapping in arm["methods"] if isinstance(arm, dict) else arm:
            if method_info(mapping["method"]).key == key:
                return dict(mapping)
    raise AssertionError(f"the recipe of {key} has no arm that uses it")


def build_model(options: argparse.Namespace) -> nn.Module:
    """A random Llama of the shape; every call gives the same weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=options.hidden,
        intermediate_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).train()


def build_batch(options: argparse.Namespace, methods: Sequence[Any] = ()) -> dict[str, Tensor]:
    """Random tokens; the first quarter of each row carries no loss. Marks, where a loss reads some, are -1, 0, 1, 2."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, VOCABULARY, (options.batch, options.tokens // options.batch), generator=generator)
    labels = ids.clone()
    labels[:, : ids.shape[1] // 4] = -100
    marks = (torch.arange(ids.numel()).reshape(ids.shape) % 4 - 1).float()
    marked = dict.fromkeys(marking_methods(methods), marks)
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids), **marked}


class Arm:
    """One model in training, plain or with a method.

    Attributes:
        begin: seconds to attach the method.
    """

    def __init__(self, key: str, options: argparse.Namespace) -> None:
        methods = [] if key in (PLAIN, AGAIN) else [build_method(settings_of(key))]
        self.model, self.batch = build_model(options), build_batch(options, methods)
        self.session: Any = None
        started = time.perf_counter()
        if methods:
            text = {name: self.batch[name] for name in ("input_ids", "attention_mask")}
            self.session = infosteer.steer(
                self.model, methods, calibration=[text], task=[self.batch], measure_every=0, total_steps=1000
            )
        self.begin = time.perf_counter() - started
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5)
        if self.session is not None:
            self.session.begin(self.optimizer)

    def step(self) -> None:
        """One step of training."""
        loss = self.model(**self.batch, use_cache=False).loss
        (loss if self.session is None else self.session.loss(loss)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def finish(self) -> float:
        """Seconds that the end of training takes."""
        started = time.perf_counter()
        if self.session is not None:
            self.session.finish()
        return time.perf_counter() - started


def measure_time(keys: list[str], options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Ratios to the plain step by arm, and why methods are missing."""
    arms: dict[str, Arm] = {}
    missing: dict[str, str] = {}
    for key in (PLAIN, AGAIN, *keys):
        try:
            arms[key] = Arm(key, options)
            for _ in range(2):  # the first step of a session measures and proves
                arms[key].step()
        except InfoSteerError as error:
            missing[key] = error.what
            arms.pop(key, None)
    names = list(arms)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(options.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.perf_counter()
            arms[name].step()
            times[name].append(time.perf_counter() - started)
    found = {}
    for name in names:
        ratios = [a / b for a, b in zip(times[name], times[PLAIN], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if name != PLAIN else (1.0, 1.0, 1.0)
        found[name] = {
            "ratio_median": middle,
            "ratio_quartiles": [low, high],
            "ratio_mean": statistics.mean(ratios),
            "ratio_of_best": min(times[name]) / min(times[PLAIN]),
            "median_ms": statistics.median(times[name]) * 1e3,
            "begin_s": arms[name].begin,
            "finish_s": arms[name].finish(),
        }
    return found, missing


def measure_memory(keys: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Peak resident size and optimizer state by arm, each in a process of its own."""
    found: dict[str, Any] = {}
    for key in (PLAIN, AGAIN, *keys):
        peaks, held = [], 0
        for _ in range(options.memory_runs):
            command = [sys.executable, __file__, "--peak-of", key, *options.forwarded]
            environment = {**os.environ, **EXACT_MALLOC}
            result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            peak, held = (int(number) for number in result.stdout.split()[-2:])
            peaks.append(peak)
        found[key] = {"peak_mib": statistics.median(peaks) / 1024, "optimizer_mib": held / 2**20}
    for key, row in found.items():
        row["ratio"] = row["peak_mib"] / found[PLAIN]["peak_mib"]
        found[key] = row
    return found


def peak_of(key: str, options: argparse.Namespace) -> tuple[int, int]:
    """Peak resident KiB of this process after some steps, and bytes of the optimizer's state."""
    arm = Arm(key, options)
    for _ in range(3):
        arm.step()
    return peak_resident_kib(), state_bytes(arm.optimizer)


def measure_data(keys: list[str], count: int = 1000) -> tuple[dict[str, Any], dict[str, str]]:
    """Seconds that methods on the surface ``data`` take for 1,000 rows, median of five, and the rows they give: prompts
    with completions, documents for those that want these; and why, for a method that takes neither."""
    asked = [{"prompt": f"Question: what is {i}?\nAnswer:", "completion": f" It is number {i}."} for i in range(count)]
    documents = [{"text": f"Document {i} begins here. It goes on with {i}. It ends."} for i in range(count)]
    found, missing = {}, {}
    for key in keys:
        for rows in (asked, documents):
            taken, given = [], 0
            try:
                for _ in range(5):
                    started = time.perf_counter()
                    given = len(infosteer.transform_rows(rows, [build_method(settings_of(key))], seed=1))
                    taken.append(time.perf_counter() - started)
            except InfoSteerError as error:
                missing[key] = f"{error.what} ({error.got})"
                continue
            found[key] = {"seconds": statistics.median(taken), "rows": given}
            missing.pop(key, None)
            break
    return found, missing


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"{'arm':<36}{'step, median ratio':>20}{'quartiles':>22}{'peak memory':>13}{'optimizer':>12}"]
    for arm, row in result["time"].items():
        low, high = row["ratio_quartiles"]
        memory = result["memory"].get(arm)
        lines.append(
            f"{arm:<36}{row['ratio_median'] - 1:>+20.1%}{f'{low - 1:+.1%} to {high - 1:+.1%}':>22}"
            + (f"{memory['ratio'] - 1:>+13.2%}{memory['optimizer_mib']:>8.1f} MiB" if memory else "")
        )
    lines += [f"{key:<36}{row['seconds'] * 1e3:>17.1f} ms for 1,000 rows" for key, row in result["data"].items()]
    lines += [f"{key:<36}not measured: {why}" for key, why in result["missing"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="*", help="pattern of surface/name, or of names")
    parser.add_argument("--hidden", type=int, default=256, help="d, a multiple of 64")
    parser.add_argument("--width", type=int, default=1024, help="M, memories of a layer")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--memory-runs", type=int, default=1, help="0 leaves memory out")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--output", help="also write the JSON to this file")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = ("hidden", "width", "layers", "tokens", "batch", "threads")
    options.forwarded = [part for name in shape for part in (f"--{name}", str(getattr(options, name)))]
    torch.set_num_threads(options.threads)
    if options.peak_of:
        print(*peak_of(options.peak_of, options))
        return
    known = infosteer.list_methods()
    chosen = [k for k in known if any(fnmatch.fnmatch(part, options.methods) for part in (k, k.split("/")[1]))]
    if not chosen:
        parser.error(f"no method is called {options.methods}")
    on_models = [key for key in chosen if not key.startswith("data/")]
    times, missing = measure_time(on_models, options)
    data, refused = measure_data([key for key in chosen if key not in on_models])
    result = {
        "command": "python " + " ".join(["benchmarks/methods.py", *sys.argv[1:]]),
        "shape": {name: getattr(options, name) for name in shape},
        "rounds": options.rounds,
        "environment": {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()},
        "settings": {key: settings_of(key) for key in chosen},
        "time": times,
        "memory": measure_memory([k for k in on_models if k in times], options) if options.memory_runs else {},
        "data": data,
        "missing": missing | refused,
    }
    if options.output:
        os.makedirs(os.path.dirname(options.output) or ".", exist_ok=True)
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2) if options.json else table(result))


if __name__ == "__main__":
    main()
