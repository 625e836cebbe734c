"""Files of rows: JSON lines, JSON lists, Parquet and plain text, compressed or not, read by safe readers only."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from infosteer.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".txt", ".txt.gz", ".txt.xz")
DOCUMENT_MARK = "<|endoftext|>"  # a line of its own between two documents of a text file

_GZIP, _XZ, _PARQUET = b"\x1f\x8b", b"\xfd7zXZ\x00", b"PAR1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One row as it stands in its source, or the reason why it cannot be read."""

    where: str
    row: dict[str, Any] | None = None
    problem: str | None = None


def suffix_of(path: Path) -> str | None:
    """The data suffix of ``path`` (``.jsonl.gz`` counts as one), or None for other files."""
    name = path.name.lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default=None)


def read_file(path: Path) -> Iterator[Record]:
    """Yield the records of one file, lazily.

    Raises:
        DataError: the file is unreadable, empty, damaged as a whole, or of a kind that is not read here.
    """
    try:
        with path.open("rb") as probe:
            head = probe.read(8)
    except OSError as error:
        raise DataError(
            "cannot read the data file", where=path, got=_reason(error), fix="check the path and its permissions"
        ) from error
    if not head:
        raise DataError("the data file is empty", where=path, expected="at least one row")
    suffix = suffix_of(path)
    try:
        if head.startswith(_PARQUET) or suffix == ".parquet":
            yield from _parquet(path)
        elif suffix is None:
            raise DataError("not a data file that can be read", where=path, expected=f"one of {', '.join(SUFFIXES)}")
        elif suffix.startswith(".txt"):
            yield from _documents(path, head)
        elif suffix.startswith(".jsonl"):
            yield from _lines(path, head)
        else:
            yield from _json(path, head)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(
            "the compressed data file is damaged or cut short",
            where=path,
            got=_reason(error),
            fix="copy or download it again; its rows up to the damage are not used",
        ) from error
    except OSError as error:
        raise DataError("cannot read the data file", where=path, got=_reason(error)) from error


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no further reason given'}"


def _open(path: Path, head: bytes) -> IO[bytes]:
    """Open by content, not by name: files are renamed more often than they are recompressed."""
    if head.startswith(_GZIP) or path.name.endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    if head.startswith(_XZ) or path.name.endswith(".xz"):
        return lzma.open(path, "rb")
    return path.open("rb")


def _parse(raw: bytes) -> tuple[Any, str | None]:
    """One JSON text -> (value, problem)."""
    try:
        return json.loads(raw.decode("utf-8")), None
    except UnicodeDecodeError as error:
        return None, f"is not valid UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start})"
    except json.JSONDecodeError as error:
        return None, f"is not valid JSON ({error.msg}, column {error.colno})"
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; brackets nested too deep
        return None, f"is not JSON that can be read ({_reason(error)})"


def _record(where: str, value: Any, problem: str | None) -> Record:
    if problem is None and not isinstance(value, dict):
        problem = f"is a JSON {type(value).__name__}, not an object"
    return Record(where=where, problem=problem) if problem else Record(where=where, row=value)


def _lines(path: Path, head: bytes) -> Iterator[Record]:
    with _open(path, head) as stream:
        yield from _line_records(path, stream)


def _line_records(path: Path, stream: IO[bytes]) -> Iterator[Record]:
    for number, raw in enumerate(stream, start=1):
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if raw.strip():
            yield _record(f"{path}:{number}", *_parse(raw))


def _json(path: Path, head: bytes) -> Iterator[Record]:
    with _open(path, head) as stream:
        raw = stream.read().removeprefix(b"\xef\xbb\xbf")
    value, problem = _parse(raw)
    if problem and "Extra data" in problem:  # JSON lines under the name .json are common
        yield from _line_records(path, io.BytesIO(raw))
        return
    if problem or not isinstance(value, list):
        raise DataError(
            "the JSON file cannot be used",
            where=path,
            got=f"it {problem}" if problem else f"a JSON {type(value).__name__}",
            expected="a list of objects, or one object a line",
        )
    for number, item in enumerate(value, start=1):
        yield _record(f"{path}, row {number}", item, None)


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(where=f"{path}, row {number}", row=row)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            "the Parquet file cannot be read", where=f"{path}, after row {number}", got=_reason(error)
        ) from error


def _documents(path: Path, head: bytes) -> Iterator[Record]:
    """A text file as rows {"text"}: one a document, or the whole file where it has no document marks."""
    lines: list[bytes] = []
    start = number = 1
    with _open(path, head) as stream:
        for number, raw in enumerate(stream, start=1):
            if raw.strip() == DOCUMENT_MARK.encode():
                yield from _document(path, start, lines)
                lines, start = [], number + 1
            else:
                lines.append(raw)
    yield from _document(path, start, lines)


def _document(path: Path, start: int, lines: list[bytes]) -> Iterator[Record]:
    raw = b"".join(lines)
    if not raw.strip():
        return
    try:
        yield Record(where=f"{path}:{start}", row={"text": raw.decode("utf-8").strip("\n")})
    except UnicodeDecodeError as error:
        yield Record(where=f"{path}:{start}", problem=f"is not valid UTF-8 (byte 0x{raw[error.start]:02x})")
