"""Where examples stand in a prompt as a probe: the same questions asked with the same examples at four places."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

from infosteer.core.asking import AskingProbe, Prompt, Read, Subject
from infosteer.core.config import setting
from infosteer.core.demo_slots import (
    BETWEEN,
    SLOTS,
    ZERO_SHOT,
    check_system_role,
    in_words,
    place,
)
from infosteer.errors import ConfigError, DataError

FRAMES = ("chat", "words")
DIFFERS = ("answer", "text", "score")
NUMBERS = ("demos", "seed")


def slot_scores(
    correct: Mapping[str, Sequence[float]], predictions: Mapping[str, Sequence[str]], reference: str = "sum"
) -> dict[str, list[float]]:
    """What the places do to n questions, one number for each of them; the means are the metrics.

    Formula: ``accuracy_s = c_s``, ``accuracy_change_s = c_s - c_zero``, ``improved_s = [c_s > c_zero]``, ``worsened_s =
    [c_s < c_zero]``, ``prediction_change_s = [p_s != p_reference]``, ``flips_a_b = [p_a != p_b]`` for all pairs;
    ``spread``: largest minus smallest mean accuracy of the four places, ``mean``: their mean, one number each.

    Args:
        correct: slot -> c (n,), right or wrong or a score such as ROUGE; ``zero_shot`` among the slots.
        predictions: slot -> p (n,).
        reference: the slot that predictions are compared with.

    Source: arXiv 2507.22887 (accuracy-change, prediction-change).
    """
    found: dict[str, list[float]] = {}
    zero, slots = correct[ZERO_SHOT], [slot for slot in correct if slot != ZERO_SHOT]
    for slot, right in correct.items():
        found[f"accuracy_{slot}"] = [float(c) for c in right]
        if slot != reference:
            found[f"prediction_change_{slot}"] = _flips(predictions[slot], predictions[reference])
    for slot in slots:
        pairs = list(zip(correct[slot], zero, strict=True))
        found[f"accuracy_change_{slot}"] = [float(c) - float(z) for c, z in pairs]
        found[f"improved_{slot}"] = [float(c > z) for c, z in pairs]
        found[f"worsened_{slot}"] = [float(c < z) for c, z in pairs]
    names = list(correct)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            found[f"flips_{first}_{second}"] = _flips(predictions[first], predictions[second])
    means = [sum(correct[slot]) / len(correct[slot]) for slot in slots]
    return found | {"spread": [max(means) - min(means)], "mean": [sum(means) / len(means)]}


@dataclasses.dataclass(kw_only=True)
class DemoPosition(AskingProbe):
    """Asks every question with the same examples at four places of the prompt, and without examples.

    Formula: :func:`slot_scores` of greedy answers.

    Symbols: ssp and esp: start and end of the system prompt; sum and eum: start and end of the user's message.

    Raises:
        ConfigError: a chat template without a place for a system message; questions that are longer chats; a measure
            that the set's scoring lacks.
        DataError: fewer rows than examples and one question; a prompt that leaves no room for an answer.

    Source: arXiv 2507.22887.
    """

    demos: int = setting(5, "how many examples, the same ones in the same order for all questions", low=1)
    seed: int = setting(0, "chooses the examples", low=0)
    reference: str = setting(
        "sum", "the slot that predictions are compared with", choices=(*SLOTS, ZERO_SHOT)
    )  # fmt: skip
    instruction: str = dataclasses.field(
        default="Answer the question.", metadata={"help": "what the system prompt says besides; a row's own goes first"}
    )
    closing: str = dataclasses.field(default="", metadata={"help": "ends the user's message in every slot"})
    frame: str = setting("chat", "chat: the tokenizer's chat template; words: roles spelled out", choices=FRAMES)
    measure: str = dataclasses.field(
        default="",
        metadata={"help": "of a set's scoring, such as rougeL, in place of right or wrong; see scoring: rouge"},
    )
    differs: str = setting(
        "answer", "two predictions differ in the answer read, in the whole text, or in their score", choices=DIFFERS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in NUMBERS:
            if type(getattr(self, name)) is not int:
                raise ConfigError("expected a whole number", where=f"{self.label()}.{name}", got=getattr(self, name))
        for name in ("instruction", "closing", "measure"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError("expected text", where=f"{self.label()}.{name}", got=getattr(self, name))

    def ask(self, subject: Subject) -> dict[str, list[float]]:
        if self.frame == "chat":
            check_system_role(subject.tokenizer)
        examples, asked = self._examples(subject)
        correct: dict[str, list[float]] = {}
        predictions: dict[str, list[str]] = {}
        unread: dict[str, list[float]] = {}
        for slot in (*SLOTS, ZERO_SHOT):
            answers = subject.answer([self.prompt(subject.rows[n], slot, examples) for n in asked], asked)
            correct[slot], predictions[slot], unread[f"no_answer_{slot}"] = [], [], []
            for number, answer in zip(asked, answers, strict=True):
                if answer is None:
                    raise DataError(
                        "A prompt with its examples leaves no room for an answer, and nothing is cut.",
                        where="probes/demo_position",
                        got=f"question {number + 1}, slot {slot}",
                        fix="lower demos, or choose shorter rows",
                    )
                read = subject.read(number, answer)
                told = answer.strip() if self.differs == "text" or read.extracted is None else read.extracted
                correct[slot].append(self._score(read))
                predictions[slot].append(str(correct[slot][-1]) if self.differs == "score" else told)
                unread[f"no_answer_{slot}"].append(float(read.extracted is None))
        return slot_scores(correct, predictions, self.reference) | unread

    def _score(self, read: Read) -> float:
        if not self.measure:
            return float(read.correct)
        if self.measure not in read.measures:
            raise ConfigError(
                "the set's scoring has no such measure",
                where="probes/demo_position.measure",
                got=self.measure,
                expected=", ".join(read.measures) or "a set with scoring: rouge or process",
            )
        return read.measures[self.measure]

    def prompt(self, row: Mapping[str, Any], slot: str, examples: str) -> Prompt:
        """The prompt of a question with a block of examples at one place."""
        own, question = _parts(row["prompt"])
        instruction = BETWEEN.join(filter(None, (own, self.instruction)))
        messages = place(slot, instruction, examples, question, self.closing)
        return messages if self.frame == "chat" else in_words(messages)

    def _examples(self, subject: Subject) -> tuple[str, list[int]]:
        """The block of examples, and the numbers of the questions: all rows, without those shown."""
        draw, numbers = random.Random(self.seed), list(range(len(subject.rows)))
        pool = subject.shown or subject.rows
        spare = 0 if subject.shown else 1
        if not numbers or len(pool) < self.demos + spare:
            raise DataError(
                "There are too few rows for the examples and a question.",
                where="probes/demo_position",
                got=f"{len(pool)} rows for {self.demos} examples, {len(numbers)} questions",
                fix="lower demos, or give more rows",
            )
        chosen = draw.sample(range(len(pool)), self.demos)
        texts = [_parts(pool[n]["prompt"])[1] + pool[n]["lead"] + pool[n]["answer"] for n in chosen]
        asked = numbers if subject.shown else [n for n in numbers if n not in set(chosen)]
        return BETWEEN.join(texts), asked


def _parts(prompt: Any) -> tuple[str, str]:
    """A row's own instruction, and its question."""
    if isinstance(prompt, str):
        return "", prompt
    roles = [message["role"] for message in prompt]
    if roles not in (["user"], ["system", "user"]):
        raise ConfigError(
            "Only questions of one turn can be asked with examples at four places.",
            where="probes/demo_position",
            got=" ".join(roles),
            expected="a user's message, with or without a system message before it",
        )
    return (prompt[0]["content"] if len(prompt) == 2 else ""), prompt[-1]["content"]


def _flips(first: Sequence[str], second: Sequence[str]) -> list[float]:
    return [float(a != b) for a, b in zip(first, second, strict=True)]
