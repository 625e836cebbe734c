"""Lists of markers as text: written, read, taken off an answer, edited, hidden while an answer streams."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

OPEN, CLOSE = "<MARKER_LIST>", "</MARKER_LIST>"
_LIST = re.compile(rf"\s*{OPEN}(?P<body>.*?){CLOSE}(?P<answer>.*)", re.DOTALL)
_MARKER = re.compile(r"<(?P<category>\w+)> (?P<value>[^<>\n\r]+) </(?P=category)>")
_TAG = re.compile(r"<(?=/?MARKER_LIST>)")


def write_list(markers: Mapping[str, str]) -> str:
    """``<MARKER_LIST> <domain> Code </domain> <task> CodeFix </task> </MARKER_LIST>``."""
    return " ".join([OPEN, *(f"<{category}> {value} </{category}>" for category, value in markers.items()), CLOSE])


def read_list(text: str) -> tuple[dict[str, str] | None, str]:
    """The markers at the head of what a model wrote, and the answer behind them, byte for byte.

    Without a list that closes: None, and the text as it is. Only one list is taken off; of a category that stands
    twice in it, the first value holds.
    """
    match = _LIST.match(text)
    if match is None:
        return None, text
    found: dict[str, str] = {}
    for marker in _MARKER.finditer(match["body"]):
        found.setdefault(marker["category"], marker["value"])
    return found, match["answer"]


def edited_list(text: str, changes: Mapping[str, str | None]) -> str:
    """The list that a model began its answer with, some values changed; None takes a marker out.

    What a model is made to go on from: its own plan, edited. A text without a list gives a list of the changes.
    """
    merged = {**(read_list(text)[0] or {}), **changes}
    return write_list({category: value for category, value in merged.items() if value is not None})


def escaped(text: str) -> str:
    """A text in which no list can begin or end: the bracket of such a tag becomes ``&lt;``."""
    return _TAG.sub("&lt;", text)


def add_list(prompt: Any, markers: Mapping[str, str], *, escape: bool = True) -> Any:
    """The prompt with markers at its end: at that of the text, or of the last message by the user.

    Behind a text's list stands a line break: without one a list of the prompt could not be told from the answer's own.

    Args:
        prompt: text, or a list of messages, which is not changed.
        escape: whether tags in the prompt's own words are made harmless.
    """
    own = escaped if escape else str
    if isinstance(prompt, str):
        return _with_list(own(prompt), markers) + ("\n" if markers else "")
    turns = [{**turn, "content": own(turn["content"])} for turn in prompt]
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=len(turns) - 1)
    turns[last]["content"] = _with_list(turns[last]["content"], markers)
    return turns


def _with_list(text: str, markers: Mapping[str, str]) -> str:
    if not markers:
        return text
    return text + (" " if text and not text[-1].isspace() else "") + write_list(markers)


class HiddenList:
    """Shows an answer while it streams, and not the list that it begins with.

    ``shown = hidden.feed(piece)`` for every piece, then ``shown = hidden.end()``; put together they are what
    ``read_list`` gives as the answer.

    Attributes:
        markers: of the list, once it is closed.
    """

    def __init__(self, limit: int = 200) -> None:
        """
        Args:
            limit: pieces to wait for the end of the list; then all that was held back is shown as it is.
        """
        self.markers: dict[str, str] | None = None
        self._held, self._pieces, self._limit, self._open = "", 0, limit, False

    def feed(self, piece: str) -> str:
        """What can be shown now."""
        if self._open:
            return piece
        self._held, self._pieces = self._held + piece, self._pieces + 1
        begun = self._held.lstrip()
        may_be = begun.startswith(OPEN) or OPEN.startswith(begun)
        if may_be and CLOSE not in self._held and self._pieces < self._limit:
            return ""
        return self.end()

    def end(self) -> str:
        """What was held back and is an answer after all."""
        if self._open:
            return ""
        self._open = True
        self.markers, answer = read_list(self._held)
        return answer
