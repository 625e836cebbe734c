"""Training sources as a stream of texts, for comparing them with evaluation rows: nothing is left out that is text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infosteer.errors import ConfigError
from infosteer.training.row_formats import TEMPLATES, BadRow, detect, normalise
from infosteer.training.rows import read_records

Source = str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]]

# What the common templates put around an instruction; without it, rows in other templates are still the same rows.
_FRAMES = [
    tuple(part.partition("{instruction}")[::2]) for name in ("alpaca", "sections") for part in reversed(TEMPLATES[name])
]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainText:
    """One training row as text.

    Attributes:
        place: file and line, or its number.
        wholes: texts that a question is compared with as a whole: the prompt, and the prompt with its completion.
        body: everything, for n-grams.
        answer: the completion, where there is one.
    """

    place: str
    wholes: tuple[str, ...]
    body: str
    answer: str | None = None


def bare(prompt: Any) -> str:
    """A prompt as text without the frame of a known template; of chat messages their contents."""
    if isinstance(prompt, list):
        prompt = "\n".join(str(turn.get("content", "")) for turn in prompt if isinstance(turn, Mapping))
    text = str(prompt)
    for front, rest in _FRAMES:
        middle, _, back = rest.rpartition("{input}")
        if text.startswith(front) and text.endswith(back) and middle in text:
            inside = text[len(front) : len(text) - len(back)]
            return inside.replace(middle, "\n", 1) if middle else inside
    return text


def without_shots(prompts: Sequence[Any], shots: int) -> list[Any]:
    """Prompts without the worked examples that stand before all of them."""
    if not shots or not all(isinstance(prompt, str) for prompt in prompts):
        return list(prompts)
    for front, _ in _FRAMES:
        if all(prompt.startswith(front) for prompt in prompts):
            return [prompt[prompt.rfind(front) :] for prompt in prompts]
    first, last = min(prompts), max(prompts)
    common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    cut = first.rfind("\n\n", 0, common) + 2
    return [prompt[cut:] if cut > 1 else prompt for prompt in prompts]


def train_texts(sources: Iterable[Source], unreadable: list[str]) -> Iterator[TrainText]:
    """All training rows of some sources, one after the other; memory does not grow with them.

    Args:
        sources: each a source as ``data.train`` names it, a mapping with ``source`` and settings of ``read_rows``
            (``split, limit, base_dir`` and those of the source), or rows. Rows that could not be trained on as they
            stand are read all the same, by all text they hold.
        unreadable: gets the places of rows that are no JSON object.

    Raises:
        DataError: a source is missing, or unreadable as a whole.
        ConfigError: a source is none of these.
    """
    for source in sources:
        if isinstance(source, str | Path):
            yield from _of_records(str(source), {}, unreadable)
        elif isinstance(source, Mapping):
            settings = dict(source)
            if not isinstance(settings.get("source"), str | Path):
                raise ConfigError("a training source needs a name", got=repr(source)[:200], expected="source: ...")
            yield from _of_records(str(settings.pop("source")), settings, unreadable)
        else:
            for number, row in enumerate(source, start=1):
                yield _of_row(row, f"training row {number}")


def placed_texts(rows: Iterable[Mapping[str, Any]], places: Sequence[str]) -> Iterator[TrainText]:
    """Training rows that are there already, with file and line of each."""
    for row, place in zip(rows, places, strict=True):
        yield _of_row(row, place)


def _of_records(source: str, settings: dict[str, Any], unreadable: list[str]) -> Iterator[TrainText]:
    known = {key: settings.pop(key, None) for key in ("split", "limit", "base_dir")}
    for record in itertools.islice(read_records(source, purpose="train", options=settings, **known), known["limit"]):
        if record.row is None:
            unreadable.append(record.where)
            continue
        fits = detect(record.row, "train")
        row: Mapping[str, Any] = record.row
        if len(fits) == 1:
            try:
                row = normalise(row, fits[0], "train", "sections")
            except BadRow:  # what cannot be trained on may still give a question away
                row = record.row
        yield _of_row(row, record.where)


def _of_row(row: Mapping[str, Any], place: str) -> TrainText:
    if isinstance(row.get("messages"), list) and row["messages"]:
        row = {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}
    if "prompt" in row and ("completion" in row or "answer" in row):
        prompt, answer = bare(row["prompt"]), bare(row.get("completion", row.get("answer")))
        whole = f"{prompt}\n{answer}"
        return TrainText(place=place, wholes=(prompt, whole), body=whole, answer=answer)
    if isinstance(row.get("text"), str):
        return TrainText(place=place, wholes=(row["text"],), body=row["text"])
    texts = tuple(_strings(row))
    return TrainText(place=place, wholes=tuple(map(bare, texts)), body="\n".join(texts))


def _strings(value: Any) -> Iterator[str]:
    """All text in a value, however deep."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            stack += reversed(list(one.values()))
        elif isinstance(one, list | tuple):
            stack += reversed(one)
