"""The session: methods attached to a model, proven to fire, active in the right forwards, and removable.

Per call of the model: the outermost module opens a :class:`~infosteer.core.ledger.Call`; each site's pre-hook edits k
and passes it through an identity whose backward adds the penalties' gradient; :meth:`Session.loss` hands that backward
its scale. No auxiliary loss is collected, so recomputes of activation checkpointing, reentrant ones included, and
whatever a trainer multiplies its loss by afterwards come out right.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from infosteer.core.applied import Applied
from infosteer.core.calibration import TaskBatches, take_batches
from infosteer.core.calls import Calls
from infosteer.core.contract import Method
from infosteer.core.coupling import check_loss, couple, divisor, loss_change_value, new_scales, penalty_value, sums_of
from infosteer.core.effects import Effects
from infosteer.core.firing import edit_states, fire, fire_gated, fuses
from infosteer.core.fused import fuse_all
from infosteer.core.hooks import (
    HiddenHook,
    SiteHook,
    adapter_layers,
    adapters_off,
    block_hooks,
    entry_hooks,
    refuse_rewrapped,
    refuse_unsteerable,
)
from infosteer.core.ledger import Call
from infosteer.core.metrics import summarise
from infosteer.core.params import Loop
from infosteer.core.plans import SitePlan, edits_training, make_plans, refuse_silent, state_edits
from infosteer.core.registry import describe_method, key_of
from infosteer.core.steps import watch_steps
from infosteer.core.surfaces import InterventionMethod, LossMethod, ProbeMethod
from infosteer.core.token_losses import loss_change
from infosteer.core.usage import memory_usage
from infosteer.core.watching import Probes
from infosteer.errors import ArchitectureError
from infosteer.models import Site, final_norm, prove

logger = logging.getLogger(__name__)


class Session:
    """Methods at work in a model; made by :func:`infosteer.steer` or :func:`infosteer.attach`.

    A context manager: leaving it removes everything. ``pause()`` and ``resume()`` switch the methods off and on,
    ``loss()`` couples penalties to a loss of one's own loop, ``metrics()`` gives the last measured values.

    Args:
        model: the model as it will be called: after PEFT and quantisation, before torch.compile and DDP/FSDP.
        methods: in the order in which their edits apply.
        sites: what ``locate(model)`` found.
        total_steps: optimizer steps of the whole training, for schedules over its fraction.
        measure_every: optimizer steps between measured calls; 0 measures the first training call only.
        calibration: batches of ``input_ids`` (and ``attention_mask``) for methods that ask which memories are in use.
        task: batches of model inputs with ``labels`` for methods that ask for the task's loss, or a function that gives
            at most so many of them.

    Raises:
        AttachError: a compiled or already steered model.
        SiteError: a site that does not fire.
        ConfigError: layers that the model does not have.
    """

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[Method],
        sites: Sequence[Site],
        *,
        total_steps: int | None = None,
        measure_every: int = 10,
        calibration: Iterable[Mapping[str, Any]] | None = None,
        task: TaskBatches | None = None,
    ) -> None:
        refuse_unsteerable(model)
        self.model, self.methods, self.sites = model, tuple(methods), tuple(sites)
        self.step, self.total_steps = 0, total_steps
        self.measure_every = measure_every
        self.calls = Calls()
        self.values = True  # whether every training call sums up its penalties' values, or measured ones only
        self.labels_hint: Tensor | None = None  # labels that a trainer keeps from the model
        self.measure_next: bool | None = None  # a trainer's word on whether the next calls are measured
        self.on_remove: list[Callable[[], None]] = []
        self.removed = False
        self._paused = False
        self._measured: list[Call] = []
        self.effects = Effects(self.methods)
        self._clock: torch.optim.Optimizer | None = None  # the optimizer whose steps are counted

        self._adapters = adapter_layers(model)
        self.losses = {i: m for i, m in enumerate(self.methods) if isinstance(m, LossMethod) and not m.off}
        self.probes = Probes(self.methods, self.sites)
        self.plans = make_plans(self.methods, self.sites, self.probes.observers)
        self.state_edits = state_edits(self.methods, self.sites)
        if self.plans:
            prove(model, [plan.site for plan in self.plans])
        self._handles: list[Any] = []
        self.applied = Applied()
        try:
            usage = functools.cache(lambda: memory_usage(model, self.sites, calibration))
            self.probes.calibrate(model, self.sites, calibration)
            self.applied.apply(self.methods, model, self.sites, usage, functools.partial(take_batches, task))
            # Always called last of the hooks on a module: LoRA wrappers and user hooks have had their turn.
            hooks = [SiteHook(self, plan) for plan in self.plans]
            self._handles += fuse_all(self, hooks)
            for plan, hook in zip(self.plans, hooks, strict=True):
                self._handles.append(plan.site.module.register_forward_pre_hook(hook))
                if plan.shields:
                    self._handles.append(plan.site.module.register_forward_hook(hook.after))
            if self.losses or self.probes.read_hidden:
                self._handles.append(final_norm(model).register_forward_hook(HiddenHook(self)))
            self._handles += block_hooks(self, model)
            self._handles += entry_hooks(self, model, [site.name for site in self.sites])
            self.on_remove.append(watch_steps(self))
        except BaseException:
            self._undo()
            raise
        for method in self.methods:
            if method.off:
                logger.info("%s is off: its strength, weight or fraction is 0", key_of(type(method)))
        if self.methods:
            logger.info("steering %d of %d layers: %s", len(self.plans), len(self.sites), self.describe())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def pause(self) -> contextlib.ExitStack:
        """Switches edits, penalties and scaled updates off until ``resume()``; as a context manager, until its end.

        Parameters that a method took out of training altogether stay out: optimizers were made without them.
        """
        self._paused = True
        until_end = contextlib.ExitStack()
        until_end.callback(self.resume)
        return until_end

    def resume(self) -> None:
        """Switches the methods on again."""
        self._paused = False

    def remove(self) -> None:
        """Takes every hook away and undoes parameter flags; trained weights stay. Safe to call twice."""
        waited = any(not method.off and not _acts_outside_training(method) for method in self.methods)
        if self._handles and self.calls.last is None and waited:
            logger.warning("the steering session ends without having seen a training step")
        self.removed = True
        self._undo()

    def loss(self, loss: Tensor, num_items: Tensor | int | None = None) -> Tensor:
        """Adds the penalties of the model calls that ``loss`` was computed from, in value and in gradient.

        Formula: ``loss + sum_p c_p sum_l sum_t r_p(k_lt) / n``, rows t that carry loss, n = ``num_items`` or the number
        of those rows in the call.

        Args:
            loss: scalar task loss, before it is scaled for accumulation, world size or fp16.
            num_items: tokens that the task loss was divided by, when that is not the call's own count (accumulation).

        Returns:
            The loss to call ``backward()`` on; ``loss`` itself when no penalty is active.

        Raises:
            ConfigError: a loss that is no scalar tensor, or a ``num_items`` that is no count.
            AttachError: several calls in one loss under reentrant checkpointing.
        """
        check_loss(loss, num_items)
        coupled, calls = self.couple(loss, num_items=num_items)
        if not calls or not (self.losses or any(call.scales for call in calls)):
            return loss
        extra = torch.zeros((), device=loss.device)
        for call in calls:
            extra = extra + penalty_value(call, num_items=num_items).to(loss.device)
            extra = extra + loss_change_value(call, num_items=num_items).to(loss.device)
        return coupled + extra.to(loss)

    def couple(
        self, loss: Tensor, *, num_items: Tensor | int | None = None, factor: float = 1.0
    ) -> tuple[Tensor, list[Call]]:
        """Couples what the methods add to the loss to it, in gradient only, for the model calls that it came from.

        ``factor`` is what the task loss was multiplied by besides (world size). Returns a loss of the same value to
        call ``backward()`` on, and the calls concerned.
        """
        if not loss.requires_grad:
            return loss, []
        calls = self.calls.take(loss)
        self.effects.add_to_loss({index for call in calls for index, *_ in call.scales})
        for call in calls:
            active = {index: method for index, method in self.losses.items() if call.strengths[index] != 0}
            if active:
                change = loss_change(self.model, call, active, self.applied)
                # a batch need not hold a token that was marked; that the rows do is checked when they are encoded.
                # And a model is not yet another one than it was when steering began.
                excused = {index for index, method in active.items() if method.marking or method.reads_base}
                self.effects.add_to_loss(excused)
                self.effects.add_to_loss(active.keys() - excused, change)
                share = (change * factor / divisor(call, num_items, change.device)).to(loss)
                loss = loss + (share - share.detach())
        couple(loss, calls, num_items=num_items, factor=factor, on_backward=lambda: self.calls.begin_backward(calls))
        return loss, calls

    def begin(self, optimizer: torch.optim.Optimizer, loop: Loop | None = None) -> None:
        """Names the optimizer before the first backward; only methods that step within it ask for that."""
        self.applied.begin(optimizer, loop or Loop())

    def finish(self) -> None:
        """Ends the training part: methods that act on the trained weights as a whole do so now. Safe to call twice."""
        self.applied.finish(self._strengths())

    def metrics(self) -> dict[str, float]:
        """Values of the last measured step, see :func:`infosteer.core.metrics.summarise`; empty before the first."""
        return {**summarise(self.sums()), **self.probes.metrics(), **self.applied.metrics()}

    def sums(self) -> dict[str, float]:
        """Sums and counts of the last measured step; they add over calls and over processes."""
        return sums_of(self._measured)

    def describe(self) -> list[dict[str, Any]]:
        """The methods as the mappings of a recipe."""
        return [describe_method(method) for method in self.methods]

    # -- what hooks call ------------------------------------------------------------------------------------------

    def open_call(self, module: nn.Module) -> Call:
        """Decides, once per root forward, whether and how the methods act in it."""
        training = self.model.training and torch.is_grad_enabled() and not self._paused
        strengths = self._strengths() if training or self._acts_outside_training() else (0.0,) * len(self.methods)
        judge = self.effects.first_batch is not None and edits_training(self.methods, strengths)
        wanted = self.measure_every > 0 and self.step % self.measure_every == 0
        wanted = wanted if self.measure_next is None else self.measure_next
        call = Call(
            training=training,
            policy=self.model.training and not self._paused and not adapters_off(self._adapters),
            step=self.step,
            strengths=strengths,
            active=tuple(strength != 0 for strength in strengths),
            moving={
                index: torch.tensor(strengths[index], dtype=torch.float64)
                for index, method in enumerate(self.methods)
                if not isinstance(method.strength, float)
            },
            measure=training and (wanted or judge),
            judge=training and judge,
            values=training and self.values,
            evaluation=not self.model.training and not self._paused,
            draws=any(method.random for method in self.methods),
            uncertainty=self.applied.base.entropy if training and self.applied.base is not None else None,
        )
        call.observed = self.probes.looking(call)
        if training:
            call.scales = new_scales(self.plans, strengths)
        self.calls.open(call, module)
        return call

    def close_call(self, call: Call, output: Any) -> None:
        """Ends a call; a training call in which a site stayed silent is an error. ``output`` is None if it failed."""
        if output is not None and call.hidden is not None and call.observed:
            self.probes.show_hidden(call, self.model)
        if not (call.training and self.losses):
            call.hidden = None  # nobody will ask for it, and its graph is large
        if output is None or not call.training:
            return
        if not self.effects.proven:
            refuse_rewrapped(self.model, [plan.site for plan in self.plans])
        refuse_silent(self.plans, call)
        if call.judge:
            self.effects.close_first_batch()
        if call.measure:
            self._measured = [other for other in self._measured if other.step == call.step] + [call]
        self.calls.await_loss(call, output)

    def at_site(self, plan: SitePlan, k: Tensor) -> tuple[Tensor, Tensor | None]:
        """What a site's projection gets instead of k (..., M), and what is added behind it; see ``firing.fire``."""
        call = self.calls.of(k)
        return (k, None) if call is None else fire(call, plan, k, self.effects.first_batch)

    def fuses(self, plan: SitePlan, x: Tensor) -> bool:
        """Whether ``at_gated`` may take the place of ``at_site`` in the call that rows x (..., D) belong to."""
        call = self.calls.of(x)
        return call is not None and fuses(call, plan)

    def at_gated(self, plan: SitePlan, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        """What a site's projection gets from ``act(gate) * up`` (..., M); see ``firing.fire_gated``."""
        call = self.calls.of(gate)
        assert call is not None, "fuses has found it"
        return fire_gated(call, plan, gate, up, activation)

    def at_layer(self, layer: int, states: Tensor) -> Tensor:
        """What goes on from a layer instead of its output (B, T, D).

        Raises:
            ArchitectureError: a family whose layers put out several streams.
        """
        edits = self.state_edits.get(layer)
        call = self.calls.of(states) if edits else None
        if not edits or call is None:
            return states
        if states.dim() > 3:
            raise ArchitectureError("several parallel streams cannot be edited", where=f"layer {layer}")
        return edit_states(call, edits, layer, states, self.effects.first_batch)

    # -- private --------------------------------------------------------------------------------------------------

    def _strengths(self) -> tuple[float, ...]:
        if self._paused:
            return (0.0,) * len(self.methods)
        return tuple(method.strength_at(self.step, self.total_steps) for method in self.methods)

    def _acts_outside_training(self) -> bool:
        return any(_acts_outside_training(method) for method in self.methods)

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Called before an optimizer that holds parameters of the model steps."""
        self.applied.before_step(self._strengths(), optimizer, self.step, self.total_steps)

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Called after that step; the first optimizer seen is the one whose steps are counted."""
        self.applied.after_step(self._strengths())
        self.check_effects()
        self.calls.forget_waiting()
        self._clock = self._clock or optimizer
        if self._clock is optimizer:
            self.step += 1

    def check_effects(self) -> None:
        """Runs after every optimizer step until each method's first step with strength > 0 has been seen.

        Raises:
            NoEffectError: a method with strength > 0 that changed nothing.
        """
        self.effects.check(self._strengths(), self.calls.last is not None, self.applied.handles)

    def _undo(self) -> None:
        self.applied.undo()
        for hook in self._handles:
            hook.remove()
        self._handles = []
        while self.on_remove:
            self.on_remove.pop()()


def _acts_outside_training(method: Method) -> bool:
    return isinstance(method, (InterventionMethod, ProbeMethod)) and method.scope != "train"
