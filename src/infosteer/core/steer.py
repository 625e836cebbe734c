"""``infosteer.steer``: methods for a model in a loop of one's own."""

from __future__ import annotations

from typing import Any

from torch import nn

from infosteer.core.calibration import Calibration, TaskBatches, as_batches
from infosteer.core.effects import Methods, as_methods, refuse_data_methods
from infosteer.core.session import Session
from infosteer.errors import ConfigError
from infosteer.models import Site, locate


def steer(
    model: nn.Module,
    methods: Methods,
    *,
    trust_structure: bool = False,
    total_steps: int | None = None,
    measure_every: int = 10,
    calibration: Calibration | None = None,
    tokenizer: Any = None,
    task: TaskBatches | None = None,
) -> Session:
    """Attaches methods to a model and proves that every site fires.

    Args:
        model: a transformers model as it will be called: after PEFT and quantisation, before torch.compile, DDP, FSDP.
        methods: method instances, an arm's mappings ``{"method": "key_lift", ...}``, or a recipe with one arm
            (a mapping or a YAML file's path).
        trust_structure: allow the structural search for architectures that the table does not have.
        total_steps: optimizer steps of the training, for schedules over its fraction.
        measure_every: optimizer steps between calls that ``session.metrics()`` measures; 0 for the first only.
        calibration: texts (with ``tokenizer``), or batches of ``input_ids``, for methods that ask which memories a text
            uses.
        task: batches of model inputs with ``labels``, for methods that ask for the loss of the task (grafting).

    Returns:
        A :class:`~infosteer.core.session.Session`; with penalties, call ``loss = session.loss(loss)`` before backward.

    Raises:
        ArchitectureError: key coefficients that cannot be located.
        SiteError: a site that does not fire.
        AttachError: a compiled or already steered model.
        ConfigError: settings that do not fit.

    Example:
        ``with infosteer.steer(model, [infosteer.Intervention(fraction=0.01)]) as session: ...``
    """
    chosen = as_methods(methods)
    refuse_data_methods(chosen)
    for name, value, low in (("total_steps", total_steps, 1), ("measure_every", measure_every, 0)):
        if not (name == "total_steps" and value is None) and (type(value) is not int or value < low):
            raise ConfigError("not a number of steps", where=name, got=value, expected=f"a whole number from {low}")
    sites = find_sites(model, trust_structure=trust_structure)
    batches = None if calibration is None else as_batches(calibration, tokenizer)
    return Session(
        model, chosen, sites, total_steps=total_steps, measure_every=measure_every, calibration=batches, task=task
    )


def find_sites(model: nn.Module, *, trust_structure: bool) -> list[Site]:
    """``locate``, which ``steer`` and ``attach`` share, for a model that is one."""
    if not isinstance(model, nn.Module):
        raise ConfigError(
            "expected a model",
            got=type(model).__name__,
            expected="a transformers model (torch.nn.Module), not its name",
        )
    return locate(model, trust_structure=trust_structure)
