"""What reading the information flux of a corpus costs beside the bare forward pass, in time and in memory.

    python benchmarks/flux.py                    # as a table
    python benchmarks/flux.py --json --output flux.json

Time: one process, one model; the bare pass and the passes with observers run on the same batch, interleaved in a
rotating order; each round gives a ratio to the bare pass of that round, and the median ratio with its quartiles is
reported, of wall time and of the process's CPU time, which other work on the machine disturbs less. "bare again" is a
second bare pass: its ratio is the noise. Memory: tokens of a small model streamed in a
subprocess, whose resident size is taken after a tenth and at the end.

Shape by default: a slice of Qwen2.5-0.5B (d = 896, M = 4864), 2 layers, 1,024 tokens, fp32, 2 threads.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # waiting threads would count as work

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from infosteer.core.steer import steer
from infosteer.core.surfaces import ProbeMethod
from infosteer.inspection.observe import observe
from infosteer.methods.probes.information_flux import FluxObserver, InformationFlux
from infosteer.methods.probes.knowledge_entropy import KnowledgeEntropy
from infosteer.methods.probes.region_shift import RegionShift

PROBES: dict[str, Callable[[], ProbeMethod] | None] = {
    "bare": None,
    "bare again": None,
    "information flux": lambda: InformationFlux(scope="always"),
    "key regions": lambda: RegionShift(scope="always"),
    "knowledge entropy": lambda: KnowledgeEntropy(scope="always"),
}


def build_model(hidden: int, width: int, layers: int, heads: int) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=2,
        vocab_size=2048,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config).eval()


def measure_time(options: argparse.Namespace) -> dict[str, Any]:
    model = build_model(options.hidden, options.width, options.layers, 14)
    ids = torch.randint(0, 2048, (options.batch, options.tokens // options.batch))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in PROBES}  # wall and CPU seconds
    names = list(PROBES)

    def run(name: str) -> tuple[float, float]:
        make = PROBES[name]
        session = steer(model, [make()], calibration=[inputs]) if make else contextlib.nullcontext()
        with session, torch.no_grad():
            model.model(**inputs, use_cache=False)  # nobody is timed with cold caches
            begin, worked = time.perf_counter(), time.process_time()
            model.model(**inputs, use_cache=False)
            return time.perf_counter() - begin, time.process_time() - worked

    for name in names:
        run(name)
    for turn in range(options.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(run(name))
    found = {}
    for name in names:
        found[name] = {"median_ms": statistics.median(wall for wall, _ in times[name]) * 1e3}
        for clock, kind in enumerate(("wall", "cpu")):
            ratios = [a[clock] / b[clock] for a, b in zip(times[name], times["bare"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4) if name != "bare" else (1.0, 1.0, 1.0)
            found[name] |= {f"{kind}_ratio_median": middle, f"{kind}_ratio_quartiles": [low, high]}
    return found


def stream(tokens: int) -> dict[str, Any]:
    """Resident KiB after a tenth of the tokens and at the end."""
    vocabulary = {"<end>": 0, **{f"w{i}": i for i in range(1, 2048)}}
    raw = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<end>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", unk_token="<end>")
    sizes: list[int] = []

    def texts() -> Iterator[str]:
        for number in range(tokens // 100):
            if number % (tokens // 1000) == 0:
                sizes.append(resident_kib())
            yield " ".join(f"w{1 + (number * 37 + i * 11) % 2047}" for i in range(100))

    begin = time.perf_counter()
    seen = observe(build_model(64, 256, 2, 4), tokenizer, texts(), [FluxObserver()])
    return {
        "tokens": seen.tokens,
        "seconds": time.perf_counter() - begin,
        "resident_mib_after_a_tenth": sizes[1] / 1024,
        "resident_mib_at_the_end": resident_kib() / 1024,
    }


def resident_kib() -> int:
    """Resident size of this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=896, help="d, divisible by 14")
    parser.add_argument("--width", type=int, default=4864, help="M, memories of a layer")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--stream", type=int, default=1_000_000, help="tokens streamed for memory; 0 leaves it out")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    parser.add_argument("--only-stream", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only_stream:
        print(json.dumps(stream(options.only_stream)))
        return
    memory = {}
    if options.stream:
        command = [sys.executable, __file__, "--only-stream", str(options.stream), "--threads", str(options.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        memory = json.loads(done.stdout.strip().splitlines()[-1])
    result = {
        "command": "python " + " ".join(["benchmarks/flux.py", *sys.argv[1:]]),
        "shape": {name: getattr(options, name) for name in ("hidden", "width", "layers", "tokens", "batch", "threads")},
        "rounds": options.rounds,
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "load": list(os.getloadavg()),
        },
        "time": measure_time(options),
        "memory": memory,
    }
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'pass':<20}{'wall, median ratio':>20}{'quartiles':>20}{'CPU, median ratio':>20}{'quartiles':>20}")
    for name, row in result["time"].items():
        cells = ""
        for kind in ("wall", "cpu"):
            low, high = row[f"{kind}_ratio_quartiles"]
            cells += f"{row[f'{kind}_ratio_median'] - 1:>+20.1%}{f'{low - 1:+.1%} to {high - 1:+.1%}':>20}"
        print(f"{name:<20}{cells}")
    if memory:
        print(
            f"{memory['tokens']:,} tokens streamed in {memory['seconds']:.0f} s: "
            f"{memory['resident_mib_after_a_tenth']:.0f} MiB after a tenth, "
            f"{memory['resident_mib_at_the_end']:.0f} MiB at the end"
        )


if __name__ == "__main__":
    main()
