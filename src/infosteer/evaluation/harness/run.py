"""Any task of lm-evaluation-harness on a model in this process: its prompts, filters and metrics, our engine."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
import numpy as np
import torch
from lm_eval.api.group import Group
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.evaluator import evaluate

from infosteer.errors import ConfigError, DataError, InfoSteerError
from infosteer.evaluation.harness.lm import BATCH_SIZE, Progress, SteeredLM
from infosteer.evaluation.harness.scores import measure_name, result_of
from infosteer.evaluation.harness.vetting import VettedTaskManager
from infosteer.evaluation.model_state import device_of
from infosteer.evaluation.set_result import SetResult

logger = logging.getLogger(__name__)

PREFIX = "lm_eval:"


def run_harness(
    model: Any,
    tokenizer: Any,
    names: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    progress: Progress | None = None,
    include_path: str | Path | None = None,
    num_fewshot: int | None = None,
    chat_template: bool = False,
    done: Callable[[SetResult], None] | None = None,
) -> dict[str, SetResult]:
    """Evaluate a model, steered or not, on tasks of lm-evaluation-harness.

    Args:
        names: tasks, groups or tags of lm-eval, or YAML files of tasks; ``lm_eval:`` before a name is taken off.
        limit: use only this many examples of each task.
        batch_size: sequences in one forward.
        seed: of draws where a task samples, and of the examples shown; worked examples in prompts are lm-eval's own
            choice, so that scores agree with its own.
        progress: called as ``progress(what, done, total)``.
        include_path: folder of further tasks.
        num_fewshot: worked examples in a prompt; None leaves it to the task. A task that fixes none keeps none.
        chat_template: put prompts through the tokenizer's chat template.
        done: called with each task's result as soon as it is there.

    Returns:
        ``lm_eval:<task>`` -> its result, each task of a group by itself. A group that lm-eval aggregates has a result
        of its own behind them: of all examples where tasks weigh by their size, else one value for each measure.

    Raises:
        ConfigError: unknown tasks, and tasks that would run model text or fetched code, by name.
        DataError: a task whose data cannot be had or does not fit its configuration.
        InfoSteerError: the model computes NaN or infinity.
    """
    if not names:
        raise ConfigError("no lm-eval task was named", where="tasks")
    wanted = [name.removeprefix(PREFIX) for name in names]
    manager = _manager(wanted, include_path)
    with _lm_eval_seeds(), _without_bars():
        tasks, groups = _load(manager, wanted)
        lm = SteeredLM(model, tokenizer=tokenizer, batch_size=batch_size, seed=seed)
        results, aggregates = {}, {}
        for name, task in tasks.items():
            _set_shots(task, num_fewshot)
            lm.cut = lm.unfinished = 0
            lm.progress = None if progress is None else _named(progress, name)
            found = _evaluate(lm, name, task, limit, chat_template)
            aggregates[name] = found["results"][name]
            failures = {"cut": lm.cut}
            if task.OUTPUT_TYPE == "generate_until":
                failures["unfinished"] = lm.unfinished
            result = result_of(
                PREFIX + name,
                task,
                found["samples"][name],
                aggregates[name],
                failures=failures,
                settings=_settings(task, model, batch_size, seed, limit, chat_template),
                seed=seed,
            )
            if lm.cut:
                logger.warning("%s: %d prompts were cut from the left to fit the model, as lm-eval does", name, lm.cut)
            results[PREFIX + name] = result
            if done is not None:
                done(result)
        for group in groups:
            if group.has_aggregation:
                results[PREFIX + group.name] = _of_group(group, aggregates, results)
    return results


def _manager(names: Sequence[str], include_path: str | Path | None) -> VettedTaskManager:
    """A task manager; lm-eval's own thousands of task files are read only where a name is not found without them."""
    if include_path is not None and not Path(include_path).is_dir():
        raise ConfigError("there is no such folder of tasks", where="include_path", got=str(include_path))
    paths = None if include_path is None else str(include_path)
    own = VettedTaskManager(include_path=paths, include_defaults=False)
    if all(name in own.task_index or name.endswith((".yaml", ".yml")) for name in names):
        return own
    return VettedTaskManager(include_path=paths)


def _load(manager: VettedTaskManager, names: Sequence[str]) -> tuple[dict[str, Any], list[Group]]:
    """Tasks by name and groups, those without subgroups first, with their data."""
    tasks: dict[str, Any] = {}
    groups: dict[str, Group] = {}
    for name in names:
        with _told(name, "the task cannot be built, or its data cannot be had"):
            loaded = manager.load([name])
        tasks.update(loaded["tasks"])
        groups.update(loaded.get("groups") or {})
    if pictures := [name for name, task in tasks.items() if getattr(task, "MULTIMODAL", False)]:
        raise ConfigError("these tasks need more than text", where="tasks", got=", ".join(pictures))
    return tasks, list(reversed(groups.values()))


def _set_shots(task: Any, num_fewshot: int | None) -> None:
    """lm-eval's rule: a task that says 0 keeps it, one that says nothing gets 0."""
    said = task.get_config("num_fewshot")
    if num_fewshot is not None and said != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif said is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _evaluate(lm: SteeredLM, name: str, task: Any, limit: int | None, chat_template: bool) -> Any:
    with _told(name, "the task failed on its data"):
        return evaluate(
            lm=lm,
            task_dict={"tasks": {name: task}, "groups": {}},
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
        )


def _settings(
    task: Any, model: Any, batch_size: int, seed: int, limit: int | None, chat_template: bool
) -> dict[str, Any]:
    config = task.config
    return {
        "scoring": f"lm-eval {task.OUTPUT_TYPE}",
        "source": ":".join(str(part) for part in (config.dataset_path, config.dataset_name) if part),
        "version": task.VERSION,
        "lm_eval": importlib.metadata.version("lm_eval"),
        "num_fewshot": config.num_fewshot,
        "template": "chat" if chat_template else "none",
        "generation": config.generation_kwargs,
        "higher_is_better": dict(task.higher_is_better()),
        "batch_size": batch_size,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "device": device_of(model).type,
        "seed": seed,
        "limit": limit,
    }


def _of_group(group: Group, aggregates: dict[str, Any], results: dict[str, SetResult]) -> SetResult:
    """A group as lm-eval aggregates it, with the examples behind it where they are a plain sum."""
    aggregates[group.name] = group.aggregate(aggregates)
    parts = [results[PREFIX + task.task_name] for task in group.get_all_tasks()]
    columns = {}
    for key, value in aggregates[group.name].items():
        metric, comma, one = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        measure = measure_name(metric, one)
        whole = [score for part in parts for score in part.per_example.get(measure, [])]
        complete = all(len(part.per_example.get(measure, [])) == part.n for part in parts)
        same = complete and bool(np.isclose(np.nanmean(whole), value, rtol=1e-9))
        columns[measure] = whole if same else [float(value)]
    return SetResult(
        name=PREFIX + group.name,
        n=sum(part.n for part in parts),
        measures={measure: float(np.nanmean(values)) for measure, values in columns.items()},
        per_example=columns,
        samples=[],
        failures={key: sum(part.failures.get(key, 0) for part in parts) for key in parts[0].failures},
        settings={"scoring": "lm-eval group", "tasks": [part.name for part in parts]},
    )


def _named(progress: Progress, name: str) -> Progress:
    return lambda what, count, total: progress(f"{name}: {what}", count, total)


@contextmanager
def _told(name: str, what: str) -> Iterator[None]:
    """Turns whatever a task raises into an error that names it; ours pass, with the task's name where they had none."""
    try:
        yield
    except InfoSteerError as error:
        if error.where is not None:
            raise
        raise type(error)(
            error.what, where=PREFIX + name, got=error.got, expected=error.expected, fix=error.fix
        ) from error
    except Exception as error:  # tasks hold code of many people
        text = (str(error).strip().splitlines() or [""])[0]
        raise DataError(
            what,
            where=PREFIX + name,
            got=f"{type(error).__name__}: {text}",
            fix="its data must be in the local cache or within reach; `lm_eval validate --tasks NAME` checks its file",
        ) from error


@contextmanager
def _without_bars() -> Iterator[None]:
    """Without the bars of lm-eval and datasets, which know nothing of the caller's progress."""
    shown, bar = not datasets.are_progress_bars_disabled(), lm_eval.api.task.tqdm
    datasets.disable_progress_bars()
    lm_eval.api.task.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = bar
        if shown:
            datasets.enable_progress_bars()


@contextmanager
def _lm_eval_seeds() -> Iterator[None]:
    """The global generators seeded as lm-eval seeds them, since tasks draw from them; afterwards as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
