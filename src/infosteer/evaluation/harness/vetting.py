"""Which lm-eval tasks may run: none that executes what a model wrote, none that fetches code.

lm-eval asks before it runs a task that is marked ``unsafe_code``, but builds it first, which runs its helper code.
Here a task's file is read without running anything: the mark counts, metrics that would be fetched as code from the hub
count, and so do helper files beside the task that could execute text or start programs. Reading code proves nothing
about what it can be made to do; it finds those who do not hide it.
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.registry import metric_registry
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind, TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml

from infosteer.errors import ConfigError

RUNS_TEXT = frozenset({"exec", "eval", "compile", "__import__", "sympify", "parse_expr"})
STARTS_PROGRAMS = frozenset({"subprocess", "pty"})
OS_CALLS = frozenset({"system", "popen", "execv", "execve", "execvp", "spawnv", "posix_spawn"})
TASKS = Path(inspect.getfile(TaskManager)).parent  # lm-eval's own task files


class VettedTaskManager(TaskManager):
    """lm-eval's task manager, which looks at the tasks before it builds them."""

    def load(self, task_list: Any) -> Any:
        """As lm-eval's. Raises: ConfigError for unknown tasks and for those that are refused, by name."""
        vet(self, task_list if isinstance(task_list, list) else [task_list])
        return super().load(task_list)


def vet(manager: TaskManager, names: Sequence[Any]) -> None:
    """Look at every task that the names stand for: tasks, groups, tags, YAML files, or configurations.

    Raises:
        ConfigError: unknown names (the nearest are named), or tasks that may not run, each with the reason.
    """
    reasons = {}
    for name, config in (leaf for spec in names for leaf in _leaves(manager, spec, {})):
        reason = refusal(config)
        if reason is not None:
            reasons[name] = reason
    if reasons:
        shown = [f"{name}: {reason}" for name, reason in list(reasons.items())[:12]]
        more = [f"and {len(reasons) - len(shown)} more"] if len(reasons) > len(shown) else []
        raise ConfigError(
            "these lm-eval tasks would run code that nobody here has checked",
            where="tasks",
            got="; ".join([*shown, *more]),
            expected="tasks that compare text or likelihoods",
            fix="run them with lm-eval itself, in a sandbox of your own",
        )


def refusal(config: Mapping[str, Any]) -> str | None:
    """Why a task with this configuration may not run; None when nothing speaks against it."""
    if config.get("unsafe_code"):
        return "marked unsafe_code: it executes what the model writes"
    if (config.get("dataset_kwargs") or {}).get("trust_remote_code"):
        return "its data set asks for trust_remote_code"
    import lm_eval.api.metrics  # noqa: F401 - fills the registry

    for metric in config.get("metric_list") or []:
        name = metric.get("metric") if isinstance(metric, Mapping) else metric
        named = isinstance(name, str) and not Path(name).is_absolute()
        if named and (name not in metric_registry or metric.get("hf_evaluate")) and not config.get("process_results"):
            return f"its metric {name} is code that the package evaluate fetches from the hub"
    for path in dict.fromkeys(_helpers(config)):
        reason = _suspect(path)
        if reason is not None:
            return f"{path.name} {reason}"
    return None


def _leaves(manager: TaskManager, spec: Any, above: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tasks that a name or configuration stands for, with their settings, functions named and not imported."""
    if not isinstance(spec, (str, Mapping)):  # a Task or Group that the caller has built
        return
    config = dict(spec) if isinstance(spec, Mapping) else {}
    name = spec if isinstance(spec, str) else config.get("group") or config.get("task")
    if isinstance(name, list) or name is None:
        raise ConfigError("not a task", where="tasks", got=spec, expected="a name, a YAML file or a configuration")
    entry = manager.task_index.get(name)
    if entry is None and isinstance(spec, str):
        entry = TaskIndex.entry_from_path(Path(spec)) if spec.endswith((".yaml", ".yml")) else None
        if entry is None:
            near = difflib.get_close_matches(spec, manager.all_tasks, n=3)
            raise ConfigError(
                "lm-eval has no such task",
                where="tasks",
                got=spec,
                expected=f"such as {', '.join(near)}"
                if near
                else "a name that `lm_eval ls tasks` lists, or a YAML file",
            )
    if entry is None:
        yield from _children(manager, name, {**above, **config})
        return
    if entry.kind is Kind.TAG:
        for tagged in sorted(entry.tags):
            yield from _leaves(manager, tagged, above)
        return
    own = entry.cfg if entry.cfg is not None else load_yaml(entry.yaml_path, resolve_func=False)
    yield from _children(manager, name, {**own, **above, **config})


def _children(manager: TaskManager, name: str, config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    members = config.get("task")
    if not isinstance(members, list):
        yield name, config
        return
    above = {key: value for key, value in config.items() if key not in ("group", "task", "tag", "group_alias")}
    for member in members:
        yield from _leaves(manager, member, above)


def _helpers(value: Any) -> Iterator[Path]:
    """Python files that a configuration's functions are in."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _helpers(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _helpers(part)
    elif callable(value):
        yield Path(inspect.getfile(inspect.unwrap(value)))
    elif isinstance(value, str) and value.startswith("/"):  # functions are named by folder/module.function
        place = Path(value.rpartition(".")[0])
        for path in (
            place.parent / f"{place.name.replace('.', '/')}.py",
            TASKS.parent.parent / f"{place.name.replace('.', '/')}.py",
        ):
            if path.is_file():
                yield path
                return


@functools.cache
def _suspect(path: Path) -> str | None:
    """What in a file, or in files beside it that it imports, could execute text or fetch code; None if nothing."""
    waiting, seen = [path.resolve()], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        fetchers = {"evaluate"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                fetchers |= {alias.asname for alias in node.names if alias.name == "evaluate" and alias.asname}
        for node in ast.walk(tree):
            reason = _reason(node, fetchers)
            if reason is not None:
                return f"{reason} ({path.name}:{getattr(node, 'lineno', 0)})"
            waiting += _imported(node, path)
    return None


def _reason(node: ast.AST, fetchers: set[str]) -> str | None:
    modules: Iterable[str] = ()
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        modules = [node.module or ""]
        if node.module == "evaluate" and any(alias.name == "load" for alias in node.names):
            return "fetches metrics as code from the hub"
    if started := STARTS_PROGRAMS & {module.split(".")[0] for module in modules}:
        return f"imports {', '.join(started)}"
    if not isinstance(node, ast.Call):
        return None
    called = node.func
    if isinstance(called, ast.Name) and called.id in RUNS_TEXT:
        return f"calls {called.id}"
    if isinstance(called, ast.Attribute):
        base = called.value.id if isinstance(called.value, ast.Name) else ""
        if called.attr in ("sympify", "parse_expr") or (base == "os" and called.attr in OS_CALLS):
            return f"calls {base}.{called.attr}"
        if called.attr == "load" and base in fetchers:
            return "fetches metrics as code from the hub"
    return None


def _imported(node: ast.AST, path: Path) -> list[Path]:
    """Files that an import statement means, among those beside ``path`` and lm-eval's own tasks."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        stem = node.module or ""
        names = [stem, *(f"{stem}.{alias.name}".strip(".") for alias in node.names)]
    folder = path.parents[node.level - 1] if isinstance(node, ast.ImportFrom) and node.level else path.parent
    found = []
    for name in names:
        parts = name.split(".")
        places = [folder / Path(*parts)] if name else []
        if parts[:2] == ["lm_eval", "tasks"]:
            places.append(TASKS / Path(*parts[2:]))
        found += [place.with_name(f"{place.name}.py").resolve() for place in places]
    return [file for file in found if file.is_file()]
