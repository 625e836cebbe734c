"""The task files under lm-eval: the same rows, prompts, answers and options as ours, judged by our rules."""

from __future__ import annotations

import copy
import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation import evaluate
from infosteer.evaluation.tasks import (
    FOLDER,
    expand,
    group_info,
    list_groups,
    list_tasks,
    load_task,
    task_info,
    training_rows,
)

from .conftest import tiny

pytest.importorskip("lm_eval", reason="lm-eval is an extra")
pytest.importorskip("datasets")

DATA = Path(os.environ.get("INFOSTEER_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
ROWS = 5


@pytest.fixture(scope="module", autouse=True)
def _data() -> None:
    if not (DATA / "llm-adapters").is_dir():
        pytest.skip(f"no data at {DATA}")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of every file, so that thirty tasks load in seconds."""
    folder = tmp_path_factory.mktemp("data")
    for name in list_tasks():
        info = task_info(name)
        local = DATA / info.local
        files = sorted(local.glob("*.jsonl.gz")) if local.is_dir() else [local.with_name(local.name + ".jsonl.gz")]
        for file in files:
            target = folder / file.relative_to(DATA)
            target.parent.mkdir(parents=True, exist_ok=True)
            with gzip.open(file, "rt", encoding="utf-8") as lines, target.with_suffix("").open("a") as kept:
                wanted = [str(value) for value in info.keep.get("test", {}).values()]
                kept.writelines(_first(lines, 2 * ROWS, wanted))
    return folder


def _first(lines: Any, count: int, wanted: list[str]) -> list[str]:
    found: list[str] = []
    for line in lines:
        if len(found) == count:
            break
        if all(f'"{value}"' in line for value in wanted):
            found.append(line)
    return found


@pytest.fixture(scope="module")
def manager(small: Path) -> Any:
    from lm_eval.tasks import TaskManager

    metadata = {"infosteer": {"data": str(small)}}
    return TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=metadata)


def test_lm_eval_finds_every_file_and_no_other_name(manager: Any) -> None:
    assert set(manager.all_subtasks) == {task_info(name).lm_eval_name for name in list_tasks()}
    assert set(manager.all_groups) == {group_info(name).lm_eval_name for name in list_groups()}
    assert all(name.startswith("infosteer_") for name in manager.all_tasks)


@pytest.mark.parametrize("name", list_tasks())
def test_prompts_targets_and_options_are_ours(name: str, manager: Any, small: Path) -> None:
    info = task_info(name)
    ours = load_task(name, data=small)
    (theirs,) = manager.load([info.lm_eval_name])["tasks"].values()
    assert info.version == theirs.VERSION
    docs = list(theirs.test_docs())
    assert len(docs) == len(ours.rows) >= ROWS
    for doc, row in zip(docs, ours.rows, strict=True):
        assert theirs.fewshot_context(doc, 0) == theirs.doc_to_text(doc) == row["prompt"]
        assert theirs.doc_to_target(doc) == row["answer"]
        if info.options is not None:
            assert theirs.doc_to_choice(doc) == row["options"]
        request = theirs.construct_requests(doc=doc, ctx=row["prompt"])
        assert request.request_type == "generate_until"
        prompt, generation = request.args
        assert prompt == row["prompt"]
        assert generation["until"] == row["stop"]
        assert generation["max_gen_toks"] == ours.max_new_tokens
        assert not generation["do_sample"]


@pytest.mark.parametrize(
    ("name", "text", "measures"),
    [
        ("boolq", "{answer}", (1, 1, 0, 0)),
        ("boolq", "true or false", (None, 0, 0, 1)),
        ("boolq", "no idea", (0, 0, 1, 1)),
        ("gsm8k", "so 1 + 1. The answer is {answer}.", (1, 1, 0, 0)),
        ("gsm8k", "{answer} of 7 + 1 or {answer}", (1, 0, 0, 1)),
        ("triviaqa", "{answer}, I think", (1, 0, 0, 0)),
        ("aqua", "The answer is ({answer})", (1, 1, 0, 0)),
    ],
)
def test_answers_are_judged_by_our_rules(name: str, text: str, measures: tuple[Any, ...], manager: Any) -> None:
    (task,) = manager.load([task_info(name).lm_eval_name])["tasks"].values()
    doc = task.test_docs()[0]
    found = task.process_results(doc, [text.format(answer=doc["answer"])])
    for key, wanted in zip(("exact_match", "strict_match", "no_answer", "no_answer_strict"), measures, strict=True):
        assert wanted is None or found[key] == wanted, key
    assert set(found) == set(task.aggregation()) == set(task.higher_is_better())


def test_groups_hold_what_ours_hold(manager: Any) -> None:
    for group in ("commonsense", "all15"):
        loaded = manager.load([group_info(group).lm_eval_name])
        assert list(loaded["tasks"]) == [task_info(name).lm_eval_name for name in expand([group])]


def test_options_by_likelihood(manager: Any, small: Path) -> None:
    """The group ``likelihood`` asks for the options after the prompt and the lead, as our option_accuracy does."""
    loaded = manager.load(["infosteer_likelihood"])["tasks"]
    assert {name.removeprefix("infosteer_") for name in loaded} == {
        name for name in list_tasks() if task_info(name).options is not None
    }
    for name in ("boolq", "aqua", "commonsenseqa"):
        task = loaded[f"infosteer_{name}"]
        row, doc = load_task(name, data=small).rows[0], task.test_docs()[0]
        context = task.fewshot_context(doc, 0, gen_prefix=task.doc_to_prefix(doc))
        requests = task.construct_requests(doc=doc, ctx=context)
        assert [request.args for request in requests] == [(row["prompt"] + row["lead"], o) for o in row["options"]]
        right = row["options"].index(row["answer"])
        scores = [(-1.0 if place == right else -2.0, False) for place in range(len(row["options"]))]
        assert task.process_results(doc, scores) == {"acc": 1.0, "acc_bytes": 1.0}


def test_worked_examples_come_from_the_training_split(small: Path, manager: Any) -> None:
    (task,) = manager.load(["infosteer_boolq"])["tasks"].values()
    task.set_fewshot_seed(3)
    doc = task.test_docs()[0]
    context = task.fewshot_context(doc, 2)
    assert context.endswith(doc["prompt"])
    pool = [row["prompt"] + row["completion"] + "\n\n" for row in training_rows("boolq", data=small)]
    assert sum(context.count(one) for one in pool) == 2
    before = context.removesuffix(doc["prompt"])
    assert not any(row["prompt"] in before for row in load_task("boolq", data=small).rows)

    (addsub,) = manager.load(["infosteer_addsub"])["tasks"].values()
    addsub.set_fewshot_seed(3)
    with pytest.raises(DataError, match="no split 'train'"):
        addsub.fewshot_context(addsub.test_docs()[0], 1)


def test_shots_by_metadata_are_our_prompts_to_the_letter(small: Path) -> None:
    from lm_eval.tasks import TaskManager

    settings = {"data": str(small), "shots": 2, "seed": 7, "template": "alpaca"}
    manager = TaskManager(include_path=str(FOLDER), include_defaults=False, metadata={"infosteer": settings})
    (task,) = manager.load(["infosteer_gsm8k"])["tasks"].values()
    ours = load_task("gsm8k", **settings)
    assert [task.doc_to_text(doc) for doc in task.test_docs()] == [row["prompt"] for row in ours.rows]


def test_the_same_model_is_scored_alike_to_the_last_row(
    small: Path, manager: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our evaluation against lm-eval's evaluator and its Hugging Face model: what is written, read, and preferred."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # seconds, and of no interest here
    model = tiny("llama", len(tokenizer), positions=2048, seed=1)

    def theirs(tasks: list[Any]) -> Any:
        lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=3)
        found = simple_evaluate(model=lm, tasks=tasks, task_manager=manager, limit=4, bootstrap_iters=0)
        return {name.removeprefix("infosteer_"): rows for name, rows in found["samples"].items()}

    decoded = theirs(["infosteer_boolq", "infosteer_wsc", "infosteer_lambada"])
    options = theirs(
        [manager.load(["infosteer_likelihood"])["tasks"][f"infosteer_{name}"] for name in ("boolq", "wsc")]
    )
    for name, rows in decoded.items():
        ours = evaluate(model, tokenizer, [load_task(name, data=small, limit=4)], batch_size=4)[name]
        rows = sorted(rows, key=lambda row: row["doc_id"])
        assert [row["prediction"] for row in ours.rows] == [row["resps"][0][0] for row in rows]
        for measure in ("exact_match", "strict_match"):
            assert ours.per_example[measure] == [row[measure] for row in rows]
        for count in ("no_answer", "no_answer_strict"):
            assert ours.failures[count] == sum(row[count] for row in rows)
        if name in options:
            rows = sorted(options[name], key=lambda row: row["doc_id"])
            assert ours.per_example["option_accuracy"] == [row["acc"] for row in rows]
            assert ours.per_example["option_accuracy_norm"] == [row["acc_bytes"] for row in rows]


def test_a_misspelt_setting_is_named() -> None:
    from lm_eval.tasks import TaskManager

    metadata = {"infosteer": {"dta": "x"}}
    manager = TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=metadata)
    with pytest.raises(ConfigError, match="did you mean 'data'"):
        manager.load(["infosteer_boolq"])
