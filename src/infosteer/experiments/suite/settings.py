"""What one evaluation is asked for, checked before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infosteer.errors import ConfigError
from infosteer.experiments.recipe import BASE_ARM
from infosteer.training.loading import EMBEDDED, resolve_model

DTYPES = ("float32", "bfloat16", "float16")
ENGINES = ("transformers", "vllm")
CHECK_ROWS = 8  # rows a task that are decoded again one by one where the number type is not float32
_NAMED = re.compile(r"([A-Za-z0-9][\w.-]*)=(.+)", re.DOTALL)
_SEED_FOLDER = re.compile(r"seed-(\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One model to evaluate: arms of one name and several seeds are trainings of one kind."""

    name: str
    seed: int
    model: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteSettings:
    """How everything is evaluated.

    Attributes:
        models: ``MODEL`` or ``NAME=MODEL`` each.
        tasks: tasks, groups, sources of rows (``SOURCE`` or ``NAME=SOURCE``), or ``lm_eval:TASK``.
        data: folder that holds the tasks' folders; None takes the hub's.
        limit: first rows of each task.
        batch_size, dtype, device, engine: how the model runs; device None takes an accelerator where there is one.
        template: wording of instruction rows; None takes the tasks' own.
        shots: examples before each question.
        seed: chooses shots and the samples shown.
        max_new_tokens: longest answer; None takes each task's own.
        decode, options: whether answers are decoded, and options scored by likelihood.
        check_rows: rows a task that are decoded again with a batch size of 1; None takes some where the number type is
            not float32.
        skip_bad_rows: count bad rows instead of stopping.
        against: sources of training rows that the questions are looked for in.
    """

    models: tuple[str, ...] = (EMBEDDED,)
    tasks: tuple[str, ...] = ("commonsense", "arithmetic")
    data: str | None = None
    limit: int | None = None
    batch_size: int = 64
    dtype: str = "float32"
    device: str | None = None
    engine: str = "transformers"
    template: str | None = None
    shots: int = 0
    seed: int = 0
    max_new_tokens: int | None = None
    decode: bool = True
    options: bool = True
    check_rows: int | None = None
    skip_bad_rows: bool = False
    against: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, known in (("dtype", self.dtype, DTYPES), ("engine", self.engine, ENGINES)):
            if value not in known:
                raise ConfigError(f"unknown {name}", where=f"--{name}", got=value, expected=", ".join(known))
        low = {"limit": 1, "batch_size": 1, "shots": 0, "max_new_tokens": 1, "check_rows": 0}
        for name, least in low.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                option = "--" + name.replace("_", "-").replace("check-rows", "check-batch-size")
                raise ConfigError(f"{option} is a whole number from {least}", where=option, got=value)
        if not self.decode and not self.options:
            raise ConfigError("--no-decode and --no-options together leave nothing to measure", where="--no-decode")
        if self.engine == "vllm" and self.options:
            raise ConfigError(
                "the vLLM engine decodes only: it gives no likelihoods of options",
                where="--engine vllm",
                fix="add --no-options, or use --engine transformers",
            )
        if not self.tasks:
            raise ConfigError("no task is named", where="--tasks")

    @property
    def rows_checked(self) -> int:
        """Rows a task whose answers are compared between batch sizes."""
        if not self.decode or self.batch_size == 1 or self.engine != "transformers":
            return 0
        if self.check_rows is None:
            return 0 if self.dtype == "float32" else CHECK_ROWS
        return self.check_rows

    def to_config(self) -> dict[str, Any]:
        """All that the results depend on beside models and rows, as plain data."""
        return {
            "limit": self.limit,
            "batch_size": self.batch_size,
            "dtype": self.dtype,
            "device": device_of(self),
            "engine": self.engine,
            "template": self.template,
            "shots": self.shots,
            "seed": self.seed,
            "max_new_tokens": self.max_new_tokens,
            "decode": self.decode,
            "options": self.options,
            "check_batch_size": self.rows_checked,
            "skip_bad_rows": self.skip_bad_rows,
            "against": list(self.against),
        }


def device_of(settings: SuiteSettings) -> str:
    """The device that models run on. Raises: ConfigError for a name that torch does not know or cannot use."""
    import torch

    if settings.engine == "vllm":
        return "vllm"
    if settings.device is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return "cpu" if found is None else found.type
    try:
        torch.empty(1, device=settings.device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError("this device cannot be used", where="--device", got=f"{settings.device}: {reason}") from None
    return settings.device


def named(text: str) -> tuple[str | None, str]:
    """``NAME=REST`` as (name, rest); (None, text) where nothing is named, or a file of that very name exists."""
    match = _NAMED.fullmatch(text)
    if match is None or Path(text).exists():
        return None, text
    return match[1], match[2]


def arms_of(models: Sequence[str]) -> list[Arm]:
    """The models with names and seeds, in the order given; the first one's name is the baseline.

    A run's checkpoint ``.../ARM/seed-N`` is seed N of arm ARM; any other model is seed 0 of an arm of its own name.

    Raises: ConfigError for models that do not exist, two of one name and seed, and names that cannot be used.
    """
    if not models:
        raise ConfigError("no model is named", where="--model")
    found: dict[tuple[str, int], Arm] = {}
    for text in models:
        name, model = named(text)
        resolve_model(model)
        own, seed = _place(model)
        arm = Arm(name=own if name is None else name, seed=seed, model=model)
        if arm.name == BASE_ARM:
            raise ConfigError(
                f"no model can be called {BASE_ARM!r}: results call a run's model before training so",
                where=f"--model {text}",
                fix=f"--model NAME={model}",
            )
        if (arm.name, arm.seed) in found:
            raise ConfigError(
                "two models have one name and seed",
                where=f"--model {text}",
                got=f"{arm.name}, seed {arm.seed}: {found[arm.name, arm.seed].model} and {model}",
                fix=f"give one of them another name: --model NAME={model}",
            )
        found[arm.name, arm.seed] = arm
    return list(found.values())


def _place(model: str) -> tuple[str, int]:
    path = Path(model).expanduser()
    if model.partition(":")[0] == EMBEDDED or not path.is_dir():
        return re.sub(r"[^\w.-]", "-", model.rpartition("/")[2]), 0
    path = path.resolve()
    if (match := _SEED_FOLDER.fullmatch(path.name)) and path.parent.name:
        return re.sub(r"[^\w.-]", "-", path.parent.name), int(match[1])
    return re.sub(r"[^\w.-]", "-", path.name) or "model", 0
