"""Evaluation sets: rows, how their answers are judged, and where they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from infosteer.core.config import check_keys
from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.extract import Scoring, is_worked_solution
from infosteer.evaluation.ngrams import words
from infosteer.evaluation.train_texts import bare
from infosteer.training.answers import last_number
from infosteer.training.row_formats import Row
from infosteer.training.rows import Rows, read_rows

TASK = "task:"  # sources that are tasks


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSet:
    """Evaluation rows under a name.

    Attributes:
        name: what its measures are called by, ``<name>/<measure>``.
        rows: evaluation rows (see ``infosteer.training.rows``), all with answers or all texts.
        scoring: how a decoded answer is judged; "text" for sets of documents, which are only read.
        source: where the rows came from.
        max_new_tokens: longest answer to decode, or None for the default of its scoring.
        skipped: bad rows left out when it was read.
        places: file and line of every row, where known.
        task, group, version: the task it is, of which kind, in which version of its wording and scoring; None for rows
            that are no task's.
        wording: whose words a task's questions are in: "llm-adapters" (the suite's own) or "infosteer" (ours).
        template: what is put around an instruction.
        shots, shots_seed: worked examples before every question, and the seed that chose them.
    """

    name: str
    rows: list[Row] = field(repr=False)
    scoring: Scoring = "exact_match"
    source: str = "given"
    max_new_tokens: int | None = None
    skipped: int = 0
    places: list[str] = field(default_factory=list, repr=False)
    task: str | None = None
    group: str | None = None
    version: float | None = None
    wording: str | None = None
    template: str | None = None
    shots: int = 0
    shots_seed: int | None = None

    @property
    def chances(self) -> list[float]:
        """What guessing scores on every row: one over the number of options, 0 for questions without options."""
        return [1 / len(row["options"]) if row.get("options") else 0.0 for row in self.rows]

    @property
    def rows_sha256(self) -> str:
        """Equal for equal rows in one order, with wording, answers and options: what tells sets of one name apart."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()[:16]

    @property
    def facts(self) -> dict[str, Any]:
        """What a report must say about a task's rows; empty for rows that are no task's."""
        if self.task is None:
            return {}
        names = ("task", "group", "version", "wording", "template", "shots", "shots_seed")
        chance = sum(self.chances) / len(self.rows) if self.rows else 0.0
        return {name: getattr(self, name) for name in names} | {"chance": chance}


def load_set(
    name: str,
    spec: str | Path | Mapping[str, Any],
    *,
    base_dir: str | Path | None = None,
    limit: int | None = None,
    skip_bad_rows: bool = False,
) -> EvalSet:
    """Read one evaluation set of a recipe.

    Args:
        name: the set's name; no slash, since metrics are called ``<set>/<measure>``.
        spec: a source (``lab:facts/new_people``, ``task:boolq``, a file, a folder, a hub id), or a mapping with
            ``source`` and any of ``format, split, fields, template, limit, scoring, max_new_tokens, stop`` and settings
            of the source; of a task: ``data, template, limit, shots, seed, max_new_tokens, stop``.
        base_dir: folder that relative paths start from.
        limit: keep at most this many rows, also where the mapping allows more.
        skip_bad_rows: leave bad rows out and count them.

    Raises:
        ConfigError: a setting is unknown or does not fit the rows.
        DataError: the rows cannot be read.
    """
    settings: dict[str, Any] = dict(spec) if isinstance(spec, Mapping) else {"source": str(spec)}
    where = f"evaluate.{name}"
    if not name or "/" in name:
        raise ConfigError("a set's name must not be empty or hold a slash", where="evaluate", got=repr(name))
    if not isinstance(settings.get("source"), str | Path):
        raise ConfigError("an evaluation set needs a source", where=where, got=repr(spec), expected="source: ...")
    scoring = settings.pop("scoring", None)
    max_new_tokens = settings.pop("max_new_tokens", None)
    stop = settings.pop("stop", None)
    if scoring is not None and scoring not in get_args(Scoring):
        raise ConfigError(
            "unknown scoring", where=f"{where}.scoring", got=repr(scoring), expected=", ".join(get_args(Scoring))
        )
    if max_new_tokens is not None and (type(max_new_tokens) is not int or max_new_tokens < 1):
        raise ConfigError(
            "max_new_tokens must be a whole number of at least 1",
            where=f"{where}.max_new_tokens",
            got=repr(max_new_tokens),
        )
    if isinstance(stop, str):
        stop = [stop]
    stop = list(stop) if isinstance(stop, tuple) else stop
    if stop is not None and not (isinstance(stop, list) and all(isinstance(s, str) and s for s in stop)):
        raise ConfigError("stop must be text or a list of texts", where=f"{where}.stop", got=repr(stop))
    own: int | None = settings.pop("limit", None)
    most = own if limit is None else limit if own is None else min(own, limit)
    if str(settings["source"]).startswith(TASK):
        if scoring is not None:
            raise ConfigError("a task brings its own scoring", where=f"{where}.scoring", got=repr(scoring))
        task = _load_task(settings, where, base_dir, limit=most, skip_bad_rows=skip_bad_rows)
        return replace(
            task,
            name=name,
            rows=task.rows if stop is None else [row | {"stop": stop} for row in task.rows],
            max_new_tokens=max_new_tokens or task.max_new_tokens,
        )
    rows = read_rows(
        settings.pop("source"),
        purpose="evaluate",
        limit=most,
        skip_bad_rows=skip_bad_rows,
        base_dir=base_dir,
        **settings,
    )
    if stop is not None:
        rows[:] = [row if "text" in row else row | {"stop": stop} for row in rows]
    return EvalSet(
        name=name,
        rows=list(rows),
        scoring=_scoring(scoring, rows, where),
        source=rows.source,
        max_new_tokens=max_new_tokens,
        skipped=rows.skipped,
        places=rows.places,
    )


def _load_task(
    settings: dict[str, Any], where: str, base_dir: str | Path | None, *, limit: int | None, skip_bad_rows: bool
) -> EvalSet:
    from infosteer.evaluation.tasks import load_task  # tasks are made of sets

    name = str(settings.pop("source")).removeprefix(TASK)
    check_keys(settings, ("data", "template", "shots", "seed"), where)
    data = settings.pop("data", None)
    if data is not None and base_dir is not None and (Path(base_dir) / data).is_dir():
        data = Path(base_dir) / data
    return load_task(name, data=data, limit=limit, skip_bad_rows=skip_bad_rows, **settings)


_NEEDED = {"option": "options", "number": "a number as answer", "process": "a worked solution as answer"}


def _scoring(scoring: Scoring | None, rows: Rows, where: str) -> Scoring:
    """The scoring asked for, if the rows allow it, or the one that the format of the rows stands for."""
    if rows.format == "text" or scoring == "text":
        if scoring not in (None, "text") or rows.format != "text":
            raise ConfigError(
                "this scoring does not fit the rows",
                where=f"{where}.scoring",
                got=f"{scoring} for rows of the format {rows.format}",
            )
        return "text"
    options = sum(row["options"] is not None for row in rows)
    numbers = sum(last_number(row["answer"]) is not None for row in rows)
    if scoring is None and rows.format == "llm_adapters":
        if 0 < options < len(rows):
            raise DataError(
                "the set mixes questions with options and questions for numbers",
                where=rows.source,
                got=f"{options} of {len(rows)} rows have options",
                fix="split it into two sets, or name the scoring",
            )
        scoring = "option" if options else "number"
    solutions = sum(is_worked_solution(row["answer"]) for row in rows)
    if scoring is None and len(rows) and solutions == len(rows):
        scoring = "process"
    enough = {"option": options, "number": numbers, "process": solutions}.get(scoring or "exact_match", len(rows))
    if enough < len(rows):
        raise ConfigError(
            f"the scoring {scoring!r} does not fit the rows",
            where=f"{where}.scoring",
            got=f"{enough} of {len(rows)} rows of {rows.source} have {scoring}s",
            expected=f"every row to have {_NEEDED[scoring or '']}",
        )
    return scoring or "exact_match"


def question_key(prompt: Any) -> str:
    """A prompt as it is compared: its words, without the frame of a known template (see ``contamination``)."""
    return " ".join(words(bare(prompt)))
