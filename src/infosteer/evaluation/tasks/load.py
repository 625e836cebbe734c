"""Tasks as evaluation sets: from a data folder or from the hub, worked examples in front if wanted."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.sets import EvalSet, question_key
from infosteer.evaluation.tasks.check import check_raw, check_row, check_suite
from infosteer.evaluation.tasks.convert import CONVERTERS
from infosteer.evaluation.tasks.convert_types import TYPE_CONVERTERS
from infosteer.evaluation.tasks.facts import OWN_WORDING, SUITE, TaskInfo
from infosteer.evaluation.tasks.names import task_info
from infosteer.training.row_files import SUFFIXES
from infosteer.training.row_formats import TEMPLATES, BadRow, Purpose, Row, normalise
from infosteer.training.rows import Rows, read_rows

BETWEEN_SHOTS = "\n\n"
_CONVERTERS = {**CONVERTERS, **TYPE_CONVERTERS}


def load_task(
    name: str,
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    template: str = "sections",
    shots: int = 0,
    seed: int = 0,
    skip_bad_rows: bool = False,
) -> EvalSet:
    """The test rows of a task.

    Args:
        name: a task's name or alias.
        data: folder that holds the task folders, with test files at least: the layout of the LLM-Adapters suite, or a
            folder that has the suite as ``llm-adapters`` beside the files of other tasks. Rows may be the suite's own,
            or raw benchmark rows with the columns of the hub's copy. Without it the hub's copy is read.
        limit: keep at most the first this many rows.
        template: what is put around an instruction, see ``infosteer.training.row_formats.TEMPLATES``; it should be the
            one that the model was trained with.
        shots: worked examples before every question, the same ones for all, drawn from the training split.
        seed: chooses the examples, and nothing else.
        skip_bad_rows: leave bad rows out and count them, instead of raising.

    Raises:
        ConfigError: the name is unknown, or a setting is out of range.
        DataError: the rows cannot be found, or are bad (each is named with file and line); or there are fewer training
            rows than ``shots``.
    """
    info = task_info(name)
    for what, value, least in (("shots", shots, 0), ("seed", seed, 0), ("limit", limit, 1)):
        if value is not None and (type(value) is not int or value < least):
            raise ConfigError(f"{what} must be a whole number of at least {least}", where=what, got=repr(value))
    reading = _Reading(info, template, data, skip_bad_rows)
    # Examples must differ from every test question, not only from those that are kept.
    rows = reading.rows("evaluate", limit=None if shots else limit)
    if shots:
        front = _worked_examples(reading, rows, shots, seed)
        stop = _stop_after_shots(template)
        for row in rows:
            row["prompt"] = front + row["prompt"]
            row["stop"] = list(dict.fromkeys([*row["stop"], *stop]))
        if limit is not None:
            del rows[limit:]
    return EvalSet(
        name=info.name,
        rows=list(rows),
        scoring=info.scoring,
        source=rows.source,
        max_new_tokens=info.max_new_tokens,
        skipped=rows.skipped,
        places=rows.places[: len(rows)],
        task=info.name,
        group=info.folder,
        wording=reading.wording or info.wording,
        template=template,
        shots=shots,
        shots_seed=seed if shots else None,
        version=info.version,
    )


def training_rows(
    name: str,
    *,
    data: str | Path | None = None,
    template: str = "sections",
    skip_bad_rows: bool = False,
    limit: int | None = None,
) -> Rows:
    """The training split of a task as ``{"prompt", "completion"}`` rows, read and checked as its test rows are.

    Raises: as ``load_task``; DataError where the task has no training split.
    """
    return _Reading(task_info(name), template, data, skip_bad_rows).rows("train", limit=limit)


class _Reading:
    """Reads the splits of one task, all in the wording of the first good row."""

    def __init__(self, info: TaskInfo, template: str, data: str | Path | None, skip_bad_rows: bool) -> None:
        self.info, self.template, self.data, self.skip_bad_rows = info, template, data, skip_bad_rows
        self.wording: str | None = None

    def rows(self, purpose: Purpose, *, limit: int | None) -> Rows:
        split = "train" if purpose == "train" else "test"
        source, options = self._source(split)
        keep = self.info.keep.get(split, {})

        def prepare(raw: Mapping[str, Any]) -> Row | None:
            if any(raw.get(column, value) != value for column, value in keep.items()):
                return None
            return self._prepare(raw, purpose)

        try:
            return read_rows(
                source,
                purpose=purpose,
                template=self.template,
                skip_bad_rows=self.skip_bad_rows,
                limit=limit,
                prepare=prepare,
                **options,
            )
        except DataError as error:
            where = f"task {self.info.name}: {error.where}"
            raise DataError(error.what, where=where, got=error.got, expected=error.expected, fix=error.fix) from error

    def _prepare(self, raw: Mapping[str, Any], purpose: Purpose) -> Row | None:
        check_raw(raw)
        wording = SUITE if self.info.of_suite and "instruction" in raw else OWN_WORDING
        if self.wording not in (None, wording):
            has = "no field" if wording == OWN_WORDING else "a field"
            fields = ", ".join(map(repr, raw)) or "none"
            raise BadRow(f"has {has} 'instruction', unlike the rows before it; its fields are {fields}")
        if wording == SUITE:
            check_suite(raw)
            shaped: Mapping[str, Any] | None = raw
        else:
            shaped = _CONVERTERS[self.info.convert](raw)
        if shaped is None:
            return None
        format = "llm_adapters" if wording == SUITE else _format(shaped)
        row = normalise(shaped, format, purpose, self.template)
        if purpose == "evaluate":
            check_row(row, self.info)
            row["stop"] = list(self.info.stop)
        self.wording = wording
        return row

    def _source(self, split: str) -> tuple[str, dict[str, Any]]:
        """Where the rows of a split are, and the options that read them."""
        info = self.info
        if self.data is None:
            if "path" not in info.hub or split not in info.hub:
                raise DataError(
                    f"no {'hub copy' if 'path' not in info.hub else split + ' split on the hub'} of this task is known",
                    where=f"task {info.name}",
                    fix=f"name a data folder that holds {info.local}",
                )
            name = {"name": info.hub["name"]} if "name" in info.hub else {}
            return info.hub["path"], {"split": info.hub[split], **name}
        place = self._place(Path(self.data).expanduser())
        if place.is_dir():
            return str(place), {"split": "train"} if split == "train" else {}
        if split == "train" and split not in info.keep:
            raise DataError("the task has no training rows", where=f"task {info.name}", got=f"one file, {place}")
        return str(place), {}

    def _place(self, data: Path) -> Path:
        local = Path(self.info.local)
        tried = [data / local, data / local.name]
        try:
            for path in tried:
                if path.is_dir():
                    return path
                for suffix in SUFFIXES:
                    if (file := path.with_name(path.name + suffix)).is_file():
                        return file
        except OSError as error:
            raise DataError("cannot look into the data folder", where=str(data)[:200], got=str(error)) from error
        raise DataError(
            f"the data folder holds no rows of {self.info.title}" if data.is_dir() else "no such data folder",
            where=f"task {self.info.name}: {data}",
            got=f"nothing at {' or '.join(map(str, tried))}",
            expected=f"a folder {local.name}/ with test.jsonl.gz, or another data file",
            fix="name the folder that holds the task folders, or leave it out to read the hub's copy",
        )


def _format(shaped: Mapping[str, Any]) -> str:
    if "prompt" in shaped:
        return "prompt_completion"
    return "llm_adapters" if "answer" in shaped else "instruction_output"


def example_pool(
    name: str, *, data: str | Path | None = None, template: str = "sections", skip_bad_rows: bool = False
) -> list[Row]:
    """The training rows of a task that ask none of its test questions (case and punctuation ignored).

    Raises: as ``training_rows``.
    """
    reading = _Reading(task_info(name), template, data, skip_bad_rows)
    return _pool(reading, reading.rows("evaluate", limit=None))


def _pool(reading: _Reading, test: Rows) -> list[Row]:
    asked = {question_key(row["prompt"]) for row in test}
    return [row for row in reading.rows("train", limit=None) if question_key(row["prompt"]) not in asked]


def _worked_examples(reading: _Reading, test: Rows, shots: int, seed: int) -> str:
    """``shots`` training rows that ask no test question, put one after the other."""
    pool = _pool(reading, test)
    if len(pool) < shots:
        raise DataError(
            "there are fewer worked examples than asked for",
            where=f"task {reading.info.name}",
            got=f"{len(pool)} training rows that are no test question, {shots} shots",
        )
    chosen = random.Random(seed).sample(pool, shots)
    return "".join(row["prompt"] + row["completion"] + BETWEEN_SHOTS for row in chosen)


def _stop_after_shots(template: str) -> list[str]:
    """A model that was shown examples goes on with one of its own; its answer ends where that begins."""
    words = TEMPLATES[template][0] if template in TEMPLATES else template
    head = words.partition("{instruction}")[0].strip()
    return [BETWEEN_SHOTS + head.splitlines()[0] if head else BETWEEN_SHOTS]
