"""Batches with marks: columns of one number a token, laid out as the tokens are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from infosteer.core.marks import PREFIX


class MarkCollator:
    """A collator around another one: it batches the columns ``marks_*`` and leaves the rest to the other.

    The other may pad on the right or put all rows into one sequence (padding-free); marks of padding are 0.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch: what the other collator makes of the rest, and marks of the shape of its ``input_ids``, fp32."""
        names = [name for name in examples[0] if name.startswith(PREFIX)]
        batch = self.collate([{k: v for k, v in row.items() if k not in names} for row in examples])
        shape = batch["input_ids"].shape
        for name in names:
            rows = [list(row[name]) for row in examples]
            if shape[0] != len(rows):
                rows = [[mark for row in rows for mark in row]]
            batch[name] = torch.tensor([row + [0.0] * (shape[1] - len(row)) for row in rows], dtype=torch.float32)
        return batch
