"""What the trainings of recipes will cost, from their rows and the shapes of their models. See ``experiments.cost``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infosteer.errors import ConfigError, DataError
from infosteer.experiments.cost import CARDS, GIB, Asked, Work, memory, offloaded, parameters, seconds
from infosteer.experiments.inputs import training_rows
from infosteer.experiments.judge import load_sets
from infosteer.experiments.parts import Parts, parts_of
from infosteer.experiments.recipe import Recipe, prepared, read_raw, recipe_from
from infosteer.experiments.schema import to_plain
from infosteer.experiments.sections import DataSettings
from infosteer.experiments.stand_in import shape_at_hand, tokenizer_of
from infosteer.training.encode import IGNORED, encode_row
from infosteer.training.settings import TrainSettings

SAMPLE = 256  # rows whose tokens are counted, evenly spread over a source
LONGEST_ANSWER = 256  # tokens, where the recipe names no limit


@dataclass(kw_only=True, slots=True)
class Estimate:
    """The expected cost of all trainings of one model.

    Attributes:
        trainings: how many.
        tokens: trained on in all, padding included.
        peak: bytes on the card; ``weight_bytes`` of each weight.
        hours: of training and of evaluation by card, where it fits.
        offload: bytes on the card and in main memory with ZeRO-2 and an offloaded optimiser.
        halved: bytes on the card with bfloat16 weights.
        unknown: parts whose rows are not here, not counted.
    """

    model: str
    parameters: int
    trainings: int = 0
    tokens: float = 0.0
    peak: float = 0.0
    weight_bytes: int = 4
    hours: dict[str, tuple[float, float]]
    offload: tuple[float, float] = (0.0, 0.0)
    halved: float = 0.0
    unknown: list[str]
    stand_in: bool = False


class _Counter:
    """Counts rows and tokens, each source once."""

    def __init__(self) -> None:
        self._rows: dict[str, Any] = {}
        self._lengths: dict[str, tuple[list[int], float, int]] = {}

    def work(self, recipe: Recipe, arm: str, tokenizer: Any, name: str) -> Work:
        train, data = recipe.train_for(arm), recipe.data_for(arm)
        if train.peft is not None:
            raise ConfigError("The cost of adapters is not modelled.", where=f"arms.{arm}", got=train.peft.method)
        lengths, labelled, count = self._trained_on(data, train, tokenizer, name)
        batch = train.per_device_train_batch_size
        epochs = train.num_train_epochs
        forwards = count * epochs / batch
        if train.max_steps > 0:
            forwards = train.max_steps * train.gradient_accumulation_steps
        return Work(
            weight_bytes=2 if train.dtype == "bfloat16" else 4,
            batch=batch,
            accumulation=train.gradient_accumulation_steps,
            checkpointing=train.gradient_checkpointing,
            forwards=max(1, round(forwards)),
            tokens=mean_longest(lengths, batch),
            longest=max(lengths),
            labelled=labelled,
        )

    def asked(self, recipe: Recipe, tokenizer: Any, *, trained: bool) -> tuple[Asked, ...]:
        key = json.dumps(to_plain(recipe.evaluate), sort_keys=True)
        if key not in self._rows:
            self._rows[key] = load_sets(recipe)
        found = []
        for name, one in self._rows[key].items():
            settings = recipe.evaluate[name]
            sample = spread([row for row in one.rows if "text" not in row])
            if not sample:
                continue
            limit = settings.max_new_tokens or LONGEST_ANSWER
            answers = [1 + _count(tokenizer, row["lead"] + row["answer"]) for row in sample]
            short = trained and one.scoring != "number" and one.scoring != "process"
            options = [sum(_count(tokenizer, o) for o in row["options"] or [row["answer"]]) for row in sample]
            found.append(
                Asked(
                    rows=len(one.rows),
                    prompt=sum(_count(tokenizer, row["prompt"]) for row in sample) / len(sample),
                    options=sum(options) / len(sample),
                    decoded=min(limit, max(answers)) if short else limit,
                    batch=settings.batch_size,
                )
            )
        return tuple(found)

    def _trained_on(
        self, data: DataSettings, train: TrainSettings, tokenizer: Any, name: str
    ) -> tuple[list[int], float, int]:
        """Lengths of some rows, the mean number of tokens with loss, and how many rows there are."""
        where = json.dumps(to_plain(data), sort_keys=True)
        key = f"{name} {train.max_length} {train.completion_only_loss} {where}"
        if key not in self._lengths:
            if where not in self._rows:
                self._rows[where] = training_rows(data, 1).rows
            rows = self._rows[where]
            cut = [{k: v[: train.max_length] for k, v in encode_row(row, tokenizer).items()} for row in spread(rows)]
            kept = [row for row in cut if any(label != IGNORED for label in row["labels"][1:])] or cut
            labelled = sum(sum(label != IGNORED for label in row["labels"]) for row in kept) / len(kept)
            lengths = [len(row["input_ids"]) for row in kept]
            self._lengths[key] = lengths, labelled, round(len(rows) * len(kept) / len(cut))
        return self._lengths[key]


def estimate(recipes: Iterable[tuple[str, Recipe]]) -> list[Estimate]:
    """The expected cost of recipes (with a name each), one entry for each model.

    A recipe whose rows are not here is named in ``unknown``.

    Raises: ConfigError or ArchitectureError for models that are not within reach or whose cost is not modelled.
    """
    counter = _Counter()
    found: dict[str, Estimate] = {}
    for name, recipe in recipes:
        shape, (tokenizer, stand_in) = shape_at_hand(recipe.model), tokenizer_of(recipe.model)
        one = found.setdefault(
            recipe.model,
            Estimate(model=recipe.model, parameters=parameters(shape), hours={}, unknown=[], stand_in=stand_in),
        )
        tokens_by = "embedded" if stand_in else recipe.model
        try:
            works = [counter.work(recipe, arm, tokenizer, tokens_by) for arm in recipe.arms]
            asked = counter.asked(recipe, tokenizer, trained=True)
            before = counter.asked(recipe, tokenizer, trained=False) if recipe.evaluate_base else ()
        except DataError:
            one.unknown.append(name)
            continue
        seeds = len(recipe.seeds)
        for work in works:
            work = replace(work, evaluation=asked)
            one.trainings += seeds
            one.tokens += seeds * work.forwards * work.batch * work.tokens
            one.peak = max(one.peak, sum(memory(shape, work).values()))
            one.weight_bytes = work.weight_bytes
            one.halved = max(one.halved, sum(memory(shape, replace(work, weight_bytes=2)).values()))
            one.offload = max(one.offload, offloaded(shape, work))
            for card in CARDS:
                training, evaluation = seconds(shape, work, card)
                past = one.hours.get(card.name, (0.0, 0.0))
                one.hours[card.name] = past[0] + seeds * training / 3600, past[1] + seeds * evaluation / 3600
        if before:
            idle = replace(works[0], forwards=0, evaluation=before)
            for card in CARDS:
                training, evaluation = one.hours[card.name]
                one.hours[card.name] = training, evaluation + seconds(shape, idle, card)[1] / 3600
    for one in found.values():
        one.hours = {card.name: one.hours[card.name] for card in CARDS if 0 < one.peak <= card.memory}
    return list(found.values())


def estimate_recipe(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> list[Estimate]:
    """The expected cost of a recipe, in parts or not, before anything is trained."""
    data, source, folder = read_raw(recipe)
    if "parts" in data:
        return estimate_parts(parts_of(data, source, folder, overrides))
    one = recipe_from(prepared(data, overrides), source, folder)
    return estimate([(one.name, one)])


def estimate_parts(parts: Parts) -> list[Estimate]:
    """The expected cost of the chosen parts."""
    return estimate((part.name, part.recipe) for part in parts.chosen)


def in_words(estimates: Sequence[Estimate]) -> list[str]:
    """Lines for people: one a model, and what they stand on."""
    lines = []
    for one in estimates:
        if one.trainings:
            hours = ", ".join(f"{card} {sum(both):.{0 if sum(both) >= 10 else 1}f}" for card, both in one.hours.items())
            text = (
                f"{one.model}: {one.trainings} trainings on {one.tokens / 1e6:.0f} million tokens; "
                f"{one.peak / GIB:.0f} GiB at the peak; "
                + (f"hours on one card: {hours}" if hours else "fits none of the cards that are known here")
            )
            lines.append(text + (f"; {advice(one)}" if len(one.hours) < len(CARDS) else ""))
        if one.unknown:
            lines.append(f"{one.model}: not counted, since their rows are not here: {', '.join(one.unknown)}")
    if any(one.stand_in for one in estimates):
        lines.append("tokens are counted by the embedded base's tokenizer, finer than the models' own: an upper bound")
    lines.append("estimated, not measured: right within a factor of two or three (docs/reproduce.md)")
    return lines


def advice(one: Estimate) -> str:
    """What makes a model fit on smaller cards."""
    card, main = (size / GIB for size in one.offload)
    script = f"ZeRO-2 with the optimiser offloaded, in a script: {card:.0f} GiB and {main:.0f} GiB of main memory"
    if one.weight_bytes == 2:
        return script
    return f"train.dtype=bfloat16: {one.halved / GIB:.0f} GiB, coarser updates; {script}"


def mean_longest(lengths: Sequence[int], batch: int) -> float:
    """The expected length of the longest of ``batch`` rows drawn from these lengths: what a batch is padded to."""
    n = len(lengths)
    ranks = enumerate(sorted(lengths), start=1)
    return sum(length * ((rank / n) ** batch - ((rank - 1) / n) ** batch) for rank, length in ranks)


def spread(rows: Sequence[Any], count: int = SAMPLE) -> list[Any]:
    """At most ``count`` of the rows, evenly over all of them."""
    if len(rows) <= count:
        return list(rows)
    return [rows[int(index * len(rows) / count)] for index in range(count)]


def _count(tokenizer: Any, text: Any) -> int:
    if isinstance(text, list):
        text = "\n".join(str(turn["content"]) for turn in text)
    return len(tokenizer(str(text))["input_ids"])
