"""Answers kept on disk under what determines them, so that none is computed twice and a kill loses one batch.

A file of JSON lines, each the answers of one batch, written and flushed at once: a kill leaves whole batches and at
most one torn line, which is read as if it were not there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infosteer.errors import RunError


def key_of(*parts: Any) -> str:
    """The address of what these plain values determine: 128 bits of SHA-256 over their JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class Store:
    """Values by key, in memory and in one file that only grows.

    Raises: RunError when the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        self._torn = False  # whether the file ends without a line break
        try:
            with path.open("rb") as file:
                for line in file:
                    self._torn = not line.endswith(b"\n")
                    self.values.update(_batch(line))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise RunError("Kept answers cannot be read.", where=path, got=error.strerror or error) from error

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def keep(self, batch: Mapping[str, Any]) -> None:
        """Add the answers of a batch; once this returns, a kill cannot take them."""
        line = (b"\n" if self._torn else b"") + json.dumps(dict(batch)).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(
                "Answers cannot be kept.",
                where=self.path,
                got=error.strerror or error,
                fix="make room or choose another folder, then run the same command again: finished work is kept",
            ) from error
        self._torn = False
        self.values.update(batch)


def _batch(line: bytes) -> dict[str, Any]:
    try:
        batch = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return batch if isinstance(batch, dict) else {}
