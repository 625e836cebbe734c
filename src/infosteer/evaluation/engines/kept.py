"""An engine that remembers: every answer is kept under the model, the prompt and the settings that determine it.

Prompts are done in chunks of their own order, whatever is kept already decides only which of them are computed. So a
run that was killed and goes on computes the same batches as one that was not, and gives the same bits.
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

CHUNK_BATCHES = 4  # batches in a chunk: enough to sort prompts by length, few enough to lose


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
        keys = [
            self._key("decode", self._text(prompt), list(stop), max_new_tokens, batch_size)
            for prompt, stop in zip(prompts, stops, strict=True)
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

        return [Decoded(**value) for value in self._values(keys, batch_size, progress, run)]

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
        keys = [
            self._key("options", self._text(prompt), lead, list(choices), batch_size)
            for prompt, lead, choices in zip(prompts, leads, options, strict=True)
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

        return [_scores(value) for value in self._values(keys, batch_size, progress, run)]

    def score_texts(
        self, texts: Sequence[str], *, batch_size: int, progress: Counted | None = None
    ) -> tuple[Array, Array, Array]:
        """As the engine's, computed only where it is not known."""
        keys = [self._key("text", text, batch_size) for text in texts]

        def run(chosen: list[int], counted: Counted | None) -> list[Any]:
            found = self.engine.score_texts([texts[i] for i in chosen], batch_size=batch_size, progress=counted)
            return [list(values) for values in zip(*(array.tolist() for array in found), strict=True)]

        values = np.array(list(self._values(keys, batch_size, progress, run)), dtype=np.float64).reshape(-1, 3)
        return values[:, 0], values[:, 1], values[:, 2]

    def _key(self, *parts: Any) -> str:
        return key_of(self._identity, *parts)

    def _text(self, prompt: Any) -> list[Any]:
        return [isinstance(prompt, str), prompt_text(self.tokenizer, prompt)]

    def _values(
        self,
        keys: Sequence[str],
        batch_size: int,
        progress: Counted | None,
        run: Callable[[list[int], Counted | None], list[Any]],
    ) -> Iterator[Any]:
        size = CHUNK_BATCHES * batch_size
        for start in range(0, len(keys), size):
            chunk = range(start, min(start + size, len(keys)))
            first: dict[str, int] = {}  # each unknown prompt once, however often it occurs
            for i in chunk:
                if keys[i] not in self.store:
                    first.setdefault(keys[i], i)
            missing = list(first.values())
            if progress is not None and len(missing) < len(chunk):
                progress(len(chunk) - len(missing))
            if missing:
                found = run(missing, progress)
                self.store.keep({keys[i]: value for i, value in zip(missing, found, strict=True)})
        return (self.store[key] for key in keys)


def _plain(scores: OptionScores) -> dict[str, Any]:
    values = {field.name: getattr(scores, field.name) for field in dataclasses.fields(scores)}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def _scores(value: Mapping[str, Any]) -> OptionScores:
    arrays: dict[str, Any] = {name: np.array(v) if isinstance(v, list) else v for name, v in value.items()}
    return OptionScores(**arrays)
