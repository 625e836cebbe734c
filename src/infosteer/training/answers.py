"""Reading an answer out of text: numbers and option words.

Pure text functions that both sides need: the reader of training rows checks with them that a worked solution ends in
the answer it claims, and the evaluation scores predictions with them. Nothing here evaluates text as code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

# A sign counts only where no word, digit or bracket stands before it, so that "10-5" ends in 5 and not in -5.
NUMBER = re.compile(r"(?<![\w).])[-\u2212](?=\.?\d)|\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d{1,3}(?!\w))?|\.\d+")
CUE = re.compile(r"\banswer\s*(?:is|:|=)", re.IGNORECASE)


def numbers_in(text: str) -> list[float]:
    """All finite numbers of ``text`` in order; commas group thousands, ``$1,234.50.`` reads 1234.5."""
    found: list[float] = []
    sign = 1.0
    for match in NUMBER.finditer(text):
        token = match.group()
        if token in "-\u2212":
            sign = -1.0
            continue
        value = sign * float(token.replace(",", ""))
        sign = 1.0
        if math.isfinite(value):
            found.append(value)
    return found


def last_number(text: str) -> float | None:
    """The last finite number of ``text``, or None."""
    found = numbers_in(text)
    return found[-1] if found else None


def same_number(left: float, right: float) -> bool:
    """Whether two numbers agree to 1e-3 absolute (answers are rounded to at most that) or 1e-6 relative."""
    return abs(left - right) <= max(1e-3, 1e-6 * max(abs(left), abs(right)))


def show_number(value: float) -> str:
    """A number as people write it: 576 for 576.0, 0.5, no exponents for whole numbers."""
    return str(int(value)) if value == int(value) else f"{value:.10g}"


def named_options(text: str, options: Sequence[str]) -> list[tuple[int, int, str]]:
    """Every place of ``text`` that names an option: (start, end, option), in order.

    Options are matched as whole words, ignoring case; single letters only where they stand as a label (``(B)``,
    ``B)``, ``answer is B``, or alone), because "A" is also an article.
    """
    letters = all(len(option) == 1 for option in options)
    by_name = {option if letters else option.casefold(): option for option in options}
    # Longest first, so that an option that begins like another one ("true" in "true north") does not shadow it.
    names = "|".join(re.escape(option) for option in sorted(options, key=len, reverse=True))
    if not letters:
        words = re.finditer(rf"(?<!\w)(?:{names})(?!\w)", text, re.IGNORECASE)
        found = [(m.start(), m.end(), m.group().casefold()) for m in words]
        return [(start, end, by_name[name]) for start, end, name in found if name in by_name]
    bare = text.strip().rstrip(".").strip("() ")
    if bare in by_name:
        start = text.index(bare)
        return [(start, start + 1, by_name[bare])]
    label = re.compile(rf"\(\s*({names})\s*\)|(?<!\w)({names})\s?\)|{CUE.pattern}\s*\(?({names})(?!\w)", re.IGNORECASE)
    labels = [(m.start(), m.end(), next(g for g in m.groups() if g)) for m in label.finditer(text)]
    return [(start, end, name) for start, end, name in labels if name in by_name]


def find_option(text: str, options: Sequence[str]) -> str | None:
    """The option that ``text`` names (see ``named_options``), or None when it names none, or several undecidedly.

    When more than one is named, the first one after the last "answer is" decides: a text that merely lists its options
    is not taken to name the first one on the list.
    """
    named = named_options(text, options)
    if len({name for *_, name in named}) == 1:
        return named[0][2]
    cues = [cue.end() for cue in CUE.finditer(text)]
    if named and cues:
        after = [name for _, end, name in named if end > cues[-1]]
        if after:
            return after[0]
    return None
