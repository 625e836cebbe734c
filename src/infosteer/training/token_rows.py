"""Training rows as text and tokens side by side, for methods that mark tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from infosteer.core.contract import Method
from infosteer.core.marks import MarkingMethod, TokenRow, column
from infosteer.errors import ConfigError

Part = tuple[str, int, int]
Messages = Sequence[Mapping[str, str]]
_STAND_IN = "partinfosteer{}trap"  # letters and digits alone: no template changes them


def marking_methods(methods: Sequence[Method]) -> dict[str, MarkingMethod]:
    """The methods that mark tokens, by the column of their marks.

    Raises:
        ConfigError: two of one name.
    """
    found: dict[str, MarkingMethod] = {}
    for method in methods:
        if isinstance(method, MarkingMethod) and method.marking and not method.off:
            if column(method.label()) in found:
                raise ConfigError(
                    "two methods that mark tokens have one name, so their marks cannot be told apart",
                    where="methods",
                    got=method.label(),
                )
            found[column(method.label())] = method
    return found


def token_row(
    row: Mapping[str, Any], text: str, parts: Sequence[Part], ids: Sequence[int], completion: int, tokenizer: Any
) -> TokenRow:
    """A row with the characters of its tokens.

    Args:
        text: what was tokenised.
        parts: (name, start, end) of what stands in the row, see :class:`TokenRow`.
        ids: (T,) the tokens that training uses, which must be those of ``text``.
        completion: the first token of the completion.

    Raises:
        ConfigError: a tokenizer without offsets, or whose tokens of the text are not those.
    """
    if not tokenizer.is_fast:
        raise ConfigError(
            "A method marks tokens by the characters they stand for, which this tokenizer does not tell.",
            where="model",
            got=type(tokenizer).__name__,
            expected="a fast tokenizer",
        )
    chat = isinstance(row.get("messages", row.get("prompt")), list)  # its template has written the special tokens
    encoded = tokenizer(text, add_special_tokens=not chat, return_offsets_mapping=True)
    if list(encoded["input_ids"]) != list(ids):
        raise ConfigError(
            "The text of the chat template has other tokens than the template gives itself.",
            where="the tokenizer",
            got=f"{len(encoded['input_ids'])} tokens",
            expected=f"{len(ids)} tokens",
        )
    spans = [(int(start), int(end)) for start, end in encoded["offset_mapping"]]
    return TokenRow(row=row, text=text, ids=ids, spans=spans, parts=parts, completion=completion)


def chat_parts(messages: Messages, render: Callable[[Messages], str]) -> tuple[str, list[Part]]:
    """The text of a chat, and where in it each message's content stands.

    The template is rendered a second time with a stand-in for every content; what lies between the stand-ins is the
    template's own text, whatever words a message repeats of it.

    Args:
        render: messages to text, by the chat template.

    Raises:
        ConfigError: a template that drops, repeats or rewrites a message.
    """
    stands = [_STAND_IN.format(number) for number in range(len(messages))]
    frame = render([{**message, "content": stand} for message, stand in zip(messages, stands, strict=True)])
    text, parts, cursor = render(messages), list[Part](), 0
    pieces = re.split("|".join(map(re.escape, reversed(stands))), frame)  # 10 before 1
    for message, before in zip(messages, pieces, strict=False):
        cursor += len(before)
        content = message["content"]
        content = content if text.startswith(content, cursor) else content.strip()  # as many templates do
        parts.append((message["role"], cursor, cursor + len(content)))
        cursor += len(content)
    rebuilt = pieces[0] + "".join(text[a:b] + after for (_, a, b), after in zip(parts, pieces[1:], strict=False))
    if len(pieces) != len(messages) + 1 or rebuilt != text:
        raise ConfigError(
            "The chat template drops, repeats or rewrites a message, so its tokens cannot be told from the template's.",
            where="the tokenizer's chat template",
            got=text[:200],
        )
    return text, parts
