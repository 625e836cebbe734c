"""A run's folder: what is finished stays finished, and a kill at any moment leaves nothing half-written.

``recipe.yaml`` is the resolved recipe, ``outcomes/<arm>/seed-<n>.json`` one finished (or failed) training with its
per-example results, ``metrics.jsonl`` the log lines, ``results.json`` what all outcomes say together, and
``checkpoints/<arm>/seed-<n>/`` the models.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import yaml

from infosteer.core.config import difference, load_yaml
from infosteer.errors import InfoSteerError, RunError
from infosteer.experiments.recipe import load_recipe


class Resolved(Protocol):
    """Settings that a folder is made for: a recipe, or those of an evaluation."""

    def to_config(self) -> dict[str, Any]:
        """All of them as plain data."""


_DISK = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}


def disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or what caused it, says that there is no room left (safetensors and torch hide errno)."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK:
            return True
        text = str(error)
        if "No space left on device" in text or "os error 28" in text:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about a file into a RunError."""
    try:
        yield
    except OSError as error:
        reason = _DISK.get(error.errno or 0, error.strerror or str(error))
        raise RunError(
            "The run's folder cannot be written.",
            where=path,
            got=reason,
            fix="make room or choose another --output, then run the same command again: finished work is kept",
        ) from error


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill, sees either the old text or the whole new one."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def refuse_strangers(path: Path, recipe_file: Path) -> None:
    """Raises: RunError for a path that is no folder, or a folder that holds something and no recipe."""
    with disk_errors(path):
        if path.exists() and not path.is_dir():
            raise RunError("The output is not a folder.", where=path)
        if not path.is_dir() or recipe_file.is_file():
            return
        strangers = [p.name for p in path.iterdir() if p.name != ".lock" and not p.name.endswith(".tmp")]
    if strangers:
        raise RunError(
            "The output folder holds something that is not a run.",
            where=path,
            got=", ".join(sorted(strangers)[:5]),
            fix="choose another --output",
        )


def write_recipe(path: Path, config: Mapping[str, Any]) -> None:
    """Write a resolved recipe."""
    write_atomic(path, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


def check_same(
    path: Path,
    config: Mapping[str, Any],
    *,
    fix: str = "choose another --output, or delete the folder",
    of: Callable[[Any], Any] = lambda before: before,
) -> None:
    """Compare a recipe with the one at ``path``, or with what ``of`` makes of that.

    Settings that were added since it was written count as left at their defaults.

    Raises: RunError, with the differences.
    """
    changes = difference(of(_with_defaults(load_yaml(path))), config)
    if changes:
        raise RunError(
            "This folder was made by a different recipe.",
            where=path.parent,
            got="; ".join(changes[:6]) + ("; ..." if len(changes) > 6 else ""),
            expected="the same recipe, to go on where it stopped",
            fix=fix,
        )


def _with_defaults(config: Any) -> Any:
    try:
        return load_recipe(config).to_config()
    except InfoSteerError:  # of a version whose keys are no longer known: compared as it stands
        return config


class RunDir:
    """The folder of one run, locked by the process that writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def results_file(self) -> Path:
        return self.path / "results.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    def outcome_file(self, arm: str, seed: int) -> Path:
        return self.path / "outcomes" / arm / f"seed-{seed}.json"

    def checkpoint_folder(self, arm: str, seed: int) -> Path:
        return self.path / "checkpoints" / arm / f"seed-{seed}"

    def open(self, recipe: Resolved, *, fix: str = "choose another --output, or delete the folder") -> None:
        """Create or reopen the folder for this very recipe and take its lock.

        Raises: RunError when another process writes here, when the folder holds something else, or when it was made by
            a different recipe (the differences are named).
        """
        refuse_strangers(self.path, self.recipe_file)
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if not self._take_lock():
            raise RunError(
                "Another process is writing this run.", where=self.path, fix="wait for it, or choose another --output"
            )
        if self.recipe_file.is_file():
            check_same(self.recipe_file, recipe.to_config(), fix=fix)
        self._begin(recipe)

    def claim(self, recipe: Resolved) -> bool:
        """As ``open`` where the folder's name says what is in it; False, at once, when another process has it.

        The system gives a claim up when its process ends, however it ends.
        """
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if not self._take_lock():
            return False
        try:
            self._begin(recipe)
        except BaseException:
            self.close()
            raise
        return True

    def holder(self) -> int | None:
        """The process that claimed this folder last."""
        try:
            return int((self.path / ".lock").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _begin(self, recipe: Resolved) -> None:
        if not self.recipe_file.is_file():
            write_recipe(self.recipe_file, recipe.to_config())
        self._mend_metrics()

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> bool:
        try:
            import fcntl
        except ImportError:  # not a Unix; two writers are then the user's own doing
            return True
        with disk_errors(self.path):
            lock = (self.path / ".lock").open("a+", encoding="utf-8")  # never emptied before it is ours
        try:
            with disk_errors(self.path):  # a file system without locks is an error, not a lock that is taken
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except RunError as error:
            lock.close()
            if isinstance(error.__cause__, BlockingIOError):
                return False
            raise
        self._lock = lock
        with disk_errors(self.path):
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
        return True

    def read_outcome(self, arm: str, seed: int) -> dict[str, Any] | None:
        """The outcome of one training, or None. Raises: RunError for a file that is damaged."""
        path = self.outcome_file(arm, seed)
        if not path.is_file():
            return None
        try:
            outcome = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(
                "An outcome file is damaged.", where=path, got=error, fix="delete it; this training then runs again"
            ) from None
        if not isinstance(outcome, dict) or outcome.get("status") not in ("finished", "failed"):
            raise RunError("This is not an outcome file.", where=path, fix="delete it; this training then runs again")
        return outcome

    def write_outcome(self, outcome: Mapping[str, Any]) -> None:
        """Write one outcome; from here on the training counts as done."""
        write_atomic(self.outcome_file(outcome["arm"], outcome["seed"]), json.dumps(outcome, allow_nan=False) + "\n")

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with disk_errors(self.metrics_file), self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(line), allow_nan=False) + "\n")

    def rewind(self, arm: str, seed: int, step: int) -> None:
        """Drop the log lines of a training that a kill cut off, after the step at which it starts again."""

        def stays(line: Mapping[str, Any]) -> bool:
            mine = (line.get("arm"), line.get("seed")) == (arm, seed)
            return not mine or (line.get("event") == "train" and line.get("step", 0) <= step)

        self._filter_metrics(stays)

    def clear_checkpoint(self, arm: str, seed: int) -> None:
        """Remove whatever lies in the folder of a training that starts over."""
        shutil.rmtree(self.checkpoint_folder(arm, seed), ignore_errors=True)

    def _mend_metrics(self) -> None:
        """A kill can tear the last line."""
        self._filter_metrics(lambda line: True)

    def _filter_metrics(self, stays: Any) -> None:
        if not self.metrics_file.is_file():
            return
        text = self.metrics_file.read_text(encoding="utf-8", errors="replace")
        kept = []
        for raw in text.splitlines():
            try:
                line = json.loads(raw)
            except ValueError:
                continue
            if isinstance(line, dict) and stays(line):
                kept.append(raw)
        new = "".join(f"{raw}\n" for raw in kept)
        if new != text:
            write_atomic(self.metrics_file, new)


def _finite(value: Any) -> Any:
    """JSON has no NaN: a number that is not finite becomes its name."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
