"""Tasks of every kind for lm-eval, over local JSON that the test writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

LIFT = {"method": "key_lift", "fraction": 0.5, "scope": "always"}
STORY = "The quick brown fox jumps over the lazy dog. answer1 answer2 option one a true story, numbers 0 1 2 3 4 5."
CHOICES = [
    {"q": "who paints?", "options": ["Ann Lee", "Bob", "the fox"], "gold": 0},
    {"q": "where?", "options": ["in Paris", "in Par", "Bob"], "gold": 0},
    {"q": "caf\u00e9 \u202e \U0001f600?  ", "options": ["\u00e9", "e", "\U0001f600 and more"], "gold": 2},
    {"q": "how many?\n", "options": ["42", "4", "4 2 4 2 4 2"], "gold": 1},
    {"q": STORY * 4, "options": ["true", "a true story", "false"], "gold": 2},  # longer than the tiny model's context
    *({"q": f"is {n} so?", "options": ["true", "false", "a true story"], "gold": n % 3} for n in range(7)),
]
BLANKS = [
    {"choices": ["The fox, since Bob", "The fox, since Ann Lee"], "end": "jumps over the lazy dog", "gold": 0},
    {"choices": ["answer one", "answer two"], "end": "is true.", "gold": 1},
    {"choices": ["Q: where? in Paris", "Q: where? Bob"], "end": "sings", "gold": 1},
]
QUESTIONS = [
    {"q": "who paints?", "a": "Ann Lee"},
    {"q": "who sings very long songs in the evening?", "a": "Bob"},
    {"q": "where?", "a": "in Paris."},
    {"q": "how many?", "a": "The answer is 42."},
    {"q": STORY * 4, "a": "42"},
    {"q": "caf\u00e9 \u202e \x07 \U0001f600", "a": "0"},
]
TEXTS = [{"text": STORY}, {"text": STORY * 7}, {"text": "x"}, {"text": "caf\u00e9 \U0001f600\n\n" * 9}]

TASKS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "tiny_choices": (
        CHOICES,
        {
            "output_type": "multiple_choice",
            "doc_to_text": "Q: {{q}}\nA:",
            "doc_to_target": "gold",
            "doc_to_choice": "options",
            "metric_list": [
                {"metric": name, "aggregation": "mean", "higher_is_better": True}
                for name in ("acc", "acc_norm", "acc_bytes", "exact_match", "acc_mutual_info")
            ],
        },
    ),
    "tiny_shots": (
        [row for row in CHOICES if len(row["q"]) < 60],
        {
            "output_type": "multiple_choice",
            "doc_to_text": "Q: {{q}}\nA:",
            "doc_to_target": "gold",
            "doc_to_choice": "options",
            "num_fewshot": 2,
            "metric_list": [
                {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
                {"metric": "mcc", "aggregation": "matthews_corrcoef", "higher_is_better": True},
            ],
        },
    ),
    "tiny_blanks": (
        BLANKS,
        {
            "output_type": "multiple_choice",
            "doc_to_text": "{{gold}}",
            "doc_to_target": "end",
            "doc_to_choice": "choices",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        },
    ),
    "tiny_writing": (
        QUESTIONS,
        {
            "output_type": "generate_until",
            "doc_to_text": "Q: {{q}}\nA:",
            "doc_to_target": "a",
            "generation_kwargs": {"until": ["\n", "Q:", "."], "max_gen_toks": 12, "do_sample": False},
            "filter_list": [
                {"name": "whole", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]},
                {
                    "name": "number",
                    "filter": [{"function": "regex", "regex_pattern": r"(\d+)"}, {"function": "take_first"}],
                },
            ],
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        },
    ),
    "tiny_last_words": (
        QUESTIONS,
        {"output_type": "loglikelihood", "doc_to_text": "Q: {{q}}\nA:", "doc_to_target": " {{a}}"},
    ),
    "tiny_documents": (
        TEXTS,
        {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"},
    ),
}


def write_task(folder: Path, name: str, rows: list[dict[str, Any]], settings: dict[str, Any]) -> Path:
    """A task's YAML and rows; returns the YAML."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "metadata": {"version": 1.0},
        **settings,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def write_tasks(folder: Path) -> Path:
    """All tasks of this file and a group of two; returns the folder for lm-eval's include path."""
    for name, (rows, settings) in TASKS.items():
        write_task(folder, name, rows, settings)
    group = {
        "group": "tiny_group",
        "task": ["tiny_choices", "tiny_blanks"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (folder / "tiny_group.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    return folder
