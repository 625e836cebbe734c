"""What GaLore does around an optimizer's step: it lets the optimizer step on the projected gradient.

For the length of the step each matrix is replaced by zeros of the projection's shape and its gradient by the
projection, so that whatever optimizer runs makes moments of that shape and leaves its update behind. The basis lives
in the optimizer's own state, beside the moments: whoever saves the one saves the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.core.params import Handle, Loop
from infosteer.core.sharding import is_sharded
from infosteer.core.updates import left_out, weight_decay
from infosteer.errors import AttachError
from infosteer.methods.params.galore.early import EarlySteps
from infosteer.methods.params.galore.memory import state_bytes
from infosteer.methods.params.galore.projection import Basis, find_basis, projected_shape, read_basis
from infosteer.methods.params.galore.tucker import TuckerBasis

_KEPT = "galore_"  # what the optimizer's state holds of ours begins so
_STEP = f"{_KEPT}step"
_FIRST_MOMENTS = ("exp_avg", "momentum_buffer")


@dataclasses.dataclass(kw_only=True, eq=False, slots=True)
class Entered:
    """A matrix whose place is taken by the projection while the optimizer steps."""

    parameter: nn.Parameter
    weight: Tensor
    gradient: Tensor
    basis: Basis | TuckerBasis
    step: int
    group: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How matrices are projected; see the method's settings of the same names."""

    proj_type: str
    update_proj_gap: int
    scale: float
    solver: str
    rotate: bool
    seed: int


class LowRank(Handle):
    """Matrices whose optimizer works in the projection, until undone.

    Args:
        ranks: the matrices, each with its rank.
        trained: all parameters that are trained, with ``per_layer``.
        per_layer: every parameter steps as soon as its gradient is there, which is freed then.
    """

    inner = True

    def __init__(
        self,
        ranks: Sequence[tuple[nn.Parameter, int]],
        settings: Settings,
        *,
        trained: Sequence[nn.Parameter] = (),
        per_layer: bool = False,
    ) -> None:
        self.ranks = {id(parameter): rank for parameter, rank in ranks}
        self.matrices = [parameter for parameter, _ in ranks]
        self.settings = settings
        self._trained = list(trained)
        self._per_layer = per_layer
        self._early: EarlySteps | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._entered: list[Entered] = []
        self._seeds = {id(parameter): settings.seed + index for index, (parameter, _) in enumerate(ranks)}

    @property
    def early(self) -> bool:
        return self._per_layer

    def parameters(self) -> list[nn.Parameter]:
        return list(self._trained if self._per_layer else self.matrices)

    def begin(self, optimizer: torch.optim.Optimizer, loop: Loop) -> None:
        self._optimizer = optimizer
        if self._per_layer and self._early is None:
            self._early = EarlySteps(optimizer, self._trained, loop, enter=self._enter, leave=self._leave)

    def see_optimizer(self, optimizer: torch.optim.Optimizer, step: int, total_steps: int | None) -> None:
        if self._per_layer and self._early is None:
            raise AttachError(
                "steps within the backward pass need the optimizer before the first one",
                where="galore.per_layer",
                fix="call session.begin(optimizer) before the loop",
            )
        self._optimizer = optimizer

    def before_step(self, strength: float) -> None:
        optimizer = self._optimizer
        if optimizer is None or self._early is not None:
            return  # all gradients have been used already
        if strength == 0:
            if any(_STEP in optimizer.state.get(parameter, {}) for parameter in self.matrices):
                raise AttachError(
                    "GaLore cannot be switched off between steps: the moments have the projection's shape",
                    where="galore",
                    fix="keep the session until training ends, or begin with a new optimizer",
                )
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self.ranks and parameter.grad is not None:
                    self._enter(parameter, group)

    def after_step(self, strength: float) -> None:
        self._leave()
        if self._early is not None:
            self._early.next_step()

    @torch.no_grad()
    def _enter(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        assert self._optimizer is not None
        if id(parameter) not in self.ranks or parameter.grad is None:
            return
        rank, gradient = self.ranks[id(parameter)], parameter.grad
        _refuse(self._optimizer, parameter, group)
        state = self._optimizer.state.get(parameter, {})
        step, basis = int(state.get(_STEP, 0)), _stored(state, parameter.shape, rank, self.settings.proj_type)
        in_gradient = weight_decay(self._optimizer, group)[1]
        seen = gradient.add(parameter, alpha=in_gradient) if in_gradient else gradient
        if basis is None or step % self.settings.update_proj_gap == 0:
            newer = find_basis(
                seen, rank, self.settings.proj_type, self.settings.solver, self._seeds[id(parameter)] + 1_000_003 * step
            )
            if basis is not None and newer is not None and self.settings.rotate:
                _rotate(state, newer, basis)
            basis = newer or basis  # a gradient without directions leaves the old ones
        if basis is None:
            parameter.grad = None  # nothing to go by yet: as if it had not been used in this step
            self._entered.append(
                Entered(
                    parameter=parameter, weight=parameter.data, gradient=gradient, basis=Basis(), step=-1, group=group
                )
            )
            return
        low = basis.project(seen)
        self._entered.append(
            Entered(parameter=parameter, weight=parameter.data, gradient=gradient, basis=basis, step=step, group=group)
        )
        parameter.grad = None
        parameter.data = torch.zeros_like(low)
        parameter.grad = low

    @torch.no_grad()
    def _leave(self) -> None:
        entered, self._entered = self._entered, []
        optimizer = self._optimizer
        if not entered or optimizer is None:
            return
        skipped = left_out(optimizer)
        for item in entered:
            parameter, update = item.parameter, item.parameter.data
            parameter.grad = None
            parameter.data = item.weight
            parameter.grad = item.gradient
            if item.step < 0 or skipped:
                continue
            size = _size_factor(optimizer, item)
            parameter.data.add_(item.basis.lift(update), alpha=self.settings.scale * size)
            decay = weight_decay(optimizer, item.group)[0]
            if decay:
                parameter.data.mul_(1 - _rate(item, size) * decay)
            # Only now: optimizers take a state that is not empty for one that they have filled.
            state = optimizer.state[parameter]
            state[_STEP] = item.step + 1
            for name, tensor in item.basis.tensors().items():
                state[_KEPT + name] = tensor

    def undo(self) -> None:
        self._leave()
        if self._early is not None:
            self._early.remove()
        held = self._optimizer.state if self._optimizer is not None else {}
        for parameter in self.matrices:
            if _STEP in held.get(parameter, {}):  # whole gradients would not fit these moments
                del held[parameter]
        self.ranks, self.matrices, self._trained, self._early, self._optimizer = {}, [], [], None, None

    def touched(self) -> bool:
        return bool(self.matrices)

    def metrics(self) -> dict[str, float]:
        """``matrices``: how many are projected; ``learning_rate`` that the optimizer has for them, ``projected_rate``
        what that comes to behind the projection; ``state_mib``: what it holds for them, bases included, and
        ``state_share`` of what two moments of their whole shape would take."""
        found = {"matrices": float(len(self.matrices))}
        if self._optimizer is None or not self.matrices:
            return found
        rates = [float(g["lr"]) for g in self._optimizer.param_groups if any(id(p) in self.ranks for p in g["params"])]
        held = state_bytes(self._optimizer, self.matrices)
        whole = sum(2 * parameter.numel() * parameter.element_size() for parameter in self.matrices)
        rate = max(rates, default=0.0)
        return {
            **found,
            "learning_rate": rate,
            "projected_rate": rate * self.settings.scale,
            "state_mib": held / 2**20,
            "state_share": held / whole,
        }


def _stored(state: dict[str, Any], shape: Sequence[int], rank: int, mode: str) -> Basis | TuckerBasis | None:
    """The basis in an optimizer's state, which must fit a parameter of the shape and moments of its projection."""
    if _STEP not in state:
        return None
    kept = {name.removeprefix(_KEPT): value for name, value in state.items() if name.startswith(_KEPT)}
    basis, wanted = read_basis(kept), projected_shape(shape, rank, mode)
    made = None if basis is None else basis.low_shape(shape)
    if basis is None or made != wanted:
        raise AttachError(
            "the optimizer's state was made with another rank or mode",
            where="galore",
            got=f"moments of shape {made}",
            expected=f"moments of shape {wanted}",
            fix="resume with the settings of the run that saved it",
        )
    return basis


def _size_factor(optimizer: torch.optim.Optimizer, item: Entered) -> float:
    """What Adafactor's step has to be multiplied by: it goes by the size of the weights, and has seen zeros.

    Formula: ``max(e, rms(W)) / e``, e the floor of the size; 1 for other optimizers.
    """
    if not (isinstance(optimizer, torch.optim.Adafactor) or item.group.get("scale_parameter")):
        return 1.0
    floor = float(item.group["eps"][1])
    return max(floor, float(item.weight.float().square().mean().sqrt())) / floor


def _rate(item: Entered, size: float) -> float:
    """The rate by which weights decay; transformers' Adafactor takes their size into it, torch's does not."""
    rate = float(item.group["lr"])
    return rate * float(item.group["eps"][1]) * size if item.group.get("scale_parameter") else rate


def _rotate(state: dict[str, Any], newer: Any, older: Any) -> None:
    """Turns the first moments from the coordinates of one basis into those of another of the same kind."""
    names = [name for name in _FIRST_MOMENTS if type(state.get(name)) is Tensor]
    if not names:
        raise AttachError(
            "this optimizer's first moment cannot be turned into a new basis",
            where="galore.rotate",
            got=", ".join(key for key in state if not key.startswith("galore_")) or "no moments",
            expected=f"a plain tensor {' or '.join(_FIRST_MOMENTS)}",
            fix="set rotate: false, as in the paper",
        )
    for name in names:
        state[name] = newer.turn(state[name], older)


def _refuse(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, group: dict[str, Any]) -> None:
    """Optimizers that project already, hold moments of whole gradients, or choose their own rate."""
    state = optimizer.state.get(parameter, {})
    whole = [k for k, v in state.items() if isinstance(v, Tensor) and v.shape == parameter.shape and _STEP not in state]
    if "update_proj_gap" in group:
        what, got = "the optimizer projects gradients already", type(optimizer).__name__
    elif whole:
        what, got = "the optimizer holds moments of whole gradients", ", ".join(whole)
    elif group.get("lr") is None:
        what, got = "the optimizer chooses its own rate", type(optimizer).__name__
    elif is_sharded(parameter):
        what, got = "the parameters are sharded", "DTensor"
    else:
        return
    raise AttachError(
        what,
        where="galore",
        got=got,
        expected="whole parameters, and an optimizer of plain steps from its first one on, such as AdamW",
        fix="use optim: adamw_torch, an 8-bit AdamW or adafactor, with a rate, and DDP instead of sharding",
    )
