"""Which tokens of a row are template, instruction and completion, and when a loss on the instruction is advisable."""

from __future__ import annotations

from collections.abc import Sequence

from infosteer.core.marks import TokenRow

TEMPLATE, INSTRUCTION, COMPLETION = 0.0, 1.0, 2.0
LONG_RATIO = 1.0  # instruction tokens for each output token
FEW_ROWS = 10_000


def token_kinds(row: TokenRow) -> list[float]:
    """(T,) the kind of every token.

    From the completion's first token on everything is completion, end token included. Before it, a token that shares a
    character with a part of the row is instruction; the others are the chat template's.
    """
    kinds = []
    for number, (start, end) in enumerate(row.spans):
        inside = any(start < stop and end > begin for _, begin, stop in row.parts)
        kinds.append(COMPLETION if number >= row.completion else INSTRUCTION if inside else TEMPLATE)
    return kinds


def constant_ends(prompts: Sequence[Sequence[int]]) -> tuple[int, int]:
    """How many tokens all prompts begin with alike, and how many of the others they end with alike; 0 for one row."""
    if len(prompts) < 2:
        return 0, 0
    shortest = min(map(len, prompts))
    first = prompts[0]
    head = next((i for i in range(shortest) if any(p[i] != first[i] for p in prompts)), shortest)
    rest = shortest - head
    tail = next((i for i in range(rest) if any(p[-1 - i] != first[-1 - i] for p in prompts)), rest)
    return head, tail


def advice(instruction: int, completion: int, rows: int) -> str | None:
    """Why a loss on instructions may not help with so many tokens of each kind; None where it is recommended.

    The paper found it to help with long instructions and short outputs, or with few rows. The thresholds are ours.
    """
    ratio = instruction / max(completion, 1)
    if ratio >= LONG_RATIO or rows <= FEW_ROWS:
        return None
    return f"{ratio:.2f} instruction tokens for each output token, and {rows} rows"
