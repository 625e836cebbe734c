"""How a sequence of (input, output) pairs is written: turns, their names, and which of their texts carry loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from infosteer.errors import DataError

DESCRIPTION, INPUT, OUTPUT = "description", "input", "output"
LOSSES = ("outputs", "all", "first", "last")
_CHAT = {DESCRIPTION: "system", INPUT: "user", OUTPUT: "assistant"}
NO_INPUT = "Generate."  # what a user says in the chat's roles where there is no input


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """Delimiters of turns: ``open NAME shut CONTENT end gap``.

    Attributes:
        tokens: those of the delimiters that are special tokens.
    """

    open: str
    shut: str
    end: str
    gap: str
    tokens: tuple[str, ...] = ()

    def header(self, name: str) -> str:
        """What stands before a content."""
        return f"{self.open}{name if self.tokens else name.capitalize()}{self.shut}"


FORMATS = {
    "chatml": Turns(
        open="<|im_start|>", shut="\n", end="<|im_end|>", gap="\n", tokens=("<|im_start|>", "<|im_end|>")
    ),
    "llama3": Turns(
        open="<|start_header_id|>", shut="<|end_header_id|>\n\n", end="<|eot_id|>", gap="",
        tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "gemma": Turns(
        open="<start_of_turn>", shut="\n", end="<end_of_turn>", gap="\n", tokens=("<start_of_turn>", "<end_of_turn>")
    ),
    "colon": Turns(open="", shut=":", end="\n", gap=""),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One example of a task; an empty input stands for none."""

    input: str
    output: str


def sequence(
    description: str, pairs: Sequence[Pair], *, format: str = "chatml", roles: str = "own", loss: str = "outputs"
) -> list[dict[str, Any]]:
    """Segments of ``[description] [input 1][output 1] [input 2][output 2] ...``, as training encodes them.

    Learnt are the contents of outputs and the delimiter that ends each; headers and the gap behind it are not. Without
    a description nothing says what the first output should be, so learning begins with the second.

    Args:
        description: empty for none.
        format: one of ``FORMATS``.
        roles: ``own`` names the turns description, input and output; ``chat`` system, user and assistant.
        loss: outputs; all tokens; the first output alone (of those that may be learnt); the last one alone.

    Raises:
        DataError: a text with a delimiter in it.
    """
    turns, names = FORMATS[format], _CHAT if roles == "chat" else {}
    first = 0 if description else 1
    learnt = {"first": {first}, "last": {len(pairs) - 1}}.get(loss, set(range(first, len(pairs))))
    segments: list[dict[str, Any]] = []
    gap = ""  # behind the turn before

    def turn(role: str, content: str, learns: bool) -> None:
        nonlocal gap
        _check(content, turns)
        content = content if turns.tokens or content[:1].isspace() else f" {content}"
        frame = {"text": gap + turns.header(names.get(role, role)), "loss": loss == "all"}
        segments.extend([frame, {"text": content, "loss": learns, "role": role}, {"text": turns.end, "loss": learns}])
        gap = turns.gap

    if description:
        turn(DESCRIPTION, description, loss == "all")
    for number, pair in enumerate(pairs):
        if pair.input or roles == "chat":
            turn(INPUT, pair.input or NO_INPUT, loss == "all")
        turn(OUTPUT, pair.output, loss == "all" or (number in learnt and number >= first))
    return segments


def prompt_text(
    description: str, shots: Sequence[Pair], input: str, *, format: str = "chatml", roles: str = "own"
) -> str:
    """What a model reads before it writes an output: description, demonstrations, input, and the header of an output.

    Raises:
        DataError: a text with a delimiter in it.
    """
    segments = sequence(description, [*shots, Pair(input=input, output="")], format=format, roles=roles)
    return "".join(segment["text"] for segment in segments[:-2])  # neither a content nor its end


def _check(content: str, turns: Turns) -> None:
    headers = tuple(f"\n{turns.header(role)}" for role in (DESCRIPTION, INPUT, OUTPUT))
    found = next((mark for mark in turns.tokens or headers if mark in f"\n{content}"), None)
    if found is not None:
        raise DataError(
            "A text holds a mark that parts turns, so it would say what is learnt.",
            where="data/spectrum",
            got=f"{found!r} in {content[:80]!r}",
            expected="text without it",
            fix="take it out, or choose another format",
        )
