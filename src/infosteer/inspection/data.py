"""What looking inside a run found, as plain data: ``RUN/inspection/{tokens,regions,memories,geometry}.json``.

Whoever measures writes these files (:func:`write`), whoever shows them reads them (:func:`read`); nothing here needs
torch. Each file is one JSON object, the dataclass of the same name with a ``schema`` number, and is checked strictly:
a missing, unknown or wrongly shaped key is an error that names file and key.

``model`` is the name of an arm, or ``base`` for the model before training; ``seed`` the arm's seed (null for the base).
Entropies are in nats.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from infosteer.errors import RunError
from infosteer.inspection.decode import Bad, build, plain

SCHEMA = 1
FOLDER = "inspection"
_TOLERANCE = 1e-3  # of stored means, which people may round


def _same(count: int, expected: int, key: str, per: str) -> None:
    if count != expected:
        raise Bad(key, f"{count} values", f"{expected}, one per {per}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenReading:
    """One text as one model reads it: T tokens, L measured layers.

    ``flux[t]`` is the token's information flux, the mean of ``layers[t]`` (nats), the entropies of its key coefficients
    in the layers ``layer_numbers`` whose FFN widths are ``widths``. ``surprisal[t]`` (nats) is the token's own negative
    log-likelihood under the model, null for the first.
    """

    model: str
    seed: int | None = None
    hook: bool = False  # whether the arm's intervention was active while reading
    layer_numbers: tuple[int, ...]
    widths: tuple[int, ...]
    tokens: tuple[str, ...]
    flux: tuple[float, ...]
    layers: tuple[tuple[float, ...], ...]
    surprisal: tuple[float | None, ...] | None = None

    def check(self) -> None:
        """Raises: Bad for shapes that disagree and for entropies outside 0 .. ln M."""
        _same(len(self.widths), len(self.layer_numbers), "widths", "layer")
        if not self.layer_numbers:
            raise Bad("layer_numbers", "none", "at least one layer")
        if min(self.widths) < 2:
            raise Bad("widths", min(self.widths), "FFN widths of 2 or more")
        _same(len(self.flux), len(self.tokens), "flux", "token")
        _same(len(self.layers), len(self.tokens), "layers", "token")
        if self.surprisal is not None:
            _same(len(self.surprisal), len(self.tokens), "surprisal", "token")
        tops = [math.log(width) + _TOLERANCE for width in self.widths]
        for t, row in enumerate(self.layers):
            _same(len(row), len(tops), f"layers[{t}]", "layer")
            for j, (value, top) in enumerate(zip(row, tops, strict=True)):
                if not -_TOLERANCE <= value <= top:
                    raise Bad(f"layers[{t}][{j}]", value, f"an entropy from 0 to ln {self.widths[j]}")
            if abs(self.flux[t] - sum(row) / len(row)) > _TOLERANCE:
                raise Bad(f"flux[{t}]", self.flux[t], f"the mean over layers, {sum(row) / len(row):.4f}")

    def normalised(self) -> list[float]:
        """Per token the mean over layers of H / ln M, from 0 to 1."""
        tops = [math.log(width) for width in self.widths]
        return [sum(value / top for value, top in zip(row, tops, strict=True)) / len(tops) for row in self.layers]


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A text and its readings by the models of the run."""

    name: str
    readings: tuple[TokenReading, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """``tokens.json``: information flux of every token of some texts, by model."""

    FILE: ClassVar[str] = "tokens.json"
    texts: tuple[Text, ...]
    note: str = ""  # how it was measured, for people


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionReading:
    """Where the key coefficients of one model lie: per measured layer the share of them in each region."""

    model: str
    seed: int | None = None
    hook: bool = False
    layer_numbers: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]  # (L, regions), each row adds up to 1

    def means(self) -> list[float]:
        """The share of each region, averaged over layers."""
        return [sum(column) / len(self.shares) for column in zip(*self.shares, strict=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Regions:
    """``regions.json``: key-region shift. The regions lie between percentiles of the base model's coefficients, fixed
    per layer, so the base's own shares are their sizes, and any other model's tell where its coefficients moved."""

    FILE: ClassVar[str] = "regions.json"
    percentiles: tuple[float, ...]  # the inner edges, e.g. 25, 75
    readings: tuple[RegionReading, ...]
    note: str = ""

    def check(self) -> None:
        """Raises: Bad for edges that do not rise and for shares that are no shares."""
        if list(self.percentiles) != sorted(set(self.percentiles)) or not self.percentiles:
            raise Bad("percentiles", list(self.percentiles), "rising numbers, such as 25, 75")
        if self.percentiles[0] <= 0 or self.percentiles[-1] >= 100:
            raise Bad("percentiles", list(self.percentiles), "numbers between 0 and 100")
        for i, reading in enumerate(self.readings):
            here = f"readings[{i}]"
            _same(len(reading.shares), len(reading.layer_numbers), f"{here}.shares", "layer")
            if not reading.shares:
                raise Bad(f"{here}.shares", "none", "at least one layer")
            for j, row in enumerate(reading.shares):
                _same(len(row), len(self.percentiles) + 1, f"{here}.shares[{j}]", "region")
                if min(row) < 0 or abs(sum(row) - 1) > _TOLERANCE:
                    raise Bad(f"{here}.shares[{j}]", list(row), "shares that add up to 1")

    def labels(self) -> list[str]:
        """The regions in words, such as ``25-75 %``."""
        edges = [0.0, *self.percentiles, 100.0]
        return [f"{low:g}-{high:g} %" for low, high in itertools.pairwise(edges)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """One memory vector: what it writes. ``words`` are the most likely tokens of its surrogate, with probabilities."""

    index: int
    specificity: float
    words: tuple[tuple[str, float], ...]
    concept: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryLayer:
    """Memories of one layer of one model; any part of the layer's ``width``, e.g. the most specific ones."""

    model: str
    seed: int | None = None
    layer: int
    width: int
    memories: tuple[Memory, ...]

    def check(self) -> None:
        """Raises: Bad for indices outside the layer or given twice, and for numbers that are no probabilities."""
        seen: set[int] = set()
        for i, memory in enumerate(self.memories):
            here = f"memories[{i}]"
            if not 0 <= memory.index < self.width or memory.index in seen:
                raise Bad(f"{here}.index", memory.index, f"another number from 0 to {self.width - 1} for each memory")
            seen.add(memory.index)
            if not all(-_TOLERANCE <= p <= 1 + _TOLERANCE for _, p in memory.words):
                raise Bad(f"{here}.words", [p for _, p in memory.words], "probabilities")


@dataclass(frozen=True, kw_only=True, slots=True)
class Memories:
    """``memories.json``: what memory vectors say in vocabulary space, by model and layer."""

    FILE: ClassVar[str] = "memories.json"
    layers: tuple[MemoryLayer, ...]
    final_norm: bool  # whether the model's final norm was applied before the head
    specificity: str = "1 - H / ln V"  # what the number says, for people
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeometryPoint:
    """One measure of one model at one optimiser step (0: before training; the base is a line)."""

    model: str
    seed: int | None = None
    metric: str
    step: int
    value: float
    layer: int | None = None  # null: the last hidden state


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """``geometry.json``: representation geometry over training. ``about`` says what each metric is, for people."""

    FILE: ClassVar[str] = "geometry.json"
    points: tuple[GeometryPoint, ...]
    about: dict[str, str] = dataclasses.field(default_factory=dict)
    note: str = ""

    def check(self) -> None:
        """Raises: Bad for negative steps."""
        for i, point in enumerate(self.points):
            if point.step < 0:
                raise Bad(f"points[{i}].step", point.step, "0 or more")


Kind = TypeVar("Kind", Tokens, Regions, Memories, Geometry)
KINDS: tuple[type[Any], ...] = (Tokens, Regions, Memories, Geometry)


def read(run: Path, kind: type[Kind]) -> Kind | None:
    """One inspection file of a run, or None where the run has none.

    Raises: RunError for a file that is unreadable, no JSON, of another schema, or of a wrong shape; it names the key.
    """
    path = run / FOLDER / kind.FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
            raise Bad("schema", "another or none", SCHEMA)
        return build(kind, content, "")
    except FileNotFoundError:
        return None
    except Bad as bad:
        raise RunError(
            "An inspection file is damaged.",
            where=f"{path}: {bad.key or 'the whole file'}",
            got=bad.got,
            expected=bad.expected,
            fix="write it again, or delete it: the report then goes without",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            "An inspection file cannot be read.",
            where=path,
            got=error,
            fix="write it again, or delete it: the report then goes without",
        ) from None


def write(run: Path, value: Tokens | Regions | Memories | Geometry) -> Path:
    """Check and write one inspection file of a run, whole or not at all.

    Raises: RunError for values that :func:`read` would refuse, and when the folder cannot be written.
    """
    path = run / FOLDER / value.FILE
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        content = plain(value)
        build(type(value), content, "")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"schema": SCHEMA, **content}, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except Bad as bad:
        raise RunError(
            "This is no valid inspection data.", where=f"{path}: {bad.key}", got=bad.got, expected=bad.expected
        ) from None
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunError("The run's folder cannot be written.", where=path, got=error) from None
    return path


def models(value: Tokens | Regions | Memories | Geometry) -> Iterator[tuple[str, int | None]]:
    """(model, seed) of everything that a file holds, in its order, with repeats."""
    parts: list[Any] = []
    if isinstance(value, Tokens):
        parts = [reading for text in value.texts for reading in text.readings]
    elif isinstance(value, Regions):
        parts = list(value.readings)
    else:
        parts = list(value.layers if isinstance(value, Memories) else value.points)
    yield from ((part.model, part.seed) for part in parts)
