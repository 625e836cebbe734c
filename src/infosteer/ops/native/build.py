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
import shutil
import subprocess
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("rows.c")
# Contraction off: a * b + c is rounded twice, as PyTorch rounds it. No flag here lets NaN or infinities go astray.
_FLAGS = ("-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
# Tried in turn: not every compiler knows its processor by the same flag, or has OpenMP.
_CHOICES = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())
_SECONDS = 120

_POINTER, _INT, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
_ARGUMENTS = {
    "edit_rows": [_INT, *[_POINTER] * 3, *[_LONG] * 3, _INT, _INT, _FLOAT, _INT, *[_POINTER] * 4, _INT],
    "gradient_rows": [_INT, *[_POINTER] * 3, _INT, *[_POINTER] * 4, *[_LONG] * 3, _INT, _INT, _FLOAT, _FLOAT, _INT],
}


class Unavailable(Exception):
    """No library can be had here; its text says why."""


class NoCompiler(Unavailable):
    """Nobody expects one: there is nothing to compile with."""


@functools.cache
def library() -> ctypes.CDLL | str:
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
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))), None)
    if compiler is None:
        raise NoCompiler("no C compiler (cc, gcc or clang) is on the path")
    problems = []
    for choice in _CHOICES:
        try:
            file = _file(compiler, (*_FLAGS, *choice))
            if file.is_file():
                with contextlib.suppress(OSError, AttributeError):  # what does not load is made again
                    return _declare(ctypes.CDLL(str(file)))
            _compile(compiler, (*_FLAGS, *choice), file)
            return _declare(ctypes.CDLL(str(file)))
        except (Unavailable, OSError, AttributeError) as error:
            problems.append(f"{' '.join(choice) or 'plain'}: {error}")
    raise Unavailable(f"{compiler} made no library that loads; " + "; ".join(problems))


def _declare(loaded: ctypes.CDLL) -> ctypes.CDLL:
    for name, arguments in _ARGUMENTS.items():
        getattr(loaded, name).argtypes = arguments
    return loaded


def _file(compiler: str, flags: tuple[str, ...]) -> Path:
    """Where the library made with these flags lies, or will lie."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=_SECONDS).stdout
    parts = (SOURCE.read_text(encoding="utf-8"), *flags, compiler, version, platform.machine(), _processor())
    return _folder() / f"rows-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:20]}.so"


def _compile(compiler: str, flags: tuple[str, ...], file: Path) -> None:
    """Makes the library beside its place and moves it there, so that no process loads half of one."""
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        made = [str(Path(scratch) / part) for part in ("rows.o", file.name)]
        # Linked without OpenMP's library: PyTorch has loaded one already, and two would keep a pool of threads each.
        for command in ([*flags, "-c", str(SOURCE), "-o", made[0]], ["-shared", made[0], "-o", made[1], "-lm"]):
            ran = subprocess.run([compiler, *command], capture_output=True, text=True, timeout=_SECONDS)
            if ran.returncode:
                raise Unavailable((ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[0])
        os.replace(made[1], file)


def _folder() -> Path:
    """The cache folder of this user, or one for this process alone where that cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(base) if base else Path.home() / ".cache") / "infosteer"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # read-only, or a user without a home
        pass
    return _own_folder()


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
