"""Training rows with worked examples in their prompts, whose place is drawn for each row."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

from infosteer.core.config import setting
from infosteer.core.data import DataContext, DataMethod, Row
from infosteer.core.demo_slots import BETWEEN, SLOTS, ZERO_SHOT, in_words, place
from infosteer.errors import ConfigError, DataError

FRAMES = ("chat", "words")


@dataclasses.dataclass(kw_only=True)
class DemoSlots(DataMethod):
    """Puts examples, which are other rows of the same task, into each prompt, at a place drawn from ``slots``.

    Strength s from 0 to 1 is the share of the rows that get examples; the others stay as they are.

    Symbols: ssp and esp: start and end of the system prompt; sum and eum: start and end of the user's message.

    Raises:
        ConfigError: a setting out of its range, or a strength above 1.
        DataError: rows that are no questions of one turn, or a task with fewer rows than examples and one question.

    Source: arXiv 2507.22887, which suggests it.
    """

    demos: int = setting(5, "how many examples stand in a prompt, drawn anew for each row", low=1)
    slots: Sequence[str] = dataclasses.field(
        default=SLOTS, metadata={"help": f"places to draw from: {', '.join((*SLOTS, ZERO_SHOT))}"}
    )
    instruction: str = dataclasses.field(
        default="Answer the question.", metadata={"help": "what the system prompt says besides; a row's own goes first"}
    )
    closing: str = dataclasses.field(default="", metadata={"help": "ends the user's message in every slot"})
    frame: str = setting("chat", "chat: rows of messages; words: text with the roles spelled out", choices=FRAMES)

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.demos) is not int:
            raise ConfigError("expected a whole number", where="demo_slots.demos", got=self.demos)
        for name in ("instruction", "closing"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError("expected text", where=f"demo_slots.{name}", got=getattr(self, name))
        listed = isinstance(self.slots, Sequence) and not isinstance(self.slots, str)
        if not listed or not self.slots or any(slot not in (*SLOTS, ZERO_SHOT) for slot in self.slots):
            raise ConfigError(
                "these are no places for examples",
                where="demo_slots.slots",
                got=self.slots,
                expected=f"a list of {', '.join((*SLOTS, ZERO_SHOT))}",
            )
        self.slots = list(self.slots)

    def transform(self, rows: Sequence[Row], context: DataContext) -> list[Row]:
        if context.strength > 1:
            raise ConfigError("at strength 1 every row has examples", where="demo_slots.strength", got=context.strength)
        draw = random.Random(f"demo slots/{context.seed}")
        chosen = set(draw.sample(range(len(rows)), round(context.strength * len(rows))))
        tasks: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            tasks.setdefault(str((row.get("about") or {}).get("task", "")), []).append(number)
        made = [dict(row) for row in rows]
        parts = [_parts(row, number) for number, row in enumerate(rows, start=1)]
        for task, numbers in tasks.items():
            if len(numbers) <= self.demos and chosen & set(numbers):
                raise DataError(
                    "There are too few rows for the examples and a question.",
                    where="data/demo_slots",
                    got=f"{len(numbers)} rows{f' of the task {task}' if task else ''} for {self.demos} examples",
                    fix="lower demos, or give more rows",
                )
            for number in numbers:
                if number not in chosen:
                    continue
                others = [other for other in draw.sample(numbers, self.demos + 1) if other != number][: self.demos]
                shown = BETWEEN.join(f"{parts[other][1]}{parts[other][2]}" for other in others)
                made[number] |= self._row(*parts[number], shown, draw.choice(self.slots))
        return made

    def _row(self, own: str, question: str, answer: str, shown: str, slot: str) -> dict[str, Any]:
        messages = place(slot, BETWEEN.join(filter(None, (own, self.instruction))), shown, question, self.closing)
        if self.frame == "words":
            return {"prompt": in_words(messages), "completion": answer}
        return {"prompt": messages, "completion": [{"role": "assistant", "content": answer.strip()}]}


def _parts(row: Row, number: int) -> tuple[str, str, str]:
    """A row's own instruction, its question, and its answer with what parts it from the question."""
    prompt, answer = row.get("prompt"), row.get("completion")
    own = ""
    if isinstance(prompt, list) and [one["role"] for one in prompt] in (["user"], ["system", "user"]):
        own, prompt = (prompt[0]["content"] if len(prompt) == 2 else ""), prompt[-1]["content"]
    if isinstance(answer, list) and [one["role"] for one in answer] == ["assistant"]:
        answer = answer[0]["content"]
    if not isinstance(prompt, str) or not isinstance(answer, str):
        raise DataError(
            "Only questions of one turn can have examples before them.",
            where=f"data/demo_slots, row {number}",
            got=f"a row with {', '.join(row)}",
            expected="prompt and completion, as texts or as one message each",
        )
    return own, prompt, answer if answer[:1].isspace() else f" {answer}"
