"""What lm-eval's harness refuses: tasks that run or fetch code, unknown tasks, bad data, a broken model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.tasks import TaskManager

from infosteer.errors import ConfigError, DataError, InfoSteerError
from infosteer.evaluation.harness import run_harness
from infosteer.evaluation.harness.vetting import VettedTaskManager, _suspect, refusal

from .conftest import tiny
from .harness_tasks import CHOICES, QUESTIONS, TASKS, write_task


def test_tasks_that_run_code_are_refused_by_name_and_their_helpers_are_not_run(
    random_model, tokenizer, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    (tmp_path / "helper.py").write_text(
        f"import pathlib\npathlib.Path({str(trap)!r}).touch()\n\ndef score(doc, found):\n    return eval(found[0])\n"
    )
    choices = TASKS["tiny_choices"][1]
    cases = {
        "marked": {"unsafe_code": True},
        "fetching": {"metric_list": [{"metric": "no_such_metric", "aggregation": "mean"}]},
        "remote": {"metric_list": [{"metric": "acc", "aggregation": "mean", "hf_evaluate": True}]},
    }
    for name, change in cases.items():
        write_task(tmp_path, name, CHOICES, choices | change)
    write_task(tmp_path, "helped", CHOICES, choices)
    file = tmp_path / "helped.yaml"
    file.write_text(file.read_text() + "process_results: !function helper.score\n")
    trusting = write_task(tmp_path, "trusting", CHOICES, choices)
    trusting.write_text(trusting.read_text().replace("dataset_kwargs:", "dataset_kwargs:\n  trust_remote_code: true"))
    (tmp_path / "all.yaml").write_text(f"group: all_of_them\ntask: {[*cases, 'helped', 'trusting']}\n")
    with pytest.raises(ConfigError) as caught:
        run_harness(random_model, tokenizer, ["all_of_them"], include_path=tmp_path)
    got = str(caught.value.got)
    assert "marked: marked unsafe_code" in got
    assert "helped: helper.py calls eval (helper.py:5)" in got
    assert "trusting: its data set asks for trust_remote_code" in got
    assert "fetching: its metric no_such_metric is code" in got
    assert "remote: its metric acc is code" in got
    assert not trap.exists()
    for name in cases:
        with pytest.raises(ConfigError, match=name):
            run_harness(random_model, tokenizer, [name], include_path=tmp_path)


@pytest.fixture(scope="module")
def shipped() -> Callable[[str], dict[str, Any]]:
    """Configurations that lm-eval ships, by folder and file, without indexing all of them."""
    from lm_eval.tasks._yaml_loader import load_yaml

    root = Path(sys.modules[TaskManager.__module__].__file__ or "").parent
    return lambda name: load_yaml(root / name, resolve_func=False)


@pytest.mark.parametrize(
    "name", ["humaneval/humaneval.yaml", "mbpp/mbpp.yaml", "meqsum/meqsum.yaml", "cruxeval/cruxeval_input.yaml"]
)
def test_shipped_tasks_that_run_or_fetch_code_are_refused(name: str, shipped) -> None:
    try:
        config = shipped(name)
    except FileNotFoundError:
        pytest.skip(f"this lm-eval has no {name}")
    assert refusal(config), name


@pytest.mark.parametrize(
    "name",
    [
        "hellaswag/hellaswag.yaml",
        "gsm8k/gsm8k.yaml",
        "arc/arc_easy.yaml",
        "piqa/piqa.yaml",
        "super_glue/boolq/default.yaml",
        "truthfulqa/truthfulqa_mc2.yaml",
        "wikitext/wikitext.yaml",
        "minerva_math/minerva_math_algebra.yaml",
        "ifeval/ifeval.yaml",
    ],
)
def test_shipped_tasks_that_compare_are_not(name: str, shipped) -> None:
    assert refusal(shipped(name)) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import subprocess", "imports subprocess"),
        ("from os import path\nimport os\nos.system('x')", "calls os.system"),
        ("import evaluate as e\ne.load('rouge')", "fetches metrics"),
        ("from evaluate import load", "fetches metrics"),
        ("import sympy\nsympy.parse_expr('x')", "calls sympy.parse_expr"),
        ("import other", "calls exec (other.py:1)"),
        ("from . import other", "calls exec (other.py:1)"),
        ("import re, ast\nre.compile('x'); ast.literal_eval('1'); model.eval()", None),
    ],
)
def test_what_reading_a_helper_finds(text: str, found: str | None, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("exec('1')\n")
    (tmp_path / "helper.py").write_text(text)
    reason = _suspect(tmp_path / "helper.py")
    assert (reason is None) if found is None else (found in str(reason))


def test_unknown_tasks_and_bad_data_say_which(random_model, tokenizer, task_folder: Path, tmp_path: Path) -> None:
    write_task(tmp_path, "hollow", [{"q": "x", "options": [""], "gold": 0}], TASKS["tiny_choices"][1])
    write_task(tmp_path, "sparse", [{"other": 1}], TASKS["tiny_choices"][1])
    write_task(
        tmp_path,
        "greedy_for_room",
        QUESTIONS,
        TASKS["tiny_writing"][1] | {"generation_kwargs": {"until": ["x"], "max_gen_toks": 500}},
    )
    write_task(
        tmp_path,
        "beams",
        QUESTIONS,
        TASKS["tiny_writing"][1] | {"generation_kwargs": {"until": ["x"], "max_gen_toks": 5, "num_beams": 4}},
    )
    for name, kind, words in (
        ("hollow", InfoSteerError, "lm_eval:hollow"),
        ("sparse", DataError, "lm_eval:sparse"),
        ("greedy_for_room", ConfigError, "max_gen_toks"),
        ("beams", ConfigError, "num_beams=4"),
    ):
        with pytest.raises(kind, match=words):
            run_harness(random_model, tokenizer, [name], include_path=tmp_path)
    with pytest.raises(ConfigError, match=r"tiny_choises[\s\S]*tiny_choices"):
        VettedTaskManager(include_path=str(task_folder), include_defaults=False).load(["tiny_choises"])
    with pytest.raises(ConfigError, match="no such folder"):
        run_harness(random_model, tokenizer, ["tiny_choices"], include_path=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no lm-eval task"):
        run_harness(random_model, tokenizer, [])


def test_a_broken_model_gets_no_scores(tokenizer, task_folder: Path) -> None:
    model = tiny("llama", len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight[0] = float("nan")
    with pytest.raises(InfoSteerError, match="not finite"):
        run_harness(model, tokenizer, ["tiny_choices"], include_path=task_folder)
