"""What pretraining reads and is measured by, for each half of the lab: tokenizer, rows, report and model card."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from infosteer.lab.card import model_card
from infosteer.lab.corpus import LabRows, encode_stream, general_rows, read_general_text
from infosteer.lab.facts import World, biography_at, make_world
from infosteer.lab.reasoning.card import reasoning_card
from infosteer.lab.reasoning.problems import problem_at
from infosteer.lab.reasoning.report import reasoning_report
from infosteer.lab.reasoning.tokenizer import make_tokenizer
from infosteer.lab.report import base_report
from infosteer.lab.tokenizer import train_tokenizer
from infosteer.training.pretrain_config import FactsConfig, PretrainConfig, ReasoningConfig

IGNORED = -100  # label of a token that carries no loss
POOL = 4  # batches of word problems that are drawn together and sorted by length, to save padding


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Token ids (B, T), the labels of the next tokens (B, T), and how many rows, the first ones, are of the lab."""

    ids: np.ndarray
    labels: np.ndarray
    n_lab: int


class Corpus(Protocol):
    """A half of the lab, as the loop sees it."""

    tokenizer: Any
    vocabulary: int  # rows of the embedding

    def batch(self, step: int) -> Batch:
        """The rows of a step; steps are asked for one after the other."""

    def state(self) -> dict[str, int]:
        """What ``resume`` needs to go on with the next step."""

    def resume(self, step: int, state: Mapping[str, Any]) -> None:
        """Stand where ``state`` was taken, before ``step``."""

    def progress(self) -> dict[str, int]:
        """What was read so far."""

    def measure(self, model: Any) -> dict[str, Any]:
        """The report's own part."""

    def settings(self) -> dict[str, Any]:
        """The settings as the report holds them."""

    def card(self, report: Mapping[str, Any]) -> str:
        """The model card."""


def make_corpus(config: PretrainConfig, checkpoint: Path) -> Corpus:
    """The corpus of a config; a trained tokenizer is taken from the checkpoint if there is one."""
    if isinstance(config, ReasoningConfig):
        return ReasoningCorpus(config)
    assert isinstance(config, FactsConfig)
    return FactsCorpus(config, checkpoint)


class FactsCorpus:
    """Biographies of invented people and general English, in packed rows."""

    def __init__(self, config: FactsConfig, checkpoint: Path) -> None:
        from transformers import AutoTokenizer

        self.config, self.vocabulary = config, config.vocabulary
        self.world = make_world(config.world_seed, config.people)
        text = read_general_text(
            config.general_text,
            config.general_files,
            seed=config.seed,
            megabytes_per_file=config.general_megabytes_per_file,
        )
        self.tokenizer: Any
        if (checkpoint / "tokenizer.json").exists():
            self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        else:
            rounds = config.tokenizer_rounds * config.people
            lab = [biography_at(self.world, index, config.seed) for index in range(rounds)]
            self.tokenizer = train_tokenizer([*text.train, *lab], vocabulary=config.vocabulary)
        self.general = encode_stream(text.train, self.tokenizer)
        self.held_out = encode_stream(text.held_out, self.tokenizer)
        self.told = 0  # biographies in the stages before this one
        self.enter(0)

    def enter(self, stage: int, position: int = 0) -> None:
        """Take biographies from a stage's people; each stage has a text of its own."""
        self.stage = stage
        people = self.config.stages[stage]["people"]
        world = World(people=self.world.people[-people:])
        self.lab = LabRows(world, self.tokenizer, seed=self.config.seed + stage, position=position)

    def batch(self, step: int) -> Batch:
        c = self.config
        if c.stage_at(step) != self.stage:
            self.told += self.lab.position
            self.enter(c.stage_at(step))
        rows, length = c.rows_at(step)
        share = c.stages[self.stage]["lab_share"]
        # The share is kept over steps, not within each: the fraction of a row that is left over is drawn.
        n_lab = rows if len(self.general) <= length else int(rows * share + random.Random(f"{c.seed}/{step}").random())
        parts = [self.lab.take(n_lab, length + 1)] if n_lab else []
        if n_lab < rows:
            parts.append(general_rows(self.general, rows - n_lab, length + 1, seed=c.seed, step=step))
        taken = np.concatenate(parts)
        return Batch(ids=taken[:, :-1], labels=taken[:, 1:], n_lab=n_lab)

    def state(self) -> dict[str, int]:
        return {"told": self.told, "position": self.lab.position}

    def resume(self, step: int, state: Mapping[str, Any]) -> None:
        self.told = state["told"]
        self.enter(self.config.stage_at(step - 1), state["position"])

    def progress(self) -> dict[str, int]:
        return {"biographies": self.told + self.lab.position}

    def measure(self, model: Any) -> dict[str, Any]:
        report = base_report(
            model,
            self.tokenizer,
            self.world,
            train=self.general,
            held_out=self.held_out,
            people=self.config.recall_people,
            length=min(1024, self.config.long_length),
        )
        return {"tokens": self.config.tokens, **report}

    def settings(self) -> dict[str, Any]:
        # Only the folder's name: where it lay is nobody's business.
        folder = None if self.config.general_text is None else Path(self.config.general_text).name
        return asdict(self.config) | {"general_text": folder}

    def card(self, report: Mapping[str, Any]) -> str:
        return model_card(report)


class ReasoningCorpus:
    """Word problems of the pretraining split, one a row; what a step reads follows from its number alone."""

    def __init__(self, config: ReasoningConfig) -> None:
        self.config = config
        self.mixes = [config.common(stage) for stage in config.stages]
        self.rare = config.rare()
        self.tokenizer: Any = make_tokenizer()
        self.vocabulary = len(self.tokenizer)
        self.problems = self.tokens = 0
        self._pool: tuple[tuple[int, int], list[list[tuple[int, list[int]]]]] | None = None

    def batch(self, step: int) -> Batch:
        stage = self.config.stage_at(step)
        first = sum(earlier["steps"] for earlier in self.config.stages[:stage])
        number, part = divmod(step - first, POOL)
        rows = self._batches(stage, number)[part]
        T = max(len(ids) for _, ids in rows) - 1
        found = np.full((len(rows), T), self.tokenizer.pad_token_id, dtype=np.int64)
        labels = np.full((len(rows), T), IGNORED, dtype=np.int64)
        for b, (begin, ids) in enumerate(rows):
            found[b, : len(ids) - 1] = ids[:-1]
            labels[b, begin - 1 : len(ids) - 1] = ids[begin:]
        self.problems += len(rows)
        self.tokens += sum(len(ids) for _, ids in rows)
        return Batch(ids=found, labels=labels, n_lab=len(rows))

    def _batches(self, stage: int, number: int) -> list[list[tuple[int, list[int]]]]:
        """Where the solution begins, and the token ids, of each row of ``POOL`` steps, alike in length in each step."""
        if self._pool is None or self._pool[0] != (stage, number):
            size = self.config.stages[stage]["batch_size"]
            seed = self.config.seed + stage
            rows = sorted(
                (self._row(stage, index, seed) for index in range(number * POOL * size, (number + 1) * POOL * size)),
                key=lambda row: len(row[1]),
            )
            batches = [rows[start : start + size] for start in range(0, POOL * size, size)]
            random.Random(f"pool/{seed}/{number}").shuffle(batches)
            self._pool = (stage, number), batches
        return self._pool[1]

    def _row(self, stage: int, index: int, seed: int) -> tuple[int, list[int]]:
        rare = random.Random(f"mix/{seed}/{index}").random() < self.config.rare_share
        problem = problem_at(index, self.rare if rare else self.mixes[stage], seed=seed, split="pretraining")
        encode = self.tokenizer.backend_tokenizer.encode
        prompt = encode(problem.prompt).ids
        return len(prompt), [*prompt, *encode(problem.completion).ids, self.tokenizer.eos_token_id]

    def state(self) -> dict[str, int]:
        return self.progress()

    def resume(self, step: int, state: Mapping[str, Any]) -> None:
        self.problems, self.tokens = state["problems"], state["tokens"]

    def progress(self) -> dict[str, int]:
        return {"problems": self.problems, "tokens": self.tokens}

    def measure(self, model: Any) -> dict[str, Any]:
        return reasoning_report(model, self.tokenizer, problems_each=self.config.test_problems)

    def settings(self) -> dict[str, Any]:
        return asdict(self.config)

    def card(self, report: Mapping[str, Any]) -> str:
        return reasoning_card(report)
