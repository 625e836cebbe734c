"""Compiles ``rows.c`` for this machine, once, and loads it.

The library lies in the user's cache folder under a name made from everything it depends on: source, flags, compiler,
processor. Where there is no compiler, or what it made does not load, there is no library, and PyTorch computes.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch  # noqa: F401 - brings the OpenMP library that ours is loaded against

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("rows.c")
# Contraction off: a * b + c is rounded twice, as PyTorch rounds it. No flag here lets NaN or infinities go astray.
_FLAGS = ("-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
# Tried in turn: not every compiler knows its processor by the same flag, or has OpenMP.
_CHOICES = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())
_SECONDS = 120

_POINTER, _INT, _LONG, _DOUBLE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double
_ARGUMENTS: dict[str, list[type]] = {
    "has_threads": [],
    "edit_rows": [_INT, *[_POINTER] * 3, *[_LONG] * 3, _INT, _INT, _DOUBLE, _INT, *[_POINTER] * 4, _INT],
    "gradient_rows": [_INT, *[_POINTER] * 3, _INT, *[_POINTER] * 4, *[_LONG] * 3, _INT, _INT, _DOUBLE, _DOUBLE, _INT],
}


class Unavailable(Exception):
    """No library can be had here; its text says why."""


class NoCompiler(Unavailable):
    """Nobody expects one: there is nothing to compile with."""


@functools.cache
def native_code() -> ctypes.CDLL | str:
    """The library of this process, or why there is none. Compiled by the first process that asks."""
    try:
        return _load()
    except (Unavailable, OSError, subprocess.SubprocessError) as error:
        level = logging.INFO if isinstance(error, NoCompiler) else logging.WARNING
        logger.log(level, "The native code for rows is not used, PyTorch takes its place: %s", error)
        return str(error).strip() or type(error).__name__


def _load() -> ctypes.CDLL:
    if os.name != "posix":
        raise NoCompiler(f"no native code is made on {platform.system()}")
    compiler = _compiler()
    problems = []
    for choice in _CHOICES:
        try:
            return _made(compiler, (*_FLAGS, *choice))
        except (Unavailable, OSError, AttributeError) as error:
            problems.append(f"{' '.join(choice) or 'plain'}: {error}")
    raise Unavailable(f"{' '.join(compiler)} made no library that loads; " + "; ".join(problems))


def _compiler() -> list[str]:
    """The compiler that ``CC`` names, perhaps with arguments, or the one that is there."""
    asked = shlex.split(os.environ.get("CC", ""))
    if asked and shutil.which(asked[0]):
        return asked
    if asked:
        logger.warning("CC names a compiler that is not there: %s", asked[0])
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if found is None:
        raise NoCompiler("no C compiler (cc, gcc or clang) is on the path")
    return [found]


def _made(compiler: Sequence[str], flags: tuple[str, ...]) -> ctypes.CDLL:
    """The library made with these flags: the one that is kept, or a new one; in a folder of this process alone where
    the cache does not let libraries be written or loaded."""
    name = _name(compiler, flags)
    cache = _cache()
    kept = None if cache is None else cache / name
    if kept is not None and _is_ours(kept):
        with contextlib.suppress(OSError, AttributeError):  # what does not load is made again
            return _declare(ctypes.CDLL(str(kept)))
    if kept is not None and os.access(kept.parent, os.W_OK):
        with contextlib.suppress(OSError):
            _compile(compiler, flags, kept)
            return _declare(ctypes.CDLL(str(kept)))
        with contextlib.suppress(OSError):
            kept.unlink()
    own = _own_folder() / name
    _compile(compiler, flags, own)
    return _declare(ctypes.CDLL(str(own)))


def _declare(loaded: ctypes.CDLL) -> ctypes.CDLL:
    for name, arguments in _ARGUMENTS.items():
        getattr(loaded, name).argtypes = arguments
    return loaded


def _name(compiler: Sequence[str], flags: tuple[str, ...]) -> str:
    """A name made from everything that the library depends on."""
    version = _run([*compiler, "--version"]).stdout
    parts = (SOURCE.read_text(encoding="utf-8"), *flags, *compiler, version, platform.machine(), _processor())
    return f"rows-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:20]}.so"


def _compile(compiler: Sequence[str], flags: tuple[str, ...], file: Path) -> None:
    """Makes the library beside its place and moves it there, so that no process loads half of one."""
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        made = [str(Path(scratch) / part) for part in ("rows.o", file.name)]
        # Linked without OpenMP's library: PyTorch has loaded one already, and two would keep a pool of threads each.
        for command in ([*flags, "-c", str(SOURCE), "-o", made[0]], ["-shared", made[0], "-o", made[1], "-lm"]):
            ran = _run([*compiler, *command])
            if ran.returncode:
                raise Unavailable((ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[0])
        if not Path(made[1]).is_file():
            raise Unavailable("the compiler ended well and left nothing")
        os.replace(made[1], file)


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_SECONDS,
        env={**os.environ, "LC_ALL": "C"},
    )


def _cache() -> Path | None:
    """The cache folder of this user, None where there is none that is only theirs."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(base) if base else Path.home() / ".cache") / "infosteer"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # read-only, or a user without a home
        return None
    return folder if _is_ours(folder) else None


def _is_ours(path: Path) -> bool:
    """Whether a file or folder belongs to this user and nobody else may write to it."""
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


@functools.cache
def _own_folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="infosteer-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _processor() -> str:
    """What tells processors apart that share a cache folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
