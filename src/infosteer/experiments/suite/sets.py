"""From what ``--tasks`` says to evaluation sets, their groups, and tasks of lm-eval."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infosteer.errors import ConfigError
from infosteer.evaluation import EvalSet, load_set
from infosteer.evaluation.tasks import expand, list_groups, list_tasks, load_task
from infosteer.experiments.suite.settings import SuiteSettings, named

LM_EVAL = "lm_eval:"
ALL = "all"  # the group of everything, where no group was asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Everything that every model is asked.

    Attributes:
        sets: rows by name, in the order asked for.
        groups: group -> names of its sets; each has a macro average.
        lm_eval: tasks that lm-evaluation-harness runs, as ``lm_eval:TASK``.
    """

    sets: dict[str, EvalSet]
    groups: dict[str, list[str]]
    lm_eval: list[str]

    @property
    def names(self) -> list[str]:
        """Names of all sets and lm-eval tasks."""
        return [*self.sets, *self.lm_eval]

    def to_config(self) -> dict[str, Any]:
        """Every set with what tells other rows apart from these."""
        rows = {
            name: {
                "source": one.source,
                "rows": len(one.rows),
                "rows_sha256": rows_digest(one),
                "scoring": one.scoring,
                "max_new_tokens": one.max_new_tokens,
                **one.facts,
            }
            for name, one in self.sets.items()
        }
        return {**rows, **{name: {"source": name} for name in self.lm_eval}}


def load_wanted(settings: SuiteSettings) -> Wanted:
    """Read all rows.

    Raises: ConfigError for unknown tasks and two sets of one name; DataError for rows that cannot be read.
    """
    sets: dict[str, EvalSet] = {}
    groups: dict[str, list[str]] = {}
    lm_eval: list[str] = []
    for text in settings.tasks:
        name, rest = named(text)
        if rest.startswith(LM_EVAL):
            _add(lm_eval, sets, rest, text)
            lm_eval.append(rest)
        elif name is None and not _is_source(rest):
            members = expand([rest])
            if members != [rest] and rest in list_groups():
                groups[rest] = members
            for member in members:
                if member not in sets:  # a task of two groups is asked once
                    _add(lm_eval, sets, member, text)
                    sets[member] = _task(member, settings)
        else:
            name = name or _name_of(rest)
            _add(lm_eval, sets, name, text)
            sets[name] = _source(name, rest, settings)
    if not groups and len(sets) > 1:
        groups[ALL] = list(sets)
    if clash := set(groups) & {*sets, *lm_eval}:
        raise ConfigError("a set has the name of a group", got=", ".join(sorted(clash)), fix="name it: NAME=SOURCE")
    return Wanted(sets=sets, groups=groups, lm_eval=lm_eval)


def rows_digest(evalset: EvalSet) -> str:
    """64 bits of SHA-256 over the rows."""
    return hashlib.sha256(json.dumps(evalset.rows, sort_keys=True).encode()).hexdigest()[:16]


def _add(lm_eval: Sequence[str], sets: dict[str, EvalSet], name: str, text: str) -> None:
    if name in sets or name in lm_eval:
        raise ConfigError("two sets have one name", where=f"--tasks {text}", got=name, fix="name one: NAME=SOURCE")


def _is_source(text: str) -> bool:
    """Whether this names rows and no task: the lab's, a file, a folder, or a hub data set."""
    known = {*list_tasks(), *list_groups()}
    return text not in known and (text.startswith("lab:") or "/" in text or Path(text).expanduser().exists())


def _name_of(source: str) -> str:
    name = source.rstrip("/").rpartition("/")[2].removeprefix("lab:")
    return name.split(".")[0] or "rows"


def _task(name: str, settings: SuiteSettings) -> EvalSet:
    wording = {} if settings.template is None else {"template": settings.template}
    return load_task(
        name,
        data=settings.data,
        limit=settings.limit,
        shots=settings.shots,
        seed=settings.seed,
        skip_bad_rows=settings.skip_bad_rows,
        **wording,
    )


def _source(name: str, source: str, settings: SuiteSettings) -> EvalSet:
    if settings.shots:
        raise ConfigError(
            "shots are for tasks: rows of a source of one's own are asked as they stand",
            where=f"--tasks {source}",
            got=f"--shots {settings.shots}",
        )
    spec = {"source": source} | ({} if settings.template is None else {"template": settings.template})
    return replace(load_set(name, spec, limit=settings.limit, skip_bad_rows=settings.skip_bad_rows), source=source)
