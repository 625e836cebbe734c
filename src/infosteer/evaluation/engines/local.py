"""The engine that everything is tested with: a transformers model in this process, steered or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from infosteer.evaluation.decode import Decoded, decode
from infosteer.evaluation.engines.contract import Counted
from infosteer.evaluation.loglik import OptionScores, score_options, score_texts
from infosteer.evaluation.model_state import context_length, device_of
from infosteer.evaluation.predictions import Array


class TransformersEngine:
    """A loaded model with its tokenizer."""

    name = "transformers"
    likelihoods = True

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.context_length = context_length(model)

    def describe(self) -> dict[str, Any]:
        """Number type and device."""
        dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        return {"engine": self.name, "dtype": dtype, "device": device_of(self.model).type}

    def decode(
        self,
        prompts: Sequence[Any],
        *,
        max_new_tokens: int,
        stops: Sequence[Sequence[str]],
        batch_size: int,
        progress: Counted | None = None,
    ) -> list[Decoded]:
        """As ``infosteer.evaluation.decode.decode``."""
        return decode(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=max_new_tokens,
            stops=stops,
            batch_size=batch_size,
            progress=progress,
        )

    def score_options(
        self,
        prompts: Sequence[Any],
        options: Sequence[Sequence[str]],
        *,
        leads: Sequence[str],
        batch_size: int,
        progress: Counted | None = None,
    ) -> list[OptionScores]:
        """As ``infosteer.evaluation.loglik.score_options``."""
        return score_options(
            self.model, self.tokenizer, prompts, options, leads=leads, batch_size=batch_size, progress=progress
        )

    def score_texts(
        self, texts: Sequence[str], *, batch_size: int, progress: Counted | None = None
    ) -> tuple[Array, Array, Array]:
        """As ``infosteer.evaluation.loglik.score_texts``."""
        return score_texts(self.model, self.tokenizer, texts, batch_size=batch_size, progress=progress)
