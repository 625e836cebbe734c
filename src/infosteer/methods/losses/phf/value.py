"""The value head of advantage-weighted likelihood: what reward a hidden state lets one expect."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from infosteer.core.params import Handle


class ValueHead(Handle):
    """``V = -sigmoid(h w)`` in (-1, 0), w (D,) zero at first, trained by an AdamW of its own at each optimizer step.

    The model's optimizer was made without w; a trainer's checkpoints hold it and its moments as state of the method.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.weight: nn.Parameter | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._saved: Mapping[str, Tensor] = {}

    def values(self, hidden: Tensor) -> Tensor:
        """Hidden states (N, D) -> values (N,) fp32, with gradient in both."""
        if self.weight is None:
            saved = {name: value if name == "step" else value.to(hidden.device) for name, value in self._saved.items()}
            zeros = torch.zeros(hidden.shape[-1], dtype=torch.float32, device=hidden.device)
            self.weight = nn.Parameter(saved.pop("weight", zeros))
            self._optimizer = torch.optim.AdamW([self.weight], lr=self.rate, weight_decay=0.0)
            if saved:
                self._optimizer.state[self.weight] = saved
        return -torch.sigmoid(hidden.float() @ self.weight)

    def parameters(self) -> list[nn.Parameter]:
        return [] if self.weight is None else [self.weight]

    def before_step(self, strength: float) -> None:
        if self.weight is None or self._optimizer is None or self.weight.grad is None:
            return
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self.weight.grad)  # as DDP does with the model's own
            self.weight.grad /= dist.get_world_size()
        if bool(self.weight.grad.isfinite().all()):
            self._optimizer.step()
        self._optimizer.zero_grad()

    def after_step(self, strength: float) -> None:
        return

    def state(self) -> Mapping[str, Tensor]:
        if self.weight is None or self._optimizer is None:
            return {}
        return {"weight": self.weight, **self._optimizer.state[self.weight]}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._saved = state

    def undo(self) -> None:
        self.weight, self._optimizer = None, None

    def touched(self) -> bool:
        return True  # its effect is the loss's, which is checked as such
