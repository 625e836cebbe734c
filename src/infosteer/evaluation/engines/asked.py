"""An engine whose prompts and answers go through the data methods that its model was trained with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from infosteer.core.contract import Method
from infosteer.core.data import DataMethod
from infosteer.evaluation.decode import Decoded
from infosteer.evaluation.engines.contract import Counted, Engine
from infosteer.evaluation.loglik import OptionScores
from infosteer.evaluation.predictions import Array


def asked_through(engine: Engine, methods: Sequence[Method]) -> Engine:
    """The engine itself where no method has a way of asking, else one that asks so."""
    asking = [method for method in methods if isinstance(method, DataMethod) and method.asks and not method.off]
    return AskedEngine(engine, asking) if asking else engine


class AskedEngine:
    """Prompts go through ``ask`` in recipe order, answers back through ``answer`` in the opposite one.

    Texts that end an answer count in the answer alone, so decoding runs on past them. Options are scored right after
    the prompt that was asked; documents stay as they are.
    """

    def __init__(self, engine: Engine, methods: Sequence[DataMethod]) -> None:
        self.engine, self.methods = engine, list(methods)
        self.name, self.tokenizer = engine.name, engine.tokenizer
        self.context_length, self.likelihoods = engine.context_length, engine.likelihoods

    def describe(self) -> dict[str, Any]:
        """As the engine, and through what it is asked."""
        return {**self.engine.describe(), "asked_through": [method.label() for method in self.methods]}

    def decode(
        self,
        prompts: Sequence[Any],
        *,
        max_new_tokens: int,
        stops: Sequence[Sequence[str]],
        batch_size: int,
        progress: Counted | None = None,
    ) -> list[Decoded]:
        """As the engine's, with room for what the methods take away."""
        decoded = self.engine.decode(
            [self._asked(prompt) for prompt in prompts],
            max_new_tokens=max_new_tokens + sum(method.answer_room for method in self.methods),
            stops=[()] * len(prompts),
            batch_size=batch_size,
            progress=progress,
        )
        return [self._answered(one, own) for one, own in zip(decoded, stops, strict=True)]

    def score_options(
        self,
        prompts: Sequence[Any],
        options: Sequence[Sequence[str]],
        *,
        leads: Sequence[str],
        batch_size: int,
        progress: Counted | None = None,
    ) -> list[OptionScores]:
        """As the engine's, after the prompts that are asked."""
        asked = [self._asked(prompt) for prompt in prompts]
        return self.engine.score_options(asked, options, leads=leads, batch_size=batch_size, progress=progress)

    def score_texts(
        self, texts: Sequence[str], *, batch_size: int, progress: Counted | None = None
    ) -> tuple[Array, Array, Array]:
        """As the engine's."""
        return self.engine.score_texts(texts, batch_size=batch_size, progress=progress)

    def _asked(self, prompt: Any) -> Any:
        for method in self.methods:
            prompt = method.ask(prompt)
        return prompt

    def _answered(self, one: Decoded, stops: Sequence[str]) -> Decoded:
        text = one.text
        for method in reversed(self.methods):
            text = method.answer(text)
        cuts = [at for stop in stops if (at := text.find(stop)) >= 0]
        finished = one.finished or bool(cuts)
        return dataclasses.replace(one, text=text[: min(cuts)] if cuts else text, finished=finished)
