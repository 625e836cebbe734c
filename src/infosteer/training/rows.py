"""Rows of data: files, folders, hub data sets and the lab, read into one schema.

Training rows are {"prompt", "completion"} or {"text"}; evaluation rows {"prompt", "answer", "options", "stop", "lead"}
or {"text"}; prompts and completions are text, or lists of chat messages. What cannot be used is named with its file and
line, and is skipped only on request.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from infosteer.errors import ConfigError, DataError
from infosteer.training.row_files import SUFFIXES, Record, read_file, suffix_of
from infosteer.training.row_formats import COLUMNS, FIELDS, TEMPLATES, BadRow, Purpose, Row, detect, normalise

logger = logging.getLogger(__name__)

SHOWN_PROBLEMS = 5
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SPLIT_NAMES = {"train": ("train", "training"), "evaluate": ("test", "validation", "valid", "val", "dev")}


class Rows(list[Row]):
    """A list of rows that remembers where it came from.

    Attributes:
        source: the source as given.
        format: the format the rows were read in.
        skipped: how many bad rows were left out (0 unless ``skip_bad_rows``).
        problems: the first few of them, as ``file:line: reason``.
        places: ``file:line`` of every row kept.
    """

    def __init__(
        self,
        rows: Iterable[Row] = (),
        *,
        source: str,
        format: str,
        skipped: int = 0,
        problems: Iterable[str] = (),
        places: Iterable[str] = (),
    ) -> None:
        super().__init__(rows)
        self.source, self.format, self.skipped, self.problems = source, format, skipped, list(problems)
        self.places = list(places)


def read_rows(
    source: str | Path,
    *,
    purpose: Purpose = "train",
    format: str | None = None,
    split: str | None = None,
    fields: Mapping[str, str] | None = None,
    template: str = "sections",
    skip_bad_rows: bool = False,
    limit: int | None = None,
    base_dir: str | Path | None = None,
    prepare: Callable[[Mapping[str, Any]], Row | None] | None = None,
    **options: Any,
) -> Rows:
    """Read the rows of ``source`` as training or evaluation rows.

    Args:
        source: a data file, a folder that holds one file (or set of shards) a split, a hub id ``owner/name``, or
            ``lab:KEY``.
        purpose: "train" or "evaluate"; decides the schema, and the split taken when none is named.
        format: one of ``FIELDS``; found from the columns when they leave no doubt.
        split: split of a folder or hub data set.
        fields: our column name -> the source's column name, for example ``{"prompt": "question"}``.
        template: wording of instruction rows: "sections", "alpaca", "plain" or a text with ``{instruction}``.
        skip_bad_rows: leave bad rows out and count them, instead of raising.
        limit: keep the first this many good rows.
        base_dir: folder that relative paths start from (the working directory is tried next).
        prepare: makes a row of our schema from a row of the source in place of ``format`` and ``template``; gives None
            for a row that belongs to something else, raises ``BadRow`` for a bad one.
        options: for ``lab:`` the lab's own settings (``seed`` and others), for a hub data set ``name`` (its
            configuration) and ``revision``.

    Raises:
        DataError: the source is missing, unreadable or empty, its format is in doubt, or rows are bad.
        ConfigError: an argument is out of range or unknown.
    """
    source = str(source)
    _check(format=format, fields=fields, template=template, limit=limit, purpose=purpose)
    rows: list[Row] = []
    problems: list[str] = []
    places: list[str] = []
    count = 0
    for record in read_records(source, split=split, limit=limit, base_dir=base_dir, purpose=purpose, options=options):
        if record.row is None:
            problem = record.problem
        else:
            row = _renamed(record.row, fields or {})
            try:
                if prepare is None:
                    format = format or _detected(row, record.where, purpose, skip_bad_rows)
                    made: Row | None = normalise(row, format, purpose, template)
                else:
                    made = prepare(row)
                if made is not None:
                    rows.append(made)
                    places.append(record.where)
                problem = None
            except BadRow as bad:
                problem = str(bad)
        if problem is not None:
            count += 1
            if count <= SHOWN_PROBLEMS:
                problems.append(f"{record.where}: {problem}")
        if limit is not None and len(rows) >= limit:
            break
    if count and not skip_bad_rows:
        raise DataError(
            f"{count} of {count + len(rows)} rows cannot be used",
            where=source,
            got=_listed(problems, count),
            expected=FIELDS[format] if format else None,
            fix="mend the rows, name other columns with fields, or pass --skip-bad-rows (skip_bad_rows=True)",
        )
    if not rows:
        raise DataError(
            "there is no row to use",
            where=source,
            got=_listed(problems, count) if count else "no rows at all",
            expected="at least one row",
        )
    if count:
        logger.warning("%s: %d bad rows skipped, %d kept: %s", source, count, len(rows), _listed(problems, count))
    return Rows(rows, source=source, format=format or "text", skipped=count, problems=problems, places=places)


def _check(
    *, format: str | None, fields: Mapping[str, str] | None, template: str, limit: int | None, purpose: str
) -> None:
    if purpose not in _SPLIT_NAMES:
        raise ConfigError("unknown purpose of rows", got=repr(purpose), expected="train or evaluate")
    if format is not None and format not in FIELDS:
        raise ConfigError("unknown format of rows", where="format", got=repr(format), expected=", ".join(FIELDS))
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ConfigError("limit must be a whole number of at least 1", where="limit", got=repr(limit))
    if template not in TEMPLATES and "{instruction}" not in template:
        raise ConfigError(
            "unknown template",
            where="template",
            got=repr(template),
            expected=f"one of {', '.join(TEMPLATES)}, or a text with {{instruction}} and {{input}}",
        )
    if unknown := sorted(set(fields or {}) - COLUMNS):
        raise ConfigError(
            "fields maps our column names to those of the source; these are none of ours",
            where="fields",
            got=", ".join(map(repr, unknown)),
            expected=", ".join(sorted(COLUMNS)),
        )


def _listed(problems: list[str], count: int) -> str:
    more = f"\n    ... and {count - len(problems)} more" if count > len(problems) else ""
    return "".join(f"\n    {problem}" for problem in problems) + more


def _renamed(row: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    """``row`` with the mapped columns under our names; a mapped source column no longer stands for itself."""
    kept = {name: value for name, value in row.items() if name not in fields.values()}
    return kept | {ours: row[theirs] for ours, theirs in fields.items() if theirs in row}


def _detected(row: Mapping[str, Any], where: str, purpose: Purpose, skip: bool) -> str:
    fits = detect(row, purpose)
    if len(fits) == 1:
        return fits[0]
    if skip and not fits:  # a bad row ahead of the good ones must not end the reading
        raise BadRow(f"fits no known format; its fields are {', '.join(map(repr, row)) or 'none'}")
    raise DataError(
        "the columns fit more than one format" if fits else "the columns fit no known format",
        where=where,
        got=f"fields {', '.join(map(repr, row)) or 'none'}" + (f", which fit {' and '.join(fits)}" if fits else ""),
        expected="; ".join(f"{name}: {what}" for name, what in FIELDS.items()),
        fix="name the format (format: ...), or the columns (fields: {prompt: <column>, completion: <column>})",
    )


def read_records(
    source: str,
    *,
    split: str | None,
    limit: int | None,
    base_dir: str | Path | None,
    purpose: Purpose,
    options: dict[str, Any],
) -> Iterator[Record]:
    """The rows of a source as they stand in it, one by one, for ``read_rows`` and whoever wants them raw.

    ``limit`` tells generated sources how many are wanted; others go on to their end. Raises: as ``read_rows``.
    """
    if source.startswith("lab:"):
        yield from _lab(source, split, limit, options)
        return
    path = _found(source, base_dir)
    if path is None and _HUB_ID.fullmatch(source) and suffix_of(Path(source)) is None:
        yield from _hub(source, split or purpose, options)
        return
    if options:
        raise ConfigError("unknown settings for a data file", where=source, got=", ".join(map(repr, sorted(options))))
    if path is None:
        tried = dict.fromkeys([Path(base_dir or ".") / source, Path(source).absolute()])
        raise DataError(
            "no such data file or folder",
            where=source,
            got=f"nothing at {' or '.join(str(place.resolve()) for place in tried)}",
            expected=f"a file ({', '.join(SUFFIXES)}), a folder of such files, a hub id owner/name, or lab:KEY",
        )
    for file in _split_files(path, split, purpose) if path.is_dir() else [path]:
        yield from read_file(file)


def _found(source: str, base_dir: str | Path | None) -> Path | None:
    path = Path(source).expanduser()
    for place in [Path(base_dir) / path, path] if base_dir is not None else [path]:
        try:
            if place.exists():
                return place
        except OSError as error:  # a name too long, or a folder that may not be searched
            raise DataError("cannot look up the data file", where=source[:200], got=str(error)) from error
    return None


def _split_files(folder: Path, split: str | None, purpose: Purpose) -> list[Path]:
    """The files of one split: ``train.jsonl.gz``, or shards ``train-00000-of-00002.parquet``."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and suffix_of(path))
    for name in (split,) if split is not None else _SPLIT_NAMES[purpose]:
        chosen = [path for path in files if re.split(r"[.-]", path.name.lower(), maxsplit=1)[0] == name.lower()]
        if len({suffix_of(path) for path in chosen}) > 1:
            raise DataError(
                f"the folder holds the split {name!r} in more than one kind of file",
                where=folder,
                got=", ".join(path.name for path in chosen),
                fix="name the file instead of the folder",
            )
        if chosen:
            return chosen
    other = _SPLIT_NAMES["evaluate" if purpose == "train" else "train"]
    if split is None and len(files) == 1 and files[0].name.split(".")[0].lower() not in other:
        return files  # but never train on a lone test file unasked, nor test on the training rows
    raise DataError(
        f"the folder has no split {split!r}" if split is not None else "it is not clear which file to read",
        where=folder,
        got=f"files {', '.join(path.name for path in files) or 'none that can be read'}",
        expected="a split that names one of the files, such as split: train for train.jsonl.gz",
    )


def _lab(source: str, split: str | None, limit: int | None, options: dict[str, Any]) -> Iterator[Record]:
    import infosteer.lab as lab

    if split is not None:
        raise ConfigError("lab data has no splits; its key names the part", where=source, got=f"split: {split}")
    for number, row in enumerate(lab.load(source.removeprefix("lab:"), limit=limit, **options), start=1):
        yield Record(where=f"{source}, row {number}", row=dict(row))


def _hub(source: str, split: str, options: dict[str, Any]) -> Iterator[Record]:
    if unknown := sorted(set(options) - {"name", "revision"}):
        raise ConfigError("unknown settings for a hub data set", where=source, got=", ".join(map(repr, unknown)))
    import datasets

    split = "test" if split == "evaluate" else split
    try:
        data = datasets.load_dataset(source, options.get("name"), split=split, revision=options.get("revision"))
    except Exception as error:  # whatever the network, the hub or the loader says, the user asked for this data set
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            "cannot load the data set from the hub",
            where=f"{source}, split {split}",
            got=f"{type(error).__name__}: {reason[:300]}",
            expected="a local file or folder, or a hub data set that is reachable or in the cache",
            fix="check the name and the network; offline, name a local file (no file or folder has this name)",
        ) from error
    for number, row in enumerate(data, start=1):
        yield Record(where=f"{source} ({split}), row {number}", row=dict(row))
