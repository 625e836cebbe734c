"""What happens when a site fires: edits in recipe order, observers and measurements, then the penalties' gradient.

Shape letters: N rows, M memories.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from infosteer.core.contract import Context
from infosteer.core.ledger import Call
from infosteer.core.measure import FirstBatch, add_penalty, measure_penalty, measure_site
from infosteer.core.plans import SitePlan, StateEdit
from infosteer.core.surfaces import InterventionMethod, PenaltyMethod
from infosteer.ops.counter import mix
from infosteer.ops.gated import gated
from infosteer.ops.inject import inject, inject_value


def fire(call: Call, plan: SitePlan, k: Tensor, first_batch: FirstBatch | None) -> tuple[Tensor, Tensor | None]:
    """Edits, shows, measures and couples the coefficients k (..., M) of one site.

    Returns:
        What the projection gets, and the shielded part of the coefficients, which is added behind it; None where no
        edit shields.
    """
    _count(call, plan, k)
    edited, shield, joined = _edit(call, plan, k)
    if call.open and call.observed and plan.observers:
        _observe(call, plan, edited)
    if call.training:
        if call.open and call.measure:
            _measure(call, plan, k, edited, first_batch)
        for index, penalty, coefficient in plan.penalties:
            if not call.active[index]:
                continue
            weight = call.row_weight(k)
            if call.open and (call.values or call.measure):
                measure_penalty(call, index, penalty, coefficient, edited, weight)
            if index == joined:
                continue
            scale = call.scales[index, coefficient, k.device]
            edited = inject(edited, weight, scale, penalty.rows_gradient, penalty.add_rows_gradient)
    if shield is None:
        return edited, None
    nothing = torch.zeros((), dtype=edited.dtype, device=edited.device)
    return torch.where(shield, nothing, edited), torch.where(shield, edited, nothing)


def fuses(call: Call, plan: SitePlan) -> bool:
    """Whether a kernel may do all that happens at a site in this call inside the gated activation.

    The answer does not change between a forward and its recompute: both must save the same tensors.
    """
    if call.measure or (call.observed and plan.observers):
        return False
    return bool(_active_edits(call, plan) or _active_penalties(call, plan))


def fire_gated(call: Call, plan: SitePlan, gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """What a site's projection gets from ``act(gate) * up`` (..., M), computed with edit and penalty inside it; only
    asked where ``fuses``."""
    penalties = _active_penalties(call, plan)
    normalization = penalties[0][1].entropy_normalization if penalties else None
    edits = _active_edits(call, plan)
    if edits:
        ((index, method),) = edits
        edit_gated = method.edit_gated
        assert edit_gated is not None, "the plan is fusible"
        k, entropy = edit_gated(gate, up, activation, _context(call, plan, index, method, gate), normalization)
    else:
        k, entropy = gated(gate, up, activation, normalization=normalization)
    _count(call, plan, gate)
    if not penalties or entropy is None:
        return k
    index, _, coefficient = penalties[0]
    weight = call.row_weight(k)
    if call.open and call.values:
        add_penalty(call, index, coefficient, entropy.detach().reshape(-1), weight)
    return inject_value(k, entropy, weight, call.scales[index, coefficient, k.device])


def _active_edits(call: Call, plan: SitePlan) -> list[tuple[int, InterventionMethod]]:
    return [edit for edit in plan.edits if call.active[edit[0]] and call.in_scope(edit[1].scope)]


def _active_penalties(call: Call, plan: SitePlan) -> list[tuple[int, PenaltyMethod, float]]:
    return [penalty for penalty in plan.penalties if call.training and call.active[penalty[0]]]


def edit_states(
    call: Call, edits: Sequence[StateEdit], layer: int, states: Tensor, first_batch: FirstBatch | None
) -> Tensor:
    """What a layer puts out, (..., D), after the edits of it that are active in the call."""
    edited = states
    for edit in edits:
        if call.strengths[edit.index] == 0 or not call.in_scope(edit.method.scope):
            continue
        keys = mix(call.row_keys(states) + edit.index) if edit.method.random else None
        weight = call.row_weight(states) if edit.method.selects and call.from_labels else None
        context = Context(
            layer=layer,
            step=call.step,
            strength=call.strengths[edit.index],
            keys=keys,
            counted=None if weight is None else weight != 0,
            base_entropy=call.base_entropy(states) if edit.method.reads_base else None,
            layers=edit.layers,
            marks=call.marks_of(edit.method.label(), states) if edit.method.marking else None,
        )
        edited = edit.method.edit(edited, context)
    if call.training and call.open and call.measure and call.judge and first_batch is not None:
        _judge_states(first_batch, states, edited)
    return edited


@torch.compiler.disable
def _judge_states(first_batch: FirstBatch, states: Tensor, edited: Tensor) -> None:
    first_batch.add_states(states, edited)


def _edit(call: Call, plan: SitePlan, k: Tensor) -> tuple[Tensor, Tensor | None, int | None]:
    """The edited coefficients, which of them are shielded, and the number of the penalty whose gradient the last edit
    adds in its own backward pass; None where none is."""
    edited, shield, joined = k, None, None
    active = _active_edits(call, plan)
    for index, method in active:
        before = edited
        context = _context(call, plan, index, method, k)
        if index == active[-1][0]:
            edited, joined = _edit_last(call, plan, method, edited, context)
        else:
            edited = method.edit(edited, context)
        if method.shields and call.training:
            changed = edited != before
            shield = changed if shield is None else shield | changed
    return edited, shield, joined


def _context(call: Call, plan: SitePlan, index: int, method: InterventionMethod, k: Tensor) -> Context:
    """What a method is told about rows shaped as k (..., M) is."""
    keys = mix(call.row_keys(k) + index) if method.random else None  # two methods draw other numbers
    weight = call.row_weight(k) if method.selects and call.from_labels else None
    # To a compiler a number in Python is a constant: one that moves would have the model compiled in every step.
    tracing = torch.compiler.is_compiling()
    moving = call.moving.get(index) if tracing and method.takes_tensors else None
    return Context(
        layer=plan.site.layer,
        step=None if tracing else call.step,
        strength=call.strengths[index] if moving is None else moving,
        keys=keys,
        counted=None if weight is None else weight != 0,
        base_entropy=call.base_entropy(k) if method.reads_base else None,
        marks=call.marks_of(method.label(), k) if method.marking else None,
    )


def _count(call: Call, plan: SitePlan, k: Tensor) -> None:
    """Keeps that a site fired, with how many rows."""
    if torch.compiler.is_compiling():
        call.compiled = True  # a traced graph cannot count; the proof at attach stands for it
    elif call.open:
        call.fired[plan.site.layer] += 1
        call.reentrant = call.reentrant or (call.training and not torch.is_grad_enabled())
    if call.training:
        call.num_rows = k.numel() // k.shape[-1]


def _edit_last(
    call: Call, plan: SitePlan, method: InterventionMethod, k: Tensor, context: Context
) -> tuple[Tensor, int | None]:
    """The last edit, with the gradient of a penalty in the same pass where a kernel does both."""
    for index, penalty, coefficient in plan.penalties if call.training else ():
        if not call.active[index]:
            continue
        scale = call.scales[index, coefficient, k.device]
        edited = method.edit_and_inject(k, context, penalty, call.row_weight(k), scale)
        if edited is not None:
            return edited, index
    return method.edit(k, context), None


@torch.compiler.disable
def _observe(call: Call, plan: SitePlan, k: Tensor) -> None:
    weight = call.row_weight(k) if call.lines_up(k) else None
    rows = k.detach().reshape(-1, k.shape[-1])
    with torch.no_grad():
        for index, observer in plan.observers:
            if index not in call.observed:
                continue
            if index not in call.begun:
                call.begun.add(index)
                observer.begin(call.ids if call.ids is not None and call.ids.numel() == rows.shape[0] else None)
            observer.see(plan.site.layer, rows, weight)


def _measure(call: Call, plan: SitePlan, k: Tensor, edited: Tensor, first_batch: FirstBatch | None) -> None:
    weight = call.row_weight(k) if call.lines_up(k) else None
    measure_site(call, plan.site, k, edited, weight)
    if call.judge and first_batch is not None:
        first_batch.add(plan.site, k, edited, weight)
