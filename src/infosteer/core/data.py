"""The surface ``data``: training rows to training rows; ``core.surfaces`` has the others."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from infosteer.core.contract import Method
from infosteer.errors import ConfigError

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DataContext:
    """What a data method may know: the run's seed, its own strength, and how to read rows of another source.

    Attributes:
        read: ``read(source, limit=None, **options)`` gives training rows of a file, a hub id or a lab key.
    """

    seed: int
    strength: float
    read: Callable[..., list[Row]]

    def added_for_each(self, share: float, where: str) -> float:
        """How much is added for each training row, ``s / (1 - s)``, so that a share s of the whole is what was added.

        Args:
            share: at strength 1; s is it times the strength.
            where: the setting's name.

        Raises: ConfigError for s of 1 or more.
        """
        s = share * self.strength
        if s >= 1:
            raise ConfigError(
                "what is added would be the whole, with no room for the training rows",
                where=where,
                got=s,
                expected="share times strength below 1",
            )
        return s / (1 - s)


@dataclasses.dataclass(kw_only=True)
class DataMethod(Method):
    """Surface ``data``: examples to examples; the rows that a training sees.

    What is known of a row beyond its text is the mapping in its column ``about``, if it has one. A method that puts
    several answers into one sequence gives rows of ``segments`` (:mod:`infosteer.training.segments`).
    """

    asks: ClassVar[bool] = False  # whether ``ask`` and ``answer`` do anything
    reads_segments: ClassVar[bool] = False  # whether it also takes rows of segments, and may stand behind such a method
    ordered: ClassVar[bool] = False  # whether its rows are to be trained on in their order, not shuffled

    @property
    def new_tokens(self) -> tuple[str, ...]:
        """Special tokens that its rows hold and the tokenizer is to have."""
        return ()

    @property
    def end_tokens(self) -> tuple[str, ...]:
        """Tokens that end an answer, beside the tokenizer's own, of a model trained on its rows."""
        return ()

    @property
    def silent_tokens(self) -> tuple[str, ...]:
        """Tokens of its rows that a model trained on them is not to write."""
        return ()

    @property
    def token_source(self) -> str | None:
        """A model with the same tokens, whose embeddings of ``new_tokens`` the training begins from."""
        return None

    @abc.abstractmethod
    def transform(self, rows: Sequence[Row], context: DataContext) -> list[Row]:
        """The rows to train on; the given ones are never changed in place. The same seed gives the same rows."""

    def ask(self, prompt: Any) -> Any:
        """A prompt, text or messages, as a model is asked that was trained on these rows."""
        return prompt

    def answer(self, text: str) -> str:
        """What such a model wrote, without what the rows taught it to put around its answer."""
        return text

    @property
    def answer_room(self) -> int:
        """How many tokens ``answer`` may take away."""
        return 0
