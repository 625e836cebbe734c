"""Marks: what a method wants to know about each token and cannot see in a forward, such as its row's reward.

A :class:`MarkingMethod` (losses and interventions may be one) is shown every training row when it is encoded, as a
:class:`TokenRow`, and answers with one number for each of its tokens. They travel as further columns, ``marks_<name>``,
through batching into the model call, where the session takes them out again, and come back as ``Tokens.marks``, or as
``Context.marks``.

Shape letters: B batch, T time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "marks_"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TokenRow:
    """One training row as text and as tokens.

    Attributes:
        row: the row as the data methods left it.
        text: what the model reads.
        ids: (T,) its tokens.
        spans: (T,) the characters [start, end) of ``text`` that each token stands for; empty for tokens without any.
        parts: (name, start, end), the characters of ``text`` that come from the row itself, in their order: ``prompt``
            and ``completion``, ``text``, or one for each message, named by its role. What lies between them comes from
            the chat template.
        completion: the first token of the completion (0 for plain text, all of which is learnt).
    """

    row: Mapping[str, Any]
    text: str
    ids: Sequence[int]
    spans: Sequence[tuple[int, int]]
    parts: Sequence[tuple[str, int, int]]
    completion: int


class MarkingMethod:
    """What methods have in common that may be shown rows when they are encoded."""

    marks_tokens: ClassVar[bool] = False  # whether methods of the class have something to say about tokens

    @property
    def marking(self) -> bool:
        """Whether this one, with its settings, has."""
        return self.marks_tokens

    def marks(self, rows: Sequence[TokenRow]) -> list[list[float]]:
        """One number for every token of every training row, padding being 0; asked for once, where ``marking``.

        Raises:
            DataError: rows in which the method finds nothing to act on.
        """
        return [[0.0] * len(row.ids) for row in rows]


def column(name: str) -> str:
    """The column that holds the marks of a method of this name."""
    return PREFIX + name


def split_marks(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The arguments of a model call without marks, and the marks (B, T) by the method's name."""
    rest = {key: value for key, value in kwargs.items() if not key.startswith(PREFIX)}
    marks = {key.removeprefix(PREFIX): value for key, value in kwargs.items() if key.startswith(PREFIX)}
    return rest, marks
