"""The intervention of InfoSteer (arXiv 2507.05158, section 4.1); the function is :func:`infosteer.ops.intervene`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from infosteer.core.config import setting
from infosteer.core.contract import Context
from infosteer.core.surfaces import GatedEdit, InterventionMethod, PenaltyMethod
from infosteer.errors import ConfigError
from infosteer.ops.backends import kernels_take
from infosteer.ops.chunks import eager_on_cpu
from infosteer.ops.entropy import key_entropy
from infosteer.ops.gated import gated
from infosteer.ops.intervene import REFERENCES, intervene
from infosteer.ops.select import ORDERS
from infosteer.ops.together import intervene_and_inject

TOKENS = ("all", "answer")


def entropy_between(k: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Rows of k (..., M) whose key entropy divided by ln M is from ``low`` to ``high``: (...) bool.

    The bounds 0 and 1 let every row through, whatever rounding does. A row with NaN is outside any other bound.
    """
    entropy = key_entropy(k.detach()) / math.log(max(2, k.shape[-1]))
    inside = torch.ones_like(entropy, dtype=torch.bool)
    inside = inside if low <= 0 else inside & (entropy >= low)
    return inside if high >= 1 else inside & (entropy <= high)


@dataclasses.dataclass(kw_only=True)
class Intervention(InterventionMethod):
    """Overwrites the m smallest key coefficients of each token by a multiple of the row's mean.

    Formula: ``k'_i = k_i + s (alpha * ref(k) * sign_i - k_i)`` for the m smallest i, ``k'_i = k_i`` for the others;
    m = max(1, round(fraction * M)), or 0 for fraction 0.

    Symbols: k (..., M) key coefficients; ref: mean |k| with each entry keeping its sign (``magnitude_mean``), or the
    signed mean, sign_i = 1 (``mean``); s: strength. Rows that ``tokens``, the entropy bounds or ``uncertain_from``
    leave out stay as they are.

    Raises:
        ConfigError: a setting out of its range, entropy bounds in the wrong order, or ``uncertain_from`` where more
            than training forwards are steered.

    Source: arXiv 2507.05158, section 4.1. ``preset("paper")`` is its formula to the letter; the default orders by
    magnitude, which is what its words ("minor coefficients") say.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"fraction": 0.01, "alpha": 1.0, "order": "signed", "reference": "mean"}
    }
    takes_tensors: ClassVar[bool] = True

    fraction: float = setting(0.01, "share of each row's coefficients that is overwritten (0.01 is 1 %)", low=0, high=1)
    alpha: float = setting(1.0, "multiple of the row's mean that they get")
    order: str = setting("magnitude", "smallest by |k|, or by signed value", choices=ORDERS)
    reference: str = setting("magnitude_mean", "mean |k| with signs kept, or the signed mean", choices=REFERENCES)
    detach_reference: bool = setting(False, "whether no gradient flows through the mean")
    shield: bool = setting(
        False, "lifted coefficients reach the output, but their memory vectors get no gradient from that row"
    )
    tokens: str = setting(
        "all", "lift every token, or only those that carry loss (where there are labels)", choices=TOKENS
    )
    entropy_low: float = setting(0.0, "lift only rows whose key entropy / ln M is at least this", low=0, high=1)
    entropy_high: float = setting(1.0, "lift only rows whose key entropy / ln M is at most this", low=0, high=1)
    uncertain_from: float = setting(
        0.0, "lift only rows whose next token the model before training is at least so uncertain of, in nats", low=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.entropy_low > self.entropy_high:
            raise ConfigError(
                "the entropy bounds leave no row",
                where=f"{self.label()}.entropy_low",
                got=f"{self.entropy_low} to {self.entropy_high}",
                expected="entropy_low <= entropy_high",
            )
        if self.reads_base and self.scope != "train":
            raise ConfigError(
                "only in training are whole sequences at hand to ask the model before training about",
                where=f"{self.label()}.scope",
                got=self.scope,
                expected="train, where uncertain_from is above 0",
            )

    @property
    def idle(self) -> bool:
        return self.fraction == 0

    @property
    def shields(self) -> bool:
        return self.shield

    @property
    def selects(self) -> bool:
        return self.tokens == "answer"

    @property
    def reads_base(self) -> bool:
        return self.uncertain_from > 0

    def edit(self, k: torch.Tensor, context: Context) -> torch.Tensor:
        lifted = intervene(k, **self._settings(context))
        if lifted is k:
            return k
        if self._bounded:
            chosen = entropy_between(k, self.entropy_low, self.entropy_high)
            lifted = torch.where(chosen.unsqueeze(-1), lifted, k)
        if context.counted is not None:
            lifted = torch.where(context.counted.reshape(*k.shape[:-1], 1), lifted, k)
        if context.base_entropy is not None:
            uncertain = context.base_entropy >= self.uncertain_from
            lifted = torch.where(uncertain.reshape(*k.shape[:-1], 1), lifted, k)
        return lifted

    def edit_and_inject(
        self,
        k: torch.Tensor,
        context: Context,
        penalty: PenaltyMethod,
        row_weight: torch.Tensor | None,
        scale: torch.Tensor,
    ) -> torch.Tensor | None:
        normalization = penalty.entropy_normalization
        if normalization is None or self._chooses_rows:
            return None
        if not kernels_take(k) and not eager_on_cpu(k):
            return None
        settings = self._settings(context)
        return intervene_and_inject(k, row_weight, scale, **settings, normalization=normalization)

    @property
    def edit_gated(self) -> GatedEdit | None:
        return None if self._chooses_rows else self._edit_gated

    def _edit_gated(
        self, gate: torch.Tensor, up: torch.Tensor, activation: str, context: Context, normalization: str | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return gated(gate, up, activation, **self._settings(context), normalization=normalization)

    def _settings(self, context: Context) -> dict[str, Any]:
        """How the functions of ``ops`` lift in this context."""
        return {
            "fraction": self.fraction,
            "alpha": self.alpha,
            "order": self.order,
            "reference": self.reference,
            "detach_reference": self.detach_reference,
            "strength": context.strength,
        }

    @property
    def _chooses_rows(self) -> bool:
        """Whether some rows are left out, which no kernel does."""
        return self._bounded or self.selects or self.reads_base

    @property
    def _bounded(self) -> bool:
        """Whether the entropy of a row decides about its edit."""
        return self.entropy_low > 0 or self.entropy_high < 1
