"""Wrong answers on purpose: a stress condition for comparisons."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from infosteer.core.config import setting
from infosteer.core.data import DataContext, DataMethod, Row
from infosteer.errors import DataError


@dataclasses.dataclass(kw_only=True)
class NoisyLabels(DataMethod):
    """Gives ``round(s share n)`` of n rows, drawn at random, a completion of another row that differs from their own.

    Symbols: s strength, at most 1 / share.

    Raises:
        DataError: rows without a completion, or completions that are all equal.
    """

    share: float = setting(0.2, "share of the rows whose completion is replaced", low=0, high=1)

    @property
    def idle(self) -> bool:
        return self.share == 0

    def transform(self, rows: Sequence[Row], context: DataContext) -> list[Row]:
        bare = next((number for number, row in enumerate(rows, start=1) if "completion" not in row), None)
        if bare is not None:
            raise DataError(
                "Label noise exchanges completions, and a row has none.",
                where=f"row {bare}",
                got=", ".join(map(repr, rows[bare - 1])),
                expected="prompt and completion",
                fix="put the methods that add rows of text behind noisy_labels",
            )
        completions = [row["completion"] for row in rows]
        if all(completion == completions[0] for completion in completions):
            raise DataError("All completions are equal: there is no wrong one to give.", where="noisy_labels")
        draw = random.Random(f"noisy labels/{context.seed}")
        changed = [dict(row) for row in rows]
        count = min(round(self.share * context.strength * len(rows)), len(rows))
        for index in draw.sample(range(len(rows)), count):
            wrong = completions[index]
            while wrong == completions[index]:
                wrong = draw.choice(completions)
            changed[index]["completion"] = wrong
        return changed
