"""Files of labelled texts: true and false statements, harmful and harmless requests, plain texts to read."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infosteer.errors import DataError
from infosteer.training.row_files import read_file

TEXT_KEYS = ("statement", "instruction", "prompt", "text")


def read_texts(path: Path, limit: int | None = None, seed: int = 0) -> list[str]:
    """Texts of a data file: of each row the first of ``TEXT_KEYS`` that it has; of a text file the documents.

    Args:
        limit: at most so many, a sample drawn by the seed, in the order of the file.

    Raises:
        DataError: a missing or empty file, rows without a text; it names file and line.
    """
    return _sample([text for text, _ in _rows(path)], limit, seed)


def read_statements(
    path: Path, *, topics: Sequence[str] | None = None, limit: int | None = None, seed: int = 0
) -> tuple[list[str], list[int], list[str]]:
    """Statements with labels (1 true, 0 false) and topics, from rows ``{statement, label, set}``.

    Args:
        topics: only these.
        limit: at most so many of each topic and label, drawn by the seed.

    Raises:
        DataError: rows without statement or label, one class only, topics that the file does not have.
    """
    kept: dict[tuple[str, int], list[str]] = {}
    known: set[str] = set()
    for number, (text, row) in enumerate(_rows(path), start=1):
        label, topic = row.get("label"), str(row.get("set", ""))
        known.add(topic)
        if type(label) not in (int, bool) or label not in (0, 1):
            raise DataError(
                "A statement has no label.", where=f"{path}, row {number}", got=repr(label)[:40], expected="0 or 1"
            )
        if topics is None or topic in topics:
            kept.setdefault((topic, int(label)), []).append(text)
    missing = sorted(set(topics or ()) - known)
    if missing or not kept:
        raise DataError(
            "The file has no such topics.", where=path, got=", ".join(missing), expected=", ".join(sorted(known))
        )
    if len({label for _, label in kept}) < 2:
        raise DataError("All statements are of one class.", where=path, got=f"label {next(iter(kept))[1]}")
    rows = [(text, label, topic) for (topic, label), texts in kept.items() for text in _sample(texts, limit, seed)]
    texts, labels, names = zip(*rows, strict=True)
    return list(texts), list(labels), list(names)


def read_requests(
    harmful: Path, harmless: Path, *, limit: int | None = None, seed: int = 0
) -> tuple[list[str], list[int]]:
    """Requests of two files with labels: 1 harmful, 0 harmless.

    Raises:
        DataError: as ``read_texts``.
    """
    first, second = read_texts(harmful, limit, seed), read_texts(harmless, limit, seed)
    return first + second, [1] * len(first) + [0] * len(second)


def _sample(texts: list[str], limit: int | None, seed: int) -> list[str]:
    if limit is None or len(texts) <= limit:
        return texts
    return [texts[i] for i in sorted(random.Random(f"texts/{seed}").sample(range(len(texts)), limit))]


def _rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for record in read_file(path):
        if record.problem is not None or record.row is None:
            raise DataError("A row cannot be read.", where=record.where, got=record.problem)
        text = next((record.row[key] for key in TEXT_KEYS if record.row.get(key)), None)
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                "A row has no text.", where=record.where, got=", ".join(record.row), expected=" or ".join(TEXT_KEYS)
            )
        found.append((text.strip(), record.row))
    if not found:
        raise DataError("The file holds no text.", where=path)
    return found
