"""What evaluation asks of an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from infosteer.evaluation.decode import Decoded
from infosteer.evaluation.loglik import OptionScores
from infosteer.evaluation.predictions import Array

Counted = Callable[[int], None]  # told how many prompts, rows or texts were just finished


class Engine(Protocol):
    """A model that answers prompts.

    Attributes:
        name: as ``--engine`` and results name it.
        tokenizer: the model's.
        context_length: longest sequence in tokens, or None.
        likelihoods: whether ``score_options`` and ``score_texts`` work; if not, they raise ConfigError.
    """

    name: str
    tokenizer: Any
    context_length: int | None
    likelihoods: bool

    def describe(self) -> dict[str, Any]:
        """What may change its numbers: number type, device, versions; plain data."""

    def decode(
        self,
        prompts: Sequence[Any],
        *,
        max_new_tokens: int,
        stops: Sequence[Sequence[str]],
        batch_size: int,
        progress: Counted | None = None,
    ) -> list[Decoded]:
        """Greedy continuations of texts or chats, in their order; see ``infosteer.evaluation.decode.decode``."""

    def score_options(
        self,
        prompts: Sequence[Any],
        options: Sequence[Sequence[str]],
        *,
        leads: Sequence[str],
        batch_size: int,
        progress: Counted | None = None,
    ) -> list[OptionScores]:
        """Log-likelihoods of each row's options; see ``infosteer.evaluation.loglik.score_options``."""

    def score_texts(
        self, texts: Sequence[str], *, batch_size: int, progress: Counted | None = None
    ) -> tuple[Array, Array, Array]:
        """Nats, tokens and bytes of whole documents; see ``infosteer.evaluation.loglik.score_texts``."""
