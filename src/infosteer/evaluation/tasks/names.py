"""From what people type to tasks: names, aliases and groups."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable, Mapping

from infosteer.core.config import suggestion
from infosteer.errors import ConfigError
from infosteer.evaluation.tasks.facts import PREFIX, GroupInfo, TaskInfo, groups, members, tasks


def list_tasks(pattern: str = "*") -> list[str]:
    """Names of the tasks that match a shell pattern, or that a group of this name holds; the paper's first.

    >>> list_tasks("arc_*")
    ['arc_easy', 'arc_challenge']
    """
    if pattern in groups():
        return members(pattern)
    return [name for name in tasks() if fnmatch.fnmatch(name, pattern)]


def list_groups() -> list[str]:
    """Names of the groups."""
    return list(groups())


def task_info(name: str) -> TaskInfo:
    """Facts about a task, by its name or one of its aliases (case, ``-`` and ``_`` do not matter).

    Raises:
        ConfigError: no task of this name (near matches are named), or a group's name.
    """
    found = _names().get(_plain(name)) if isinstance(name, str) else None
    if found in tasks():
        return tasks()[str(found)]
    if found is not None:
        raise ConfigError("this is a group of tasks, not a task", got=name, expected=", ".join(members(found)))
    raise _unknown(name)


def group_info(name: str) -> GroupInfo:
    """Facts about a group.

    Raises:
        ConfigError: no group of this name.
    """
    found = _names().get(_plain(name)) if isinstance(name, str) else None
    if found not in groups():
        raise ConfigError("unknown group of tasks" + suggestion(name, groups()), got=name, expected=", ".join(groups()))
    return groups()[str(found)]


def expand(names: str | Iterable[str]) -> list[str]:
    """The tasks that ``names`` stand for: tasks, aliases and groups, each task once, in the order given.

    Args:
        names: a list of names, or one text with commas between them.

    Raises:
        ConfigError: a name that is none (near matches are named), or no name at all.
    """
    asked = names.split(",") if isinstance(names, str) else list(names)
    wanted: dict[str, None] = {}
    for name in asked:
        if isinstance(name, str) and not name.strip():
            continue
        found = _names().get(_plain(name)) if isinstance(name, str) else None
        if found is None:
            raise _unknown(name)
        wanted |= dict.fromkeys([found] if found in tasks() else members(found))
    if not wanted:
        raise ConfigError("no task is named", where="tasks", expected=f"tasks or groups: {', '.join(groups())}, ...")
    return list(wanted)


def _unknown(name: object) -> ConfigError:
    return ConfigError(
        "unknown task" + suggestion(str(name).strip(), _shown()),
        got=name,
        expected=f"tasks: {', '.join(tasks())}; groups: {', '.join(groups())}",
        fix="`infosteer ls tasks` lists them",
    )


def _plain(name: str) -> str:
    return re.sub(r"[-\s]+", "_", name.strip().casefold()).removeprefix(PREFIX)


def _shown() -> list[str]:
    return [*tasks(), *(alias for task in tasks().values() for alias in task.aliases), *groups()]


@functools.cache
def _names() -> Mapping[str, str]:
    """Everything a task or group answers to, in plain spelling -> its name."""
    found: dict[str, str] = {}
    for task in tasks().values():
        for spelling in (task.name, *task.aliases):
            _add(found, spelling, task.name)
    for group in groups():
        _add(found, group, group)
    return found


def _add(found: dict[str, str], spelling: str, name: str) -> None:
    if found.setdefault(_plain(spelling), name) != name:
        raise ConfigError("two tasks answer to the same name", got=spelling, expected=found[_plain(spelling)])
