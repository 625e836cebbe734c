"""Which back end computes: plain PyTorch everywhere, kernels where they can run and give the same result.

Left alone, tensors on a GPU go to Triton kernels if Triton is installed, tensors on the CPU to native code if there is
a C compiler, all others to PyTorch. The environment variable ``INFOSTEER_BACKEND``, ``torch``, ``triton`` or
``native``, is read when the package is imported; it or ``use_backend`` overrides the choice for the whole process (the
backward pass runs on threads of its own, which a choice by thread would not reach). Rows that kernels do not cover
(float64; on a GPU more than 32768 entries, on the CPU float16) always go to PyTorch.

A kernel variant is tried on a few awkward rows before its first use. If it fails to compile, or if its result is not
that of the reference, one warning says so and its rows go to PyTorch from then on.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor

from infosteer.errors import ConfigError
from infosteer.ops.native.build import native_code

BACKENDS = ("torch", "triton", "native")
VARIABLE = "INFOSTEER_BACKEND"
WIDEST = 1 << 15  # entries of a row that fit on chip
_ALONE_UP_TO = 4  # PyTorch's threads that native code on one thread, made without OpenMP, still outdoes

logger = logging.getLogger(__name__)

_TRITON = importlib.util.find_spec("triton") is not None
# Triton reads this when kernels are defined; then they run on the CPU, step by step, for tests.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "") == "1"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_environment = os.environ.get(VARIABLE) or None
_override: str | None = None
_tried: dict[Hashable, bool] = {}


def set_backend(name: str | None) -> None:
    """Overrides the choice for this process; None gives it back to the environment and the automatic rule.

    Raises:
        ConfigError: an unknown name, or one of a back end that is not there.
    """
    global _override
    if name is not None:
        _check(name, "backend")
    _override = name


@contextlib.contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """``set_backend`` for a block; the process has one choice at a time, whichever thread asks.

    Raises:
        ConfigError: as ``set_backend``.
    """
    before = _override
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def chosen_backend() -> str | None:
    """The override in force: ``"torch"``, ``"triton"``, ``"native"`` or None for the automatic rule.

    Raises:
        ConfigError: the environment asks for a back end that does not exist or is not installed.
    """
    if _override is not None:
        return _override
    if _environment is not None:
        _check(_environment, f"the environment variable {VARIABLE}")
    return _environment


def kernels_take(k: Tensor) -> bool:
    """Whether rows k (..., M) go to the kernels.

    Raises:
        ConfigError: ``"triton"`` is asked for, and k lies where Triton cannot run.
    """
    choice = chosen_backend()
    if choice == "torch" or not _TRITON or k.dtype not in _DTYPES or k.dim() == 0 or not 0 < k.shape[-1] <= WIDEST:
        return False
    if choice == "triton" and not k.is_cuda and not INTERPRETED:
        raise ConfigError(
            "The Triton kernels cannot run here.",
            where="backend",
            got=f"a tensor on {k.device}",
            expected="a tensor on a GPU",
            fix=f"unset {VARIABLE} (the choice is then made by tensor), or set TRITON_INTERPRET=1 before the start "
            "to run the kernels step by step on the CPU, slowly, for tests",
        )
    return choice == "triton" or k.is_cuda


def native_wanted() -> bool:
    """Whether tensors on the CPU are to go to native code.

    Raises:
        ConfigError: it is asked for by name, and there is none.
    """
    return _native(chosen_backend())


def tried(variant: Hashable, kernel: str, trial: Callable[[], str | None]) -> bool:
    """Whether a kernel variant may be used: the trial is run once, and must neither raise nor name a difference."""
    if variant not in _tried:
        try:
            problem = trial()
        except Exception as error:  # a compiler's errors are of many kinds, and none of them may end a training
            problem = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        _tried[variant] = problem is None
        if problem is not None:
            logger.warning("The kernel %s is not used, PyTorch takes its place: %s", kernel, problem)
    return _tried[variant]


def describe() -> dict[str, Any]:
    """What would compute here, as plain data: versions, the override, and the rule for tensors on a GPU."""
    try:
        choice, problem = chosen_backend(), None
    except ConfigError as error:
        choice, problem = None, str(error).splitlines()[0]
    return {
        "gpu": "torch" if choice == "torch" or not _TRITON else "triton",
        "cpu": _on_cpu(choice),
        "override": problem or choice,
        "triton": importlib.metadata.version("triton") if _TRITON else None,
        "native": native_code() if isinstance(native_code(), str) else None,
    }


def _native(choice: str | None) -> bool:
    if choice in ("torch", "triton"):
        return False
    found = native_code()
    if isinstance(found, str):
        return False
    return choice == "native" or bool(found.has_threads()) or torch.get_num_threads() <= _ALONE_UP_TO


def _on_cpu(choice: str | None) -> str:
    if choice == "triton" and INTERPRETED:
        return "triton, interpreted"
    return "native" if _native(choice) else "torch"


def _check(name: str, where: str) -> None:
    if name not in BACKENDS:
        raise ConfigError("Unknown back end.", where=where, got=repr(name), expected=" or ".join(map(repr, BACKENDS)))
    problem = native_code() if name == "native" else ""
    if isinstance(problem, str) and problem:
        raise ConfigError(
            "There is no native back end here.",
            where=where,
            got=problem,
            expected="a C compiler that makes code for this machine",
            fix="install gcc or clang (or name one in CC)",
        )
    if name == "triton" and not _TRITON:
        raise ConfigError(
            "The Triton back end is not installed.",
            where=where,
            got="no package triton",
            expected="triton 3.4 or newer",
            fix="pip install 'infosteer[kernels]'",
        )
