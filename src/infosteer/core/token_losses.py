"""Losses by token: what they add to a trainer's own loss, computed from the final hidden states of the same forward.

Trainers fuse the head with the loss and build no logits, and each reduces in its own way; so their loss is left alone
and only the difference is added. It costs the head once more, in chunks of rows that the backward recomputes.

Shape letters: N rows, D hidden, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from infosteer.core.applied import Applied
from infosteer.core.calls import in_backward
from infosteer.core.contract import Context
from infosteer.core.ledger import Call
from infosteer.core.metrics import COUNTED, MEASURED
from infosteer.core.surfaces import LossMethod, Tokens
from infosteer.errors import AttachError
from infosteer.models import CHUNK_ROWS, head_logits


def loss_change(model: nn.Module, call: Call, methods: Mapping[int, LossMethod], applied: Applied) -> Tensor:
    """``sum_t (f(l)_t - l_t)`` over the rows of a call, fp32 and differentiable; not yet divided by a token count.

    Symbols: l_t negative log-likelihood of the next token where row t carries loss, else 0; f the methods, by index in
    the session, in order, each ``l + strength * (per_token(l) - l)``; ``applied`` what they hold, by the same index.

    Raises:
        AttachError: a call without token ids, labels or hidden states to compute logits from.
    """
    if call.hidden is None or call.ids is None or call.rows is None or not call.from_labels:
        raise AttachError(
            "losses by token need the labels, the token ids and the final hidden states of the forward",
            where="the model call",
            got=", ".join(
                f"no {name}"
                for name, found in (("input_ids", call.ids), ("hidden states", call.hidden), ("labels", call.rows))
                if found is None
            ),
            fix="call the model with input_ids and labels",
        )
    hidden = call.hidden.reshape(-1, call.hidden.shape[-1])
    targets, known = next_tokens(call)
    marks = {index: next_marks(call, m) for index, m in methods.items() if m.marking}
    looks_back = any(method.looks_back for method in methods.values())
    likelihoods = _likelihoods(model, hidden, targets, known) if looks_back else None
    counted = call.rows.to(hidden.device) & known
    chosen = known if any(method.reads_prompts for method in methods.values()) else counted
    places = chosen.nonzero().squeeze(-1)
    hidden, targets, counted = hidden[places], targets[places], counted[places]
    base = applied.base if any(method.reads_base for method in methods.values()) else None
    before = None if base is None else base.hidden(call)[places]
    keys = call.row_keys(call.hidden)[places] if any(m.random for m in methods.values()) else None
    contexts = {
        index: Context(
            layer=len(call.fired), step=call.step, strength=call.strengths[index], keys=keys if m.random else None
        )
        for index, m in methods.items()
    }

    def change(start: int, hidden: Tensor) -> Tensor:
        rows = slice(start, start + CHUNK_ROWS)
        logits = head_logits(model, hidden)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        wanted = targets[rows]
        losses = F.cross_entropy(logits, wanted, reduction="none") * counted[rows]
        tokens = Tokens(logits=logits, targets=wanted, counted=counted[rows])
        base_logits = None if base is None or before is None else base.logits(before[rows])
        found = losses
        for index, method in methods.items():
            context = contexts[index] if keys is None else _cut(contexts[index], rows)
            marked = marks.get(index)
            mine = dataclasses.replace(
                tokens,
                marks=None if marked is None else marked[places[rows]],
                earlier=_earlier(call, likelihoods, places[rows]) if method.looks_back else None,
                hidden=hidden if method.reads_hidden else None,
                handle=applied.handles.get(index),
                base=base_logits if method.reads_base else None,
            )
            if call.measure and not in_backward():  # not once more in the recompute
                _measure(call, method, found, mine)
            new = method.per_token(found, mine, context)
            found = new if context.strength == 1 else found + context.strength * (new - found)
        return (found - losses).sum()

    total = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, len(places), CHUNK_ROWS):
        piece = hidden[start : start + CHUNK_ROWS]
        if len(places) <= CHUNK_ROWS:
            total = total + change(start, piece)
        else:
            total = total + checkpoint(change, start, piece, use_reentrant=False)
    if call.measure and not len(places):  # the same sums on every process, also where no token carries loss
        with torch.no_grad():
            change(0, hidden)
    call.sums["loss_change"] += total.detach()
    call.hidden = None
    return total


def next_tokens(call: Call) -> tuple[Tensor, Tensor]:
    """The token that follows each row, and whether there is one: (N,) int64, (N,) bool.

    Nothing follows the last row of a sequence; padding neither follows nor is followed.
    """
    ids: Any = call.ids
    following = torch.cat([ids[:, 1:], torch.zeros_like(ids[:, :1])], -1)
    known = torch.ones_like(ids, dtype=torch.bool)
    known[:, -1] = False
    if call.mask is not None:
        inside = call.mask != 0
        known = known & inside & torch.cat([inside[:, 1:], torch.zeros_like(inside[:, :1])], -1)
    if call.positions is not None:
        begins = call.positions == 0
        known = known & ~torch.cat([begins[:, 1:], torch.zeros_like(begins[:, :1])], -1)
    return torch.where(known, following, 0).reshape(-1), known.reshape(-1)


def next_marks(call: Call, method: LossMethod) -> Tensor | None:
    """A method's marks of the token that follows each row, (N,) fp32; None where the model was called without them.

    Raises:
        AttachError: marks that do not line up with the tokens.
    """
    marks, ids = call.marks.get(method.label()), call.ids
    if marks is None or ids is None:
        return None
    if marks.shape != ids.shape:
        raise AttachError(
            "the marks do not line up with the tokens",
            where=method.label(),
            got=f"marks of shape {tuple(marks.shape)}, tokens of shape {tuple(ids.shape)}",
            expected="one number for every token",
            fix="batch them with infosteer.training.collate.MarkCollator",
        )
    marks = marks.to(device=ids.device, dtype=torch.float32)
    return torch.cat([marks[:, 1:], torch.zeros_like(marks[:, :1])], -1).reshape(-1)


@torch.no_grad()
def predictions(model: nn.Module, call: Call, hidden: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of rows hidden (N, D): negative log-likelihood (N,) fp32 of the token that follows, and is it the likeliest.

    NaN and false where none follows, or where weight (N,) is 0.
    """
    targets, known = (values.to(hidden.device) for values in next_tokens(call))
    known = known if weight is None else known & (weight != 0)
    losses, right = torch.full(targets.shape, torch.nan, device=hidden.device), torch.zeros_like(known)
    places = known.nonzero().squeeze(-1)
    for start in range(0, len(places), CHUNK_ROWS):
        rows = places[start : start + CHUNK_ROWS]
        logits = head_logits(model, hidden[rows]).float()
        losses[rows] = F.cross_entropy(logits, targets[rows], reduction="none")
        right[rows] = logits.argmax(-1) == targets[rows]
    return losses, right


@torch.no_grad()
def _likelihoods(model: nn.Module, hidden: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Log-likelihood of each row's target, (N,) fp32; NaN where none follows."""
    found = torch.full(targets.shape, torch.nan, device=hidden.device)
    places = known.nonzero().squeeze(-1)
    for start in range(0, len(places), CHUNK_ROWS):
        rows = places[start : start + CHUNK_ROWS]
        logits = head_logits(model, hidden[rows]).float()
        found[rows] = -F.cross_entropy(logits, targets[rows], reduction="none")
    return found


def _earlier(call: Call, likelihoods: Tensor | None, places: Tensor) -> Callable[[Tensor], Tensor]:
    """``Tokens.earlier`` for the rows at ``places`` (n,) of a call."""
    assert likelihoods is not None
    assert call.ids is not None
    where = torch.arange(call.ids.shape[1], device=places.device).expand(call.ids.shape)
    inside = (where if call.positions is None else call.positions.to(places.device)).reshape(-1)[places]

    def earlier(lags: Tensor) -> Tensor:
        lags = lags.long()
        there = (lags >= 1) & (lags <= inside)
        return torch.where(there, likelihoods[torch.where(there, places - lags, 0)], torch.nan)

    return earlier


@torch.no_grad()
def _measure(call: Call, method: LossMethod, losses: Tensor, tokens: Tokens) -> None:
    for metric, (total, count) in method.measured(losses.detach(), tokens).items():
        call.sums[f"{MEASURED}{method.label()}/{metric}"] += total
        call.sums[f"{COUNTED}{method.label()}/{metric}"] += count


def _cut(context: Context, rows: slice) -> Context:
    keys = None if context.keys is None else context.keys[rows]
    return Context(layer=context.layer, step=context.step, strength=context.strength, keys=keys)
