"""An engine that remembers: every answer is kept under the model, the prompt and the settings that determine it.

What is not known yet is computed a batch at a time, the longest texts first, and each batch is kept once it is done. A
run that was killed finds a beginning of this order done, so it goes on with the very batches that were left, and gives
the same bits as one that was not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from infosteer.evaluation.decode import Decoded
from infosteer.evaluation.engines.contract import Counted, Engine
from infosteer.evaluation.engines.store import Store, key_of
from infosteer.evaluation.loglik import OptionScores
from infosteer.evaluation.model_state import prompt_text
from infosteer.evaluation.predictions import Array


class KeptEngine:
    """Another engine, with what it once answered.

    Args:
        engine: what computes.
        store: what is kept, of any models.
        identity: what the answers depend on beside prompts and settings: fingerprint of the model, versions.
    """

    def __init__(self, engine: Engine, store: Store, identity: Mapping[str, Any]) -> None:
        self.engine, self.store = engine, store
        self.name, self.tokenizer = engine.name, engine.tokenizer
        self.context_length, self.likelihoods = engine.context_length, engine.likelihoods
        self._identity = {**identity, **engine.describe()}

    def describe(self) -> dict[str, Any]:
        """What the engine says of itself."""
        return self.engine.describe()

    def decode(
        self,
        prompts: Sequence[Any],
        *,
        max_new_tokens: int,
        stops: Sequence[Sequence[str]],
        batch_size: int,
        progress: Counted | None = None,
    ) -> list[Decoded]:
        """As the engine's, computed only where it is not known."""
        texts = [self._text(prompt) for prompt in prompts]
        keys = [
            self._key("decode", text, list(stop), max_new_tokens, batch_size)
            for text, stop in zip(texts, stops, strict=True)
        ]

        def run(chosen: list[int], counted: Counted | None) -> list[Any]:
            found = self.engine.decode(
                [prompts[i] for i in chosen],
                max_new_tokens=max_new_tokens,
                stops=[stops[i] for i in chosen],
                batch_size=batch_size,
                progress=counted,
            )
            return [dataclasses.asdict(one) for one in found]

        sizes = [len(text) for _, text in texts]
        return [Decoded(**value) for value in self._values(keys, sizes, batch_size, progress, run)]

    def score_options(
        self,
        prompts: Sequence[Any],
        options: Sequence[Sequence[str]],
        *,
        leads: Sequence[str],
        batch_size: int,
        progress: Counted | None = None,
    ) -> list[OptionScores]:
        """As the engine's, computed only where it is not known."""
        texts = [self._text(prompt) for prompt in prompts]
        keys = [
            self._key("options", text, lead, list(choices), batch_size)
            for text, lead, choices in zip(texts, leads, options, strict=True)
        ]

        def run(chosen: list[int], counted: Counted | None) -> list[Any]:
            found = self.engine.score_options(
                [prompts[i] for i in chosen],
                [options[i] for i in chosen],
                leads=[leads[i] for i in chosen],
                batch_size=batch_size,
                progress=counted,
            )
            return [_plain(one) for one in found]

        sizes = [len(text) for _, text in texts]
        return [_scores(value) for value in self._values(keys, sizes, batch_size, progress, run)]

    def score_texts(
        self, texts: Sequence[str], *, batch_size: int, progress: Counted | None = None
    ) -> tuple[Array, Array, Array]:
        """As the engine's, computed only where it is not known."""
        keys = [self._key("text", text, batch_size) for text in texts]

        def run(chosen: list[int], counted: Counted | None) -> list[Any]:
            found = self.engine.score_texts([texts[i] for i in chosen], batch_size=batch_size, progress=counted)
            return [list(values) for values in zip(*(array.tolist() for array in found), strict=True)]

        sizes = [len(text) for text in texts]
        values = np.array(list(self._values(keys, sizes, batch_size, progress, run)), dtype=np.float64).reshape(-1, 3)
        return values[:, 0], values[:, 1], values[:, 2]

    def _key(self, *parts: Any) -> str:
        return key_of(self._identity, *parts)

    def _text(self, prompt: Any) -> tuple[bool, str]:
        return isinstance(prompt, str), prompt_text(self.tokenizer, prompt)

    def _values(
        self,
        keys: Sequence[str],
        sizes: Sequence[int],
        batch_size: int,
        progress: Counted | None,
        run: Callable[[list[int], Counted | None], list[Any]],
    ) -> Iterator[Any]:
        first: dict[str, int] = {}  # each unknown text once, however often it occurs
        for i, key in enumerate(keys):
            if key not in self.store:
                first.setdefault(key, i)
        missing = sorted(first.values(), key=lambda i: (-sizes[i], i))
        if progress is not None and len(missing) < len(keys):
            progress(len(keys) - len(missing))
        for start in range(0, len(missing), batch_size):
            chosen = missing[start : start + batch_size]
            found = run(chosen, progress)
            self.store.keep({keys[i]: value for i, value in zip(chosen, found, strict=True)})
        return (self.store[key] for key in keys)


def _plain(scores: OptionScores) -> dict[str, Any]:
    values = {field.name: getattr(scores, field.name) for field in dataclasses.fields(scores)}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def _scores(value: Mapping[str, Any]) -> OptionScores:
    arrays: dict[str, Any] = {name: np.array(v) if isinstance(v, list) else v for name, v in value.items()}
    return OptionScores(**arrays)
