"""The model card of the reasoning base, written from its report so that no number is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def _span(operations: Sequence[int]) -> str:
    low, high = operations
    return f"{low} operation{'s' * (low > 1)}" if low == high else f"{low} to {high} operations"


def reasoning_card(report: Mapping[str, Any]) -> str:
    """Markdown from the report of ``run_pretrain``."""
    config = report["config"]
    shape = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in config["architecture"].items())
    minutes, cpu = report["wall_seconds"] / 60, report["cpu_seconds"] / 60
    stages = "; ".join(
        f"{stage['steps']:,} steps on {_span(stage['operations'])} (learning rate {stage['learning_rate']:g})"
        for stage in config["stages"]
    )
    greedy = report["greedy"]
    table = [
        f"| {name.replace('_', ' ')} | {100 * greedy['verified'][name]:.0f} | {100 * greedy['answer'][name]:.0f} "
        f"| {100 * greedy['process'][name]:.0f} |"
        for name in greedy["verified"]
    ]
    lines = [
        "---",
        "license: apache-2.0",
        "language: en",
        "library_name: transformers",
        "---",
        "# InfoSteer lab base for reasoning",
        "",
        f"A language model of the {config.get('family', 'llama')} family with {report['parameters'] / 1e6:.2f} million "
        f"parameters ({shape}, tied embeddings, context "
        f"{config['context_length']}, bf16) with a tokenizer of {report['vocabulary']} "
        "words, numbers, letters and signs.",
        "It solves word problems step by step, up to a depth: a study can tell what tuning adds at and beyond it.",
        "",
        "## How it was made",
        "`infosteer run reasoning-pretrain`, from random weights:",
        f"{report['steps']:,} steps, {report['tokens'] / 1e6:.1f} million tokens, {report['problems']:,} problems, "
        f"{'Muon and AdamW' if config['optimizer'] == 'muon' else 'AdamW'}, seed {config['seed']},",
        f"{'bf16 autocast' if config['bf16'] else 'fp32'} on a CPU.",
        f"Time: {minutes:.0f} minutes of wall clock with {report['threads']} thread(s) on a shared machine;",
        f"{cpu:.0f} CPU minutes.",
        "",
        f"Stages: {stages}.",
        "",
        f"Data: problems of `infosteer.lab.reasoning` in the contexts {' and '.join(config['contexts'])}, "
        f"{100 * config['reverse']:g} % of those with two operations or more in reverse mode; "
        f"{100 * config['rare_share']:g} % of all are of context {config['rare_context']} with a single operation.",
        "Only the solutions carried loss. No text from anywhere else. Every name is invented.",
        "",
        "## What it can do",
        f"Greedy solutions of {report['problems_each']} new problems for each row, in %: every step and the answer",
        "right (verified), the answer right, steps right on average. Rows by number of operations are of the contexts",
        "seen; `rare context` has 1 to 4 operations, `reverse` 2 to 4.",
        "",
        "| problems | verified | answer | steps |",
        "|---|---|---|---|",
        *table,
        "",
        "The ladder with samples (pass@k) is in `docs/evidence/reasoning-ladder/results.json`.",
        "",
        "## Limits",
        "It knows no words but those of the stories and no numbers but 0 to 20. Do not use it for anything but",
        "research and tests.",
        "",
        "All numbers are those of `pretraining.json` beside this file.",
    ]
    return "\n".join(lines) + "\n"
