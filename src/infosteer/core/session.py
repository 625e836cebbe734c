"""The session: methods attached to a model, proven to fire, active in the right forwards, and removable.

Per call of the model: the outermost module opens a :class:`~infosteer.core.ledger.Call`; each site's pre-hook edits k
and passes it through an identity whose backward adds the penalties' gradient; :meth:`Session.loss` hands that backward
its scale. No auxiliary loss is collected, so recomputes of activation checkpointing, reentrant ones included, and
whatever a trainer multiplies its loss by afterwards come out right.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from infosteer.core.contract import Context, Handle, InterventionMethod, Method, ParamMethod, PenaltyMethod
from infosteer.core.coupling import couple, new_scales, penalty_value
from infosteer.core.effects import check_effects
from infosteer.core.hooks import (
    SiteHook,
    SitePlan,
    adapter_layers,
    adapters_off,
    entry_hooks,
    refuse_rewrapped,
    refuse_unsteerable,
)
from infosteer.core.ledger import Call
from infosteer.core.measure import FirstBatch, measure_penalty, measure_site
from infosteer.core.metrics import summarise
from infosteer.core.registry import describe_method, key_of
from infosteer.core.steps import StepHooks
from infosteer.errors import SiteError
from infosteer.models import Site, prove
from infosteer.ops.inject import inject

logger = logging.getLogger(__name__)

_STEERED: weakref.WeakKeyDictionary[nn.Module, Session] = weakref.WeakKeyDictionary()


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
    ) -> None:
        refuse_unsteerable(model, already=model in _STEERED)
        self.model, self.methods, self.sites = model, tuple(methods), tuple(sites)
        self.step, self.total_steps = 0, total_steps
        self.measure_every = measure_every
        self.values = True  # whether every training call sums up its penalties' values, or measured ones only
        self.labels_hint: Tensor | None = None  # labels that a trainer keeps from the model
        self.measure_next: bool | None = None  # a trainer's word on whether the next calls are measured
        self._paused = False
        self._open: Call | None = None
        self._last: Call | None = None  # most recent training call, open or not
        self._pending: list[Call] = []  # training calls whose penalties have not been coupled to a loss
        self._in_backward: list[Call] = []
        self._measured: list[Call] = []
        self._first_batch: FirstBatch | None = FirstBatch() if self._active(InterventionMethod) else None
        self._coupled = False
        self._checked = False
        self._edits_changed: bool | None = None  # by the first batch's edits; None where none were due
        self._clock: torch.optim.Optimizer | None = None  # the optimizer whose steps are counted

        self._adapters = adapter_layers(model)
        self.plans = self._make_plans()
        if self.plans:
            prove(model, [plan.site for plan in self.plans])
        self._handles: list[Any] = []
        self._applied: list[tuple[int, Handle]] = []
        try:
            for index, method in enumerate(self.methods):
                if isinstance(method, ParamMethod) and not method.off:
                    self._applied.append((index, method.apply(method.select(self.sites))))
            # Always called last of the hooks on a module: LoRA wrappers and user hooks have had their turn.
            self._handles += [plan.site.module.register_forward_pre_hook(SiteHook(self, plan)) for plan in self.plans]
            self._handles += entry_hooks(self, model, [site.name for site in self.sites])
            self._steps = StepHooks(model.parameters, self._before_step, self._after_step)
        except BaseException:
            self._undo()
            raise
        _STEERED[model] = self
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
        """Switches all methods off until ``resume()``; as a context manager, until its end."""
        self._paused = True
        until_end = contextlib.ExitStack()
        until_end.callback(self.resume)
        return until_end

    def resume(self) -> None:
        """Switches the methods on again."""
        self._paused = False

    def remove(self) -> None:
        """Takes every hook away and undoes parameter flags; trained weights stay. Safe to call twice."""
        self._undo()
        self._steps.remove()
        _STEERED.pop(self.model, None)

    def loss(self, loss: Tensor, num_items: Tensor | int | None = None) -> Tensor:
        """Adds the penalties of the model calls since the last ``loss()``, in value and in gradient.

        Formula: ``loss + sum_p c_p sum_l sum_t r_p(k_lt) / n``, rows t that carry loss, n = ``num_items`` or the number
        of those rows in the call.

        Args:
            loss: scalar task loss of these calls, before it is scaled for accumulation, world size or fp16.
            num_items: tokens that the task loss was divided by, when that is not the call's own count (accumulation).

        Returns:
            The loss to call ``backward()`` on; ``loss`` itself when no penalty is active.
        """
        calls = self.couple(loss, num_items=num_items)
        if not calls:
            return loss
        value = sum((penalty_value(call, num_items=num_items).to(loss.device) for call in calls), torch.zeros(()))
        return loss + value.to(loss)

    def couple(self, loss: Tensor, *, num_items: Tensor | int | None = None, factor: float = 1.0) -> list[Call]:
        """Couples the penalties of the model calls since the last time to ``loss``, in gradient only.

        ``factor`` is what the task loss was multiplied by besides (world size). Returns the calls concerned.
        """
        calls, self._pending = self._pending, []
        self._coupled = self._coupled or bool(calls)
        calls = [call for call in calls if call.scales]
        if not calls or not loss.requires_grad:
            return []

        def begin() -> None:
            self._in_backward = calls

        couple(loss, calls, num_items=num_items, factor=factor, on_backward=begin)
        return calls

    def metrics(self) -> dict[str, float]:
        """Values of the last measured step, see :func:`infosteer.core.metrics.summarise`; empty before the first."""
        return summarise(self.sums())

    def sums(self) -> dict[str, float]:
        """Sums and counts of the last measured step; they add over calls and over processes."""
        sums: dict[str, float] = {}
        for call in self._measured:
            for key, value in call.sums.items():
                if not key.startswith("penalty/"):
                    sums[key] = sums.get(key, 0.0) + float(value)
            sums["rows"] = sums.get("rows", 0.0) + float(call.token_count())
            sums["penalty"] = sums.get("penalty", 0.0) + float(penalty_value(call, num_items=1))
        return sums

    def describe(self) -> list[dict[str, Any]]:
        """The methods as the mappings of a recipe."""
        return [describe_method(method) for method in self.methods]

    # -- what hooks call ------------------------------------------------------------------------------------------

    def open_call(self) -> Call:
        """Decides, once per root forward, whether and how the methods act in it."""
        training = self.model.training and torch.is_grad_enabled() and not self._paused
        strengths = tuple(method.strength_at(self.step, self.total_steps) for method in self.methods)
        if self._paused:
            strengths = (0.0,) * len(strengths)
        first = self._first_batch is not None and training
        wanted = self.measure_every > 0 and self.step % self.measure_every == 0
        wanted = first or (wanted if self.measure_next is None else self.measure_next)
        call = Call(
            training=training,
            policy=self.model.training and not self._paused and not adapters_off(self._adapters),
            step=self.step,
            strengths=strengths,
            measure=training and wanted,
            values=training and self.values,
        )
        if training:
            call.scales = new_scales(self.plans, strengths)
        self._open = call
        if training:
            self._last = call
            self._pending.append(call)
        if training and call.measure:
            self._measured = [c for c in self._measured if c.step == call.step] + [call]
        return call

    def close_call(self, failed: bool) -> None:
        """Ends the open call; a training call in which a site stayed silent is an error."""
        call, self._open = self._open, None
        if call is None:
            return
        if failed:
            self._pending = [other for other in self._pending if other is not call]
            self._measured = [other for other in self._measured if other is not call]
            return
        if call.training and not self._checked:
            refuse_rewrapped(self.model, [plan.site for plan in self.plans])
        if call.training and not call.compiled:
            silent = [plan.site.name for plan in self.plans if call.fired[plan.site.layer] == 0]
            if silent:
                raise SiteError(
                    "sites that fired when steering began are silent now",
                    where=", ".join(silent[:4]) + (" ..." if len(silent) > 4 else ""),
                    got=f"{len(silent)} of {len(self.plans)} sites did not fire in a training forward",
                    fix="attach after PEFT and kernel patches, before torch.compile; take fused MLP kernels off",
                )
        if call.training and self._first_batch is not None and self._first_batch.mass:
            self._first_batch.report()
            self._edits_changed, self._first_batch = self._first_batch.changed, None

    def at_site(self, plan: SitePlan, k: Tensor) -> Tensor:
        """Edits, measures and couples the coefficients k (..., M) of one site."""
        call = self._call_for(k)
        if call is None:
            return k
        if torch.compiler.is_compiling():
            call.compiled = True  # a traced graph cannot count; the proof at attach stands for it
        elif call.open:
            call.fired[plan.site.layer] += 1
            call.reentrant = call.reentrant or (call.training and not torch.is_grad_enabled())
        edited = k
        for index, method in plan.edits:
            if call.strengths[index] != 0 and call.in_scope(method.scope):
                context = Context(layer=plan.site.layer, step=call.step, strength=call.strengths[index])
                edited = method.edit(edited, context)
        if not call.training:
            return edited
        call.num_rows = k.numel() // k.shape[-1]
        if call.open and call.measure:
            self._measure(call, plan, k, edited)
        for index, penalty, coefficient in plan.penalties:
            if call.strengths[index] == 0:
                continue
            weight = call.row_weight(k)
            if call.open and (call.values or call.measure):
                measure_penalty(call, index, penalty, coefficient, edited, weight)
            edited = inject(edited, weight, call.scales[index, coefficient, k.device], penalty.rows_gradient)
        return edited

    # -- private --------------------------------------------------------------------------------------------------

    @torch.compiler.disable
    def _measure(self, call: Call, plan: SitePlan, k: Tensor, edited: Tensor) -> None:
        weight = call.row_weight(k)
        measure_site(call, plan.site, k, edited, weight)
        if self._first_batch is not None:
            self._first_batch.add(plan.site, k, edited, weight)

    def _call_for(self, k: Tensor) -> Call | None:
        if self._open is not None:
            return self._open
        if torch.compiler.is_compiling() or torch._C._current_graph_task_id() == -1:
            return None  # a module called by hand, outside the model: left alone
        for call in self._in_backward:
            if call.matches(k):
                return call
        return self._last

    def _make_plans(self) -> list[SitePlan]:
        plans = {site.layer: SitePlan(site=site) for site in self.sites}
        for index, method in enumerate(self.methods):
            if isinstance(method, InterventionMethod):
                for site in method.select(self.sites):
                    plans[site.layer].edits.append((index, method))
            elif isinstance(method, PenaltyMethod):
                chosen = method.select(self.sites)
                for site in chosen:
                    coefficient = method.coefficient(len(chosen), site.width)
                    plans[site.layer].penalties.append((index, method, coefficient))
        busy = [plan for plan in plans.values() if plan.edits or plan.penalties]
        return busy or list(plans.values())

    def _active(self, kind: type[Method]) -> bool:
        return any(isinstance(method, kind) and not method.off for method in self.methods)

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.check_effects()
        for index, handle in self._applied:
            handle.before_step(self.methods[index].strength_at(self.step, self.total_steps))

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        for index, handle in self._applied:
            handle.after_step(self.methods[index].strength_at(self.step, self.total_steps))
        self._clock = self._clock or optimizer
        if self._clock is optimizer:
            self.step += 1

    def check_effects(self) -> None:
        """Runs once, at the first optimizer step.

        Raises:
            NoEffectError: a method with strength > 0 that changed nothing.
        """
        if self._checked:
            return
        self._checked = True
        check_effects(
            self.methods,
            [method.strength_at(self.step, self.total_steps) for method in self.methods],
            seen_training=self._last is not None,
            edits_changed=self._edits_changed,
            coupled=self._coupled,
            handles=dict(self._applied),
        )

    def _undo(self) -> None:
        for _, handle in self._applied:
            handle.undo()
        for handle in self._handles:
            handle.remove()
        if self._last is None and any(not method.off for method in self.methods) and self._handles:
            logger.warning("the steering session ends without having seen a training step")
        self._applied, self._handles = [], []


def steering(model: nn.Module) -> Session | None:
    """The session that steers ``model``, if any."""
    return _STEERED.get(model)
