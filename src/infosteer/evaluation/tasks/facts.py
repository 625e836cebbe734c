"""What is known about each task: read from the task files, which lm-eval reads too, and stated nowhere else.

``<folder>/<name>.yaml`` is one task in lm-eval's format; our own facts stand under its ``metadata``, its card beside it
as ``<name>.md``. ``groups/<name>.yaml`` is a group. Under lm-eval every name carries the prefix ``infosteer_``, so that
none of lm-eval's own is shadowed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infosteer.core.config import check_keys
from infosteer.errors import ConfigError
from infosteer.evaluation.extract import Scoring

FOLDER = Path(__file__).resolve().parent
PREFIX = "infosteer_"
SUITE = "llm-adapters"  # folder and wording of the suite of Hu et al. (2023)
OWN_WORDING = "infosteer"
SCORINGS: tuple[Scoring, ...] = ("option", "number", "phrase")

_METADATA = {
    "version",
    "title",
    "about",
    "aliases",
    "tables",
    "source",
    "licence",
    "local",
    "keep",
    "rows",
    "scoring",
    "options",
    "hub",
    "convert",
}
_NEEDED = ("version", "title", "about", "source", "licence", "local", "rows", "scoring")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskInfo:
    """Facts about one task.

    Attributes:
        name: its name here; ``lm_eval_name`` under lm-eval.
        folder: what kind of task it is, the folder of its file.
        title, about: for people.
        aliases: other names it answers to.
        tables: the paper's tables that hold it.
        source, licence: of the benchmark and its wording.
        local: where its rows lie below a data folder.
        keep: split -> columns and values of the rows that belong to it, where a file holds rows of several tasks.
        rows: test rows of the full published set; the data at hand may hold fewer.
        scoring: how an answer is judged: option, number or phrase.
        options: fewest and most options a row may have; None for questions without options.
        hub: data set id, configuration, and the splits that serve as test and train; empty where no hub copy is named.
        convert: function of ``convert`` that puts raw benchmark rows into words.
        stop: texts that end an answer.
        max_new_tokens: longest answer to decode.
        version: raised when the wording or the scoring changes.
        file: the task file.
    """

    name: str
    folder: str
    title: str
    about: str
    aliases: tuple[str, ...]
    tables: tuple[str, ...]
    source: str
    licence: str
    local: str
    keep: Mapping[str, Mapping[str, Any]]
    rows: int
    scoring: Scoring
    options: tuple[int, int] | None
    hub: Mapping[str, str]
    convert: str
    stop: tuple[str, ...]
    max_new_tokens: int
    version: float
    file: Path

    @property
    def lm_eval_name(self) -> str:
        """The task's name under lm-eval."""
        return PREFIX + self.name

    @property
    def card(self) -> Path:
        """The task's card."""
        return self.file.with_suffix(".md")

    @property
    def of_suite(self) -> bool:
        """Whether the local rows carry the wording of the LLM-Adapters suite."""
        return self.local.startswith(f"{SUITE}/")

    @property
    def wording(self) -> str:
        """Whose words the local rows are in; raw benchmark rows are always put into our own."""
        return SUITE if self.of_suite else OWN_WORDING

    @property
    def chance(self) -> str:
        """What guessing scores, as a rule."""
        if self.options is None:
            return "0"
        low, high = self.options
        return f"1/{low}" if low == high else f"1/{high} to 1/{low}"


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupInfo:
    """A named list of tasks and groups, in the order of the paper."""

    name: str
    title: str
    about: str
    members: tuple[str, ...]
    file: Path

    @property
    def lm_eval_name(self) -> str:
        """The group's name under lm-eval."""
        return PREFIX + self.name


@functools.cache
def tasks() -> Mapping[str, TaskInfo]:
    """Every task by name, in the order of the groups that hold them."""
    found = {}
    for file in sorted(FOLDER.glob("*/*.yaml")):
        if file.parent.name != "groups":
            found[file.stem] = _task(file)
    order = {name: place for place, name in enumerate(_leaves("all15", groups(), found))}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


@functools.cache
def groups() -> Mapping[str, GroupInfo]:
    """Every group by name."""
    found = {}
    for file in sorted(FOLDER.glob("groups/*.yaml")):
        raw = read_task_file(file)
        name = str(raw.get("group", "")).removeprefix(PREFIX)
        facts = raw.get("metadata", {})
        if name != file.stem or not isinstance(raw.get("task"), list) or not {"title", "about"} <= set(facts):
            raise ConfigError("a group file needs group (its own name), task and metadata", where=file, got=name)
        found[name] = GroupInfo(
            name=name,
            title=facts["title"],
            about=facts["about"],
            members=tuple(str(member).removeprefix(PREFIX) for member in raw["task"]),
            file=file,
        )
    return found


def _leaves(name: str, known: Mapping[str, GroupInfo], found: Mapping[str, TaskInfo]) -> list[str]:
    if name in found:
        return [name]
    if name not in known:
        raise ConfigError("a group names a task that does not exist", got=name)
    return list(dict.fromkeys(leaf for member in known[name].members for leaf in _leaves(member, known, found)))


def members(group: str) -> list[str]:
    """The tasks of a group, those of its groups included, each once."""
    return _leaves(group, groups(), tasks())


class _TaskLoader(yaml.SafeLoader):
    """The safe loader; lm-eval's ``!function`` stays text: nothing that a file names is imported here."""


_TaskLoader.add_constructor("!function", lambda loader, node: str(node.value))


def read_task_file(file: Path) -> dict[str, Any]:
    """One task or group file with its includes laid under it, as lm-eval reads them.

    Raises:
        ConfigError: the file cannot be read, or is no mapping.
    """
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), Loader=_TaskLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("cannot read the task file", where=file, got=str(error)) from None
    if not isinstance(raw, dict):
        raise ConfigError("a task file is a mapping", where=file, got=type(raw).__name__)
    include = raw.pop("include", None)
    below = [] if include is None else [include] if isinstance(include, str) else include
    merged: dict[str, Any] = {}
    for other in below:
        merged.update(read_task_file(file.parent / other))
    return merged | raw


def _task(file: Path) -> TaskInfo:
    raw = read_task_file(file)
    facts = raw.get("metadata")
    where = f"{file}: metadata"
    if not isinstance(facts, dict) or any(key not in facts for key in _NEEDED):
        raise ConfigError("a task file lacks facts", where=where, expected=", ".join(_NEEDED))
    check_keys(facts, _METADATA, where)
    names = {file.stem, str(raw.get("task", "")).removeprefix(PREFIX), (raw.get("dataset_kwargs") or {}).get("task")}
    if names != {file.stem}:
        raise ConfigError(
            "the file, its task and dataset_kwargs.task must agree", where=file, got=", ".join(sorted(map(str, names)))
        )
    options = facts.get("options")
    if facts["scoring"] not in SCORINGS or (facts["scoring"] == "option") != (options is not None):
        raise ConfigError(
            "the scoring does not fit the options",
            where=where,
            got=f"{facts['scoring']}, options {options}",
            expected=f"one of {', '.join(SCORINGS)}; options go with option",
        )
    generation = raw["generation_kwargs"]
    hub = {key: str(value) for key, value in facts.get("hub", {}).items()}
    if raw.get("dataset_path"):
        hub |= {"path": raw["dataset_path"]} | ({"name": raw["dataset_name"]} if raw.get("dataset_name") else {})
    return TaskInfo(
        name=file.stem,
        folder=file.parent.name,
        title=facts["title"],
        about=facts["about"],
        aliases=tuple(facts.get("aliases", ())),
        tables=tuple(str(table) for table in facts.get("tables", ())),
        source=facts["source"],
        licence=facts["licence"],
        local=facts["local"],
        keep=facts.get("keep", {}),
        rows=facts["rows"],
        scoring=facts["scoring"],
        options=None if options is None else (options, options) if isinstance(options, int) else tuple(options),
        hub=hub,
        convert=facts.get("convert", file.stem),
        stop=tuple(generation["until"]),
        max_new_tokens=generation["max_gen_toks"],
        version=float(facts["version"]),
        file=file,
    )
