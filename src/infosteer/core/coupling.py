"""How a penalty joins a loss: its gradient gets the scale of the loss's backward, its value the divisor of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from infosteer.core.ledger import Call
from infosteer.core.plans import SitePlan
from infosteer.errors import AttachError, ConfigError

Scales = dict[tuple[int, float, torch.device], Tensor]


def new_scales(plans: Sequence[SitePlan], strengths: Sequence[float]) -> Scales:
    """One 0-dim tensor for each active penalty, coefficient and device; new for every call, made outside any graph."""
    scales: Scales = {}
    for plan in plans:
        for index, _, coefficient in plan.penalties:
            if strengths[index] != 0:
                key = (index, coefficient, next(plan.site.module.parameters()).device)
                scales.setdefault(key, torch.zeros((), dtype=torch.float32, device=key[2]))
    return scales


def check_loss(loss: Any, num_items: Any) -> None:
    """Checks what a loop hands to ``session.loss``.

    Raises:
        ConfigError: a loss that is no scalar tensor, or a number of items that is no count.
    """
    if not isinstance(loss, Tensor) or loss.dim() != 0 or not loss.is_floating_point():
        raise ConfigError(
            "the loss is not a scalar tensor",
            where="session.loss",
            got=f"{loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__,
            expected="a floating tensor of shape ()",
            fix="pass the model output's .loss, or loss.mean()",
        )
    if num_items is None:
        return
    counts = num_items.numel() == 1 if isinstance(num_items, Tensor) else isinstance(num_items, (int, float))
    if not counts or isinstance(num_items, bool) or not float(num_items) >= 0:
        raise ConfigError(
            "num_items is not a count of tokens", where="session.loss", got=num_items, expected="a number >= 0"
        )


def couple(
    loss: Tensor,
    calls: Sequence[Call],
    *,
    num_items: Tensor | int | None,
    factor: float,
    on_backward: Callable[[], None],
) -> None:
    """Lets the backward of ``loss`` write, before any site's backward runs, what each penalty's gradient is scaled by.

    Formula: scale = dL/dloss * coefficient * strength * factor / n, n = ``num_items`` or the call's own token count.

    Raises:
        AttachError: several calls under reentrant checkpointing, whose recomputes cannot be told apart.
    """
    if len(calls) > 1 and any(call.reentrant for call in calls):
        raise AttachError(
            "several forwards before one backward cannot be told apart under reentrant checkpointing",
            got=f"{len(calls)} forwards",
            fix="use gradient_checkpointing_kwargs={'use_reentrant': False}",
        )

    def fill_scales(gradient: Tensor) -> None:
        on_backward()
        for call in calls:
            share = gradient.detach().float() * factor / divisor(call, num_items, gradient.device)
            for (index, coefficient, _), scale in call.scales.items():
                # Through .data: to autograd's version counter an open write would look like a conflict.
                scale.data.copy_(share * (coefficient * call.strengths[index]))

    # A hook on the loss runs first in its backward, and sees whatever multiplied the loss since.
    loss.register_hook(fill_scales)


def penalty_value(call: Call, *, num_items: Tensor | int | None = None, factor: float = 1.0) -> Tensor:
    """Value of all penalties in one call, divided like its task loss; 0 where the call summed up none."""
    terms = [
        value * call.strengths[int(key.removeprefix("penalty/"))]
        for key, value in call.sums.items()
        if key.startswith("penalty/")
    ]
    if not terms:
        return torch.zeros(())
    total = torch.stack([term.to(terms[0].device) for term in terms]).sum()
    return total * factor / divisor(call, num_items, total.device)


def loss_change_value(call: Call, *, num_items: Tensor | int | None = None) -> Tensor:
    """Value that methods on the surface ``losses`` added in one call, divided like its task loss."""
    change = torch.as_tensor(call.sums.get("loss_change", 0.0))
    return change / divisor(call, num_items, change.device)


def sums_of(calls: Sequence[Call]) -> dict[str, float]:
    """Sums and counts of measured calls: what sites left, ``rows`` that carry loss, ``penalty`` over all methods."""
    sums: dict[str, float] = {}
    for call in calls:
        for key, value in call.sums.items():
            if not key.startswith("penalty/"):
                sums[key] = sums.get(key, 0.0) + float(value)
        sums["rows"] = sums.get("rows", 0.0) + float(call.token_count())
        sums["penalty"] = sums.get("penalty", 0.0) + float(penalty_value(call, num_items=1))
    return sums


def divisor(call: Call, num_items: Tensor | int | None, device: torch.device) -> Tensor:
    """What the task loss of a call was divided by: ``num_items``, or its own rows that carry loss; at least 1."""
    return torch.as_tensor(call.token_count() if num_items is None else num_items, device=device).squeeze().clamp(min=1)
