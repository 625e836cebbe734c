"""One root forward and what was seen in it.

A ``Call`` is opened when the outermost module of the model is entered and closed when it returns; whether steering is
active is decided there, once. Hooks that fire while it is open belong to it; hooks that fire inside a backward are
recomputes (activation checkpointing) and inherit the call whose backward runs.

Shape letters: B batch, T time, N = B*T rows.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.errors import AttachError
from infosteer.ops.counter import mix, row_keys
from infosteer.ops.masking import loss_rows

IGNORE_INDEX = -100


@dataclasses.dataclass(kw_only=True, eq=False)
class Call:
    """One root forward: its mode, the rows that carry loss, and the sums that its sites left.

    Attributes:
        training: the root was in training mode and gradients were enabled.
        evaluation: the root was in evaluation mode.
        policy: the root was in training mode and its adapters, if any, were on.
        step: optimizer steps done before this call.
        strengths: effective strength of every method of the session, in recipe order.
        active: whether each of them is not 0.
        moving: those that a schedule moves, as 0-dim fp64 tensors by index.
        measure: sites sum up entropies and changes.
        judge: this is the first call with edits: how much they change is reported.
        values: sites sum up the penalties' values.
        observed: indices of the probes that look at this call.
        begun: indices of those that know already that it begins.
        draws: a method in it draws random numbers.
        ids, mask, positions: the inputs of those names, (B, T), where the model got them.
        inputs: what the model was called with beside the tokens and is needed to read them as it does.
        continued: the tokens follow others that a cache holds.
        marks: (B, T) by method, see :mod:`infosteer.core.marks`.
        keys: (N,) int64, see ``Context.keys``.
        uncertainty: asks the model before training for ``Context.base_entropy``; None where no edit reads it.
        base_hidden: (N, D) final hidden states of the model before training, once it was asked.
        hidden: final hidden states (..., D), where a method reads them.
        rows: (N,) bool, rows that carry loss; None counts every row.
        scales: gradient scale by (method, coefficient, device), filled when the loss's backward begins.
        sums: (key) -> running sum over sites, fp32 scalars.
        fired: layer -> number of firings.
    """

    training: bool
    policy: bool
    step: int
    strengths: tuple[float, ...]
    active: tuple[bool, ...] = ()
    moving: Mapping[int, Tensor] = dataclasses.field(default_factory=dict)
    measure: bool
    judge: bool
    values: bool
    evaluation: bool = False
    observed: frozenset[int] = frozenset()
    begun: set[int] = dataclasses.field(default_factory=set)
    draws: bool = False
    ids: Tensor | None = None
    mask: Tensor | None = None
    positions: Tensor | None = None
    inputs: dict[str, Any] = dataclasses.field(default_factory=dict)
    continued: bool = False
    marks: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    keys: Tensor | None = None
    uncertainty: Callable[[Call], Tensor] | None = None
    base_hidden: Tensor | None = None
    hidden: Tensor | None = None
    rows: Tensor | None = None
    from_labels: bool = False
    weight: Tensor | None = None
    scales: dict[tuple[int, float, torch.device], Tensor] = dataclasses.field(default_factory=dict)
    sums: dict[str, Any] = dataclasses.field(default_factory=lambda: defaultdict(float))
    fired: dict[int, int] = dataclasses.field(default_factory=lambda: defaultdict(int))
    num_rows: int = 0
    _base_entropy: Tensor | None = None
    open: bool = True
    reentrant: bool = False
    compiled: bool = False
    number: int = -1

    def in_scope(self, scope: str) -> bool:
        """Whether a method of this scope acts in this call."""
        if scope == "evaluation":
            return self.evaluation
        return scope == "always" or self.training or (scope == "policy" and self.policy)

    def read_inputs(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], hint: Tensor | None
    ) -> None:
        """Takes the rows that carry loss from a module's inputs: labels before a padding mask, inner modules before
        outer ones, since wrappers (prompt tuning) may add positions on the way in."""
        if args:
            try:
                kwargs = {**inspect.signature(module.forward).bind_partial(*args).arguments, **kwargs}
            except TypeError:
                return
        shifted, labels, mask = (kwargs.get(name) for name in ("shift_labels", "labels", "attention_mask"))
        self._read_tokens(kwargs, mask)
        given = _as_tokens(labels)
        if given is None and not self.from_labels:
            given = _as_tokens(hint)
        if (tokens := _as_tokens(shifted)) is not None:
            self._set_rows(tokens != IGNORE_INDEX, from_labels=True)
        elif given is not None:
            self._set_rows(loss_rows(given, IGNORE_INDEX), from_labels=True)
        elif isinstance(mask, Tensor) and mask.dim() == 2 and not self.from_labels:
            self._set_rows(mask != 0, from_labels=False)

    def _read_tokens(self, kwargs: Mapping[str, Any], mask: Any) -> None:
        """Keeps the token numbers of the outermost module that has them, and what they say about each row."""
        ids, positions = _as_tokens(kwargs.get("input_ids")), _as_tokens(kwargs.get("position_ids"))
        if ids is None or self.ids is not None:
            return
        self.ids = ids
        given = {"attention_mask": mask, "position_ids": kwargs.get("position_ids")}
        self.inputs = {name: value for name, value in given.items() if value is not None}
        length = getattr(kwargs.get("past_key_values"), "get_seq_length", None)
        self.continued = length is not None and length() > 0
        self.mask = mask if isinstance(mask, Tensor) and mask.shape == ids.shape else None
        self.positions = positions.expand(ids.shape) if positions is not None and self.mask is None else None
        if self.draws:
            self.keys = mix(row_keys(ids, self.mask, self.positions) + self.step)

    def row_keys(self, k: Tensor) -> Tensor:
        """(N,) int64 keys of the rows of k (..., M); by their number where the model was called without token ids."""
        count = k.numel() // k.shape[-1]
        if self.keys is None or self.keys.numel() != count:
            return mix(mix(torch.arange(1, count + 1, device=k.device)) + self.step)
        return self.keys.to(k.device)

    @torch.compiler.disable
    def base_entropy(self, k: Tensor) -> Tensor:
        """(N,) fp32, see ``Context.base_entropy``, for the rows of k (..., M); asked once for all sites of the call.

        Raises:
            AttachError: the model was called without token numbers, or its layers see other positions.
        """
        assert self.uncertainty is not None, "an edit reads it"
        count = k.numel() // k.shape[-1]
        if self.ids is None or self.ids.numel() != count:
            raise AttachError(
                "the model before training can only be asked about the tokens that the layers see",
                where="the model call",
                got="no input_ids" if self.ids is None else f"{self.ids.numel()} tokens, {count} rows",
                fix="call the model with input_ids, without virtual tokens, or set uncertain_from to 0",
            )
        if self._base_entropy is None:
            self._base_entropy = self.uncertainty(self)
        return self._base_entropy.to(k.device)

    def marks_of(self, name: str, k: Tensor) -> Tensor | None:
        """(N,) fp32 marks of a method, those of the tokens at the rows of k (..., M); None where there are none.

        Raises:
            AttachError: marks of another number than rows.
        """
        found = self.marks.get(name)
        if found is None:
            return None
        if found.numel() != k.numel() // k.shape[-1]:
            raise AttachError(
                "the marks do not line up with the rows that the layers see",
                where=name,
                got=f"{found.numel()} marks, {k.numel() // k.shape[-1]} rows",
            )
        return found.reshape(-1).to(device=k.device, dtype=torch.float32)

    def _set_rows(self, rows: Tensor, *, from_labels: bool) -> None:
        self.rows, self.from_labels = rows.reshape(-1), from_labels

    def row_weight(self, k: Tensor) -> Tensor | None:
        """(N,) fp32, 1 for rows that carry loss, for coefficients k (..., M).

        Raises:
            AttachError: the model was called with another number of positions than its layers see.
        """
        count = k.numel() // k.shape[-1]
        if self.rows is None:
            return None
        if self.rows.numel() != count:
            raise AttachError(
                "the labels do not line up with the rows that the layers see",
                got=f"{self.rows.numel()} positions of labels or mask, {count} rows",
                expected="one row of key coefficients for every position",
                fix="pass labels (or attention_mask) of the full sequence to the model call",
            )
        if self.weight is None or self.weight.device != k.device:
            self.weight = self.rows.to(device=k.device, dtype=torch.float32)
        return self.weight

    def lines_up(self, k: Tensor) -> bool:
        """Whether every row of k (..., M) has its position in labels or mask."""
        return self.rows is None or self.rows.numel() == k.numel() // k.shape[-1]

    def token_weight(self, k: Tensor) -> Tensor | None:
        """(N,) fp32, 1 for positions that hold a token, for rows k (..., D); None where no padding is known of."""
        if self.mask is None or self.mask.numel() != k.numel() // k.shape[-1]:
            return None
        return (self.mask != 0).reshape(-1).to(device=k.device, dtype=torch.float32)

    def matches(self, k: Tensor) -> bool:
        """Whether coefficients k (..., M) have as many rows as this call."""
        return self.num_rows in (0, k.numel() // k.shape[-1])

    def token_count(self) -> Tensor | int:
        """Rows that carry loss, at least 1: what a task loss that is a mean over tokens was divided by."""
        return max(self.num_rows, 1) if self.rows is None else self.rows.sum().clamp(min=1)


def _as_tokens(labels: Any) -> Tensor | None:
    """Labels that are one token number a position, and not the classes or values of a classification head."""
    return labels if isinstance(labels, Tensor) and labels.dim() == 2 and not labels.is_floating_point() else None
