"""Throughput of evaluation: this package's engine beside lm-evaluation-harness's Hugging Face backend.

    python benchmarks/evaluation.py                                  # a table
    python benchmarks/evaluation.py --json --output results.json

Both are lm-eval models (`infosteer` and `hf`) over one model in one process, and get the very same requests, which
lm-eval builds from tasks: option words (the suite's own prompts), option texts (HellaSwag's endings), answers to be
written (48 tokens, unless a stop text ends them), sentences to be ended (by a full stop), and documents. They take
turns, in alternating order; each round gives the ratio of their times, and the median ratio with its quartiles is
reported, for wall time and for CPU time. What lm-eval does besides - prompts, filters, metrics - is the same code for
both and is left out. The answers of both are compared, too.

Rows: `../shared/data/llm-adapters`, or the lab's where that folder is absent. Model: the embedded base in fp32.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch

from infosteer.evaluation.harness import SteeredLM
from infosteer.evaluation.harness.vetting import VettedTaskManager
from infosteer.training.loading import load_model, load_tokenizer
from infosteer.training.rows import read_rows

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "llm-adapters"
ENDING = re.compile(r"\s*Ending\d: ")

Rows = list[dict[str, Any]]


def option_words(data: Path, count: int) -> tuple[Rows, str]:
    """Questions whose options stand in the prompt; the option's word is scored."""
    if not (data / "piqa").is_dir():
        rows = read_rows("lab:facts/new_people", purpose="evaluate", limit=count)
        words = sorted({row["answer"] for row in rows})[:4]
        return [{"prompt": row["prompt"], "options": words} for row in rows], rows.source
    rows = read_rows(data / "piqa" / "test.jsonl.gz", purpose="evaluate", format="llm_adapters", limit=count)
    return [{"prompt": row["prompt"] + row["lead"].rstrip(), "options": row["options"]} for row in rows], "piqa"


def option_texts(data: Path, count: int) -> tuple[Rows, str]:
    """Sentences to be ended; the text of each ending is scored."""
    if not (data / "hellaswag").is_dir():
        rows = read_rows("lab:facts/recall", purpose="evaluate", limit=count)
        answers = [row["answer"] for row in rows]
        return [
            {"prompt": row["prompt"], "options": [answers[(n + k) % len(rows)] for k in range(4)]}
            for n, row in enumerate(rows)
        ], rows.source
    rows = read_rows(data / "hellaswag" / "test.jsonl.gz", purpose="evaluate", format="llm_adapters", limit=count)
    found = []
    for row in rows:
        sentence, *endings = ENDING.split(row["prompt"].partition("sentence: ")[2].partition("\n\nAnswer format")[0])
        found.append({"prompt": sentence, "options": endings})
    return found, "hellaswag"


def questions(data: Path, count: int) -> tuple[Rows, str]:
    """Questions to be answered in writing."""
    if not (data / "gsm8k").is_dir():
        rows = read_rows("lab:facts/new_people", purpose="evaluate", limit=count)
        return [{"prompt": row["prompt"]} for row in rows], rows.source
    rows = read_rows(data / "gsm8k" / "test.jsonl.gz", purpose="evaluate", format="llm_adapters", limit=count)
    return [{"prompt": row["prompt"]} for row in rows], "gsm8k"


def sentences(data: Path, count: int) -> tuple[Rows, str]:
    """Sentences to be ended in writing, which the base does, each after as many tokens as it takes."""
    rows = read_rows("lab:facts/recall", purpose="evaluate", limit=count)
    return [{"prompt": row["prompt"]} for row in rows], rows.source


def documents(data: Path, count: int) -> tuple[Rows, str]:
    """Texts to be read."""
    rows = read_rows("lab:facts/texts", purpose="evaluate", limit=count)
    return [{"prompt": row["text"]} for row in rows], rows.source


# Name -> its rows, the share of `--rows` it has, and what lm-eval is told.
TASKS: dict[str, tuple[Callable[[Path, int], tuple[Rows, str]], float, dict[str, Any]]] = {
    "option words": (option_words, 1.0, {"output_type": "multiple_choice", "doc_to_choice": "options"}),
    "option texts": (option_texts, 1.0, {"output_type": "multiple_choice", "doc_to_choice": "options"}),
    "written answers": (
        questions,
        0.5,
        {
            "output_type": "generate_until",
            "generation_kwargs": {"until": ["\n\n", "Question:"], "max_gen_toks": 48, "do_sample": False},
        },
    ),
    "sentences to end": (
        sentences,
        8.0,  # they are short
        {
            "output_type": "generate_until",
            "generation_kwargs": {"until": [".", "\n\n"], "max_gen_toks": 48, "do_sample": False},
        },
    ),
    "documents": (documents, 1.0, {"output_type": "loglikelihood_rolling"}),
}


def build_requests(name: str, rows: Rows, settings: dict[str, Any], folder: Path) -> Any:
    """lm-eval's requests for the rows."""
    file = folder / f"{name.replace(' ', '_')}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    read = settings["output_type"] == "loglikelihood_rolling"
    config = {
        "task": file.stem,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "doc_to_text": "" if read else "{{prompt}}",
        "doc_to_target": "{{prompt}}" if read else "0",
        "num_fewshot": 0,
        **settings,
    }
    (task,) = VettedTaskManager(include_defaults=False).load([config])["tasks"].values()
    task.build_all_requests()
    return task.instances


def agreement(ours: list[Any], theirs: list[Any]) -> float:
    """Share of requests with the same answer: equal texts, or likelihoods within 1e-4 and the same greedy flag."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, str):
            return bool(a == b)
        (x, *flag), (y, *other) = (one if isinstance(one, tuple) else (one,) for one in (a, b))
        return abs(x - y) <= 1e-4 * max(1.0, abs(y)) and flag == other

    return sum(same(a, b) for a, b in zip(ours, theirs, strict=True)) / len(theirs)


def measure(name: str, options: argparse.Namespace, model: Any, tokenizer: Any, folder: Path) -> dict[str, Any]:
    from lm_eval.models.huggingface import HFLM

    read, share, settings = TASKS[name]
    rows, source = read(options.data, max(2, round(options.rows * share)))
    requests = build_requests(name, rows, settings, folder)
    kind = requests[0].request_type
    backends = {
        "ours": SteeredLM(model, tokenizer=tokenizer, batch_size=options.batch_size),
        "lm-eval": HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options.batch_size),
    }
    calls = {arm: getattr(lm, kind) for arm, lm in backends.items()}
    answers = {arm: call(requests, disable_tqdm=True) for arm, call in calls.items()}  # and a warm-up
    wall: dict[str, list[float]] = {arm: [] for arm in calls}
    busy: dict[str, list[float]] = {arm: [] for arm in calls}
    for turn in range(options.rounds):
        for arm in list(calls)[:: 1 if turn % 2 else -1]:
            begin, begin_busy = time.perf_counter(), time.process_time()
            calls[arm](requests, disable_tqdm=True)
            wall[arm].append(time.perf_counter() - begin)
            busy[arm].append(time.process_time() - begin_busy)
    return {
        "source": source,
        "examples": len(rows),
        "requests": len(requests),
        "agreement": agreement(answers["ours"], answers["lm-eval"]),
        "wall": ratios(wall),
        "cpu": ratios(busy),
        "examples_per_second": {arm: len(rows) / statistics.median(times) for arm, times in wall.items()},
    }


def ratios(times: dict[str, list[float]]) -> dict[str, Any]:
    """lm-eval's time over ours, round by round: above 1 we are faster."""
    found = [b / a for a, b in zip(times["ours"], times["lm-eval"], strict=True)]
    low, middle, high = statistics.quantiles(found, n=4)
    return {"ratio_median": middle, "ratio_quartiles": [low, high]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=32, help="examples of a task; half of them, or more, in some")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--data", type=Path, default=DATA, help="the llm-adapters folder")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--json", action="store_true", help="print the results instead of a table")
    parser.add_argument("--output", type=Path, help="write the results to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = load_tokenizer(options.model)
    model = load_model(options.model, dtype=options.dtype).eval()
    with tempfile.TemporaryDirectory() as folder:
        tasks = {name: measure(name, options, model, tokenizer, Path(folder)) for name in options.tasks}
    results = {
        "command": " ".join(["python benchmarks/evaluation.py", *sys.argv[1:]]),
        "model": options.model,
        "dtype": options.dtype,
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "threads": options.threads,
        "environment": environment(),
        "tasks": tasks,
    }
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2) if options.json else table(results), end="\n")
    return 0


def environment() -> dict[str, str]:
    import importlib.metadata

    names = ("torch", "transformers", "lm_eval")
    versions = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), **versions, "machine": platform.machine()}


def table(results: dict[str, Any]) -> str:
    """One line a task."""
    lines = [f"{'':16}{'examples/s ours':>16}{'lm-eval':>9}{'ratio':>8}{'quartiles':>14}{'CPU':>8}{'equal':>8}"]
    for name, found in results["tasks"].items():
        speed, wall, cpu = found["examples_per_second"], found["wall"], found["cpu"]
        low, high = wall["ratio_quartiles"]
        lines.append(
            f"{name:16}{speed['ours']:16.1f}{speed['lm-eval']:9.1f}{wall['ratio_median']:8.2f}"
            f"{f'{low:.2f} to {high:.2f}':>14}{cpu['ratio_median']:8.2f}{found['agreement']:8.0%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
