"""Probes that ask: they need prompts, answers and the model itself, not what passes a site in a training step.

Such a probe is shown one evaluation set after another, when a model is evaluated: those of every arm that names it, or
the sets whose ``probes`` name it, before and after every training. A training step it leaves alone.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from infosteer.core.surfaces import Observer, ProbeMethod
from infosteer.errors import ConfigError
from infosteer.models import Site

Prompt = str | Sequence[Mapping[str, str]]  # a text, or chat messages


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """What was read from an answer (None: nothing), whether it is right, and further scores of the set's rule."""

    extracted: str | None
    correct: bool
    measures: Mapping[str, float] = dataclasses.field(default_factory=dict)


def _nobody(model: str, texts: Sequence[str], options: Sequence[str]) -> list[int]:
    raise ConfigError("There is no other model to ask here.", where="consult", got=model)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model, and the questions that it is to be asked.

    Attributes:
        model: in evaluation mode, gradients off.
        tokenizer: of the model.
        rows: the questions: ``prompt`` (text, or messages), ``lead`` and ``answer``.
        shown: rows of the same kind that may be shown as examples, none of them a question; may be empty.
        limit: tokens that an answer may take.
        encode: ``encode(prompts)`` gives their token ids as they are decoded from.
        answer: ``answer(prompts, numbers)`` gives greedy answers, cut where those of the rows with these numbers end;
            None for a prompt that leaves no room in the model's context.
        read: ``read(number, text)`` judges a text as the answer to a row, by the rule of the set.
        consult: ``consult(model, texts, options)`` asks another model, named as in a recipe: which option (its number)
            it finds likeliest behind each text, which is a user's message where it has a chat template.
    """

    model: nn.Module
    tokenizer: Any
    rows: Sequence[Mapping[str, Any]]
    shown: Sequence[Mapping[str, Any]]
    limit: int
    encode: Callable[[Sequence[Prompt]], list[list[int]]]
    answer: Callable[[Sequence[Prompt], Sequence[int]], list[str | None]]
    read: Callable[[int, str], Read]
    consult: Callable[[str, Sequence[str], Sequence[str]], list[int]] = _nobody


@dataclasses.dataclass(kw_only=True)
class AskingProbe(ProbeMethod):
    """A probe of surface ``probes`` that asks the model instead of watching it."""

    layers: str | Sequence[int] = dataclasses.field(default="all", init=False)
    every: int = dataclasses.field(default=10, init=False)
    scope: str = dataclasses.field(default="train", init=False)

    @abc.abstractmethod
    def ask(self, subject: Subject) -> dict[str, list[float]]:
        """Scores of the examples by metric, whose means are logged as ``<set>/<probe>_<metric>``; one score for what is
        said of the set as a whole.

        Raises:
            ConfigError: a model, tokenizer or set that cannot be asked so.
            DataError: too few rows, or prompts that do not fit the model's context.
        """

    def observer(self, sites: Sequence[Site]) -> Observer:
        """None: it is asked for only by those who watch texts.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "This probe asks questions and does not watch texts.", where=self.label(), fix="name it in an arm's methods"
        )
