"""A model with what steers it at evaluation: from an ``infosteer.json`` beside its weights, or from a recipe."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infosteer.core.config import load_yaml, suggestion
from infosteer.core.effects import as_methods
from infosteer.core.registry import describe_method, key_of
from infosteer.core.session import Session
from infosteer.core.steer import steer
from infosteer.core.surfaces import InterventionMethod
from infosteer.errors import ConfigError
from infosteer.training.loading import load_model, load_tokenizer, resolve_model
from infosteer.training.sidecar import read_sidecar

logger = logging.getLogger(__name__)

NONE = "none"  # as ``methods``: the plain model, whatever stands beside it
EVALUATED = ("evaluation", "always")  # scopes that act when a model is read
THE_END = 10**9  # a step behind every schedule's last point


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A loaded model, its tokenizer, and the session that steers it (None for a plain model)."""

    model: Any
    tokenizer: Any
    session: Session | None

    def describe(self) -> list[dict[str, Any]]:
        """The methods that act, as the mappings of a recipe."""
        return [] if self.session is None else self.session.describe()


def load_steered(
    pretrained: str,
    *,
    methods: str | Sequence[Any] | None = None,
    arm: str | None = None,
    tokenizer: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
) -> Loaded:
    """Load a model and attach the methods that act at evaluation: interventions of scope ``evaluation`` or ``always``.

    Methods that act in training only do nothing here, as in every evaluation: what they did is in the weights.
    A schedule stands at its end, or at the step that the sidecar names.

    Args:
        pretrained: ``embedded``, ``embedded:reasoning``, a folder or a hub id.
        methods: a recipe's file, an arm's mappings, or ``none``; not given, an ``infosteer.json`` in the folder counts.
        arm: which arm of the recipe, where it has several.
        tokenizer: where the tokenizer is, if not with the model.
        dtype: a torch type by name, or ``auto`` for the type that the weights are saved in.
        device: as torch names it; not given, or one that is not there: the accelerator if there is one, else the CPU.

    Raises:
        ConfigError: a model or method that cannot be had.
        RunError: files that cannot be read.
        InfoSteerError: whatever ``infosteer.steer`` refuses.
    """
    chosen, step = _methods(pretrained, methods, arm)
    model = load_model(pretrained, dtype=dtype).eval().to(_device(device))
    session = None
    if chosen:
        session = steer(model, chosen, total_steps=max(1, step))
        session.step = step
    return Loaded(model=model, tokenizer=load_tokenizer(tokenizer or pretrained), session=session)


def _methods(pretrained: str, methods: str | Sequence[Any] | None, arm: str | None) -> tuple[list[Any], int]:
    """The methods that act at evaluation, and the step at which their schedules are read."""
    step = THE_END
    if methods == NONE:
        return [], step
    source: Any = methods
    if methods is None:
        folder = resolve_model(pretrained)
        facts = read_sidecar(folder) if Path(folder).is_dir() else None
        if facts is None:
            return [], step
        source, step = facts["methods"], int(facts["step"])
    elif isinstance(methods, str):
        source = _recipe(methods, arm)
    found = as_methods(source)
    acting = [
        method
        for method in found
        if isinstance(method, InterventionMethod) and method.scope in EVALUATED and not method.off
    ]
    idle = [key_of(type(method)) for method in found if method not in acting]
    if idle:
        logger.warning("%s: nothing to do at evaluation (scope %s acts there)", ", ".join(idle), " or ".join(EVALUATED))
    if acting:
        logger.warning("steered at evaluation: %s", [describe_method(method) for method in acting])
    return acting, step


def _recipe(path: str, arm: str | None) -> Any:
    """The methods of a recipe's arm."""
    if Path(path).suffix not in (".yaml", ".yml"):
        raise ConfigError(
            "methods must be a recipe's file", where="methods", got=path, expected=f"a .yaml file, or {NONE}"
        )
    data = load_yaml(Path(path))
    arms = data.get("arms") if isinstance(data, Mapping) else None
    if not isinstance(arms, Mapping) or (arm is None and len(arms) == 1):
        return data
    if arm not in arms:
        raise ConfigError(
            "the recipe has several arms" if arm is None else "the recipe has no such arm" + suggestion(arm, arms),
            where=f"{path}, key arms",
            got=arm,
            expected=", ".join(map(str, arms)),
            fix="name one with arm=NAME",
        )
    return {"arms": {arm: arms[arm]}}


def _device(wanted: str | None) -> torch.device:
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if wanted is None or (best is None and torch.device(wanted).type != "cpu"):
        return best or torch.device("cpu")
    return torch.device(wanted)
