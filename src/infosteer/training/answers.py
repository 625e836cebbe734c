"""Reading an answer out of text: numbers and option words.

Pure text functions that both sides need: the reader of training rows checks with them that a worked solution ends in
the answer it claims, and the evaluation scores predictions with them. Nothing here evaluates text as code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

# A sign counts only where no word, digit or bracket stands before it, so that "10-5" ends in 5 and not in -5.
_NUMBER = re.compile(r"(?<![\w).])[-\u2212](?=\.?\d)|\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d{1,3}(?!\w))?|\.\d+")
_CUE = re.compile(r"\banswer\s*(?:is|:|=)", re.IGNORECASE)


def numbers_in(text: str) -> list[float]:
    """All finite numbers of ``text`` in order; commas group thousands, ``$1,234.50.`` reads 1234.5."""
    found: list[float] = []
    sign = 1.0
    for match in _NUMBER.finditer(text):
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


def find_option(text: str, options: Sequence[str]) -> str | None:
    """The option that ``text`` names, or None when it names none, or several without saying which.

    Options are matched as whole words, ignoring case; single letters only where they stand as a label (``(B)``,
    ``B)``, ``answer is B``, or alone), because "A" is also an article. When more than one is named, the first one after
    the last "answer is" decides: a text that merely lists its options is not scored by the first one on the list.
    """
    stripped = text.strip()
    letters = all(len(option) == 1 for option in options)
    by_name = {option if letters else option.casefold(): option for option in options}
    # Longest first, so that an option that begins like another one ("true" in "true north") does not shadow it.
    names = "|".join(re.escape(option) for option in sorted(options, key=len, reverse=True))
    if letters:
        bare = stripped.rstrip(".").strip("() ")
        if bare in by_name:
            return by_name[bare]
        label = re.compile(
            rf"\(\s*({names})\s*\)|(?<!\w)({names})\s?\)|{_CUE.pattern}\s*\(?({names})(?!\w)", re.IGNORECASE
        )
        named = [(m.end(), next(g for g in m.groups() if g)) for m in label.finditer(stripped)]
        named = [(end, name) for end, name in named if name in by_name]
    else:
        word = re.compile(rf"(?<!\w)(?:{names})(?!\w)", re.IGNORECASE)
        named = [(m.end(), m.group().casefold()) for m in word.finditer(stripped)]
        named = [(end, name) for end, name in named if name in by_name]
    if len({name for _, name in named}) == 1:
        return by_name[named[0][1]]
    cues = [cue.end() for cue in _CUE.finditer(stripped)]
    if named and cues:
        after = [name for end, name in named if end > cues[-1]]
        if after:
            return by_name[after[0]]
    return None
