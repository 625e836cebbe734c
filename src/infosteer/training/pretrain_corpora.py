"""What pretraining reads and is measured by, for each half of the lab: tokenizer, rows, report and model card."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict
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


class Corpus(Protocol):
    """A half of the lab, as the loop sees it."""

    tokenizer: Any
    vocabulary: int  # rows of the embedding

    def batch(self, step: int) -> tuple[np.ndarray, int]:
        """Rows (B, T + 1) of token ids of a step, those of the lab first, and how many these are."""

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


class _Staged:
    """Documents numbered from 0 in each stage, and how many were read in the stages before."""

    def __init__(self, config: PretrainConfig, tokenizer: Any) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.told = 0
        self.stage = -1
        self.lab: LabRows
        self.enter(0)

    def document(self, stage: int, index: int) -> str:
        """The document of that number; each stage has a text of its own."""
        raise NotImplementedError

    def enter(self, stage: int, position: int = 0) -> None:
        self.stage = stage
        self.lab = LabRows(lambda index: self.document(stage, index), self.tokenizer, position=position)

    def follow(self, step: int) -> None:
        """Enter the step's stage if it is a new one."""
        if self.config.stage_at(step) != self.stage:
            self.told += self.lab.position
            self.enter(self.config.stage_at(step))

    def state(self) -> dict[str, int]:
        return {"told": self.told, "position": self.lab.position}

    def resume(self, step: int, state: Mapping[str, Any]) -> None:
        self.told = state["told"]
        self.enter(self.config.stage_at(step - 1), state["position"])


class FactsCorpus(_Staged):
    """Biographies of invented people and general English."""

    def __init__(self, config: FactsConfig, checkpoint: Path) -> None:
        from transformers import AutoTokenizer

        self.facts, self.vocabulary = config, config.vocabulary
        self.world = make_world(config.world_seed, config.people)
        text = read_general_text(
            config.general_text,
            config.general_files,
            seed=config.seed,
            megabytes_per_file=config.general_megabytes_per_file,
        )
        tokenizer: Any
        if (checkpoint / "tokenizer.json").exists():
            tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        else:
            rounds = config.tokenizer_rounds * config.people
            lab = [biography_at(self.world, index, config.seed) for index in range(rounds)]
            tokenizer = train_tokenizer([*text.train, *lab], vocabulary=config.vocabulary)
        self.general = encode_stream(text.train, tokenizer)
        self.held_out = encode_stream(text.held_out, tokenizer)
        super().__init__(config, tokenizer)

    def enter(self, stage: int, position: int = 0) -> None:
        people = self.facts.stages[stage]["people"]
        self.telling = World(people=self.world.people[-people:])
        super().enter(stage, position)

    def document(self, stage: int, index: int) -> str:
        return biography_at(self.telling, index, self.facts.seed + stage)

    def batch(self, step: int) -> tuple[np.ndarray, int]:
        self.follow(step)
        rows, length = self.facts.rows_at(step)
        share = self.facts.stages[self.stage]["lab_share"]
        # The share is kept over steps, not within each: the fraction of a row that is left over is drawn.
        n_lab = (
            rows
            if len(self.general) <= length
            else int(rows * share + random.Random(f"{self.facts.seed}/{step}").random())
        )
        parts = [self.lab.take(n_lab, length + 1)] if n_lab else []
        if n_lab < rows:
            parts.append(general_rows(self.general, rows - n_lab, length + 1, seed=self.facts.seed, step=step))
        return np.concatenate(parts), n_lab

    def progress(self) -> dict[str, int]:
        return {"biographies": self.told + self.lab.position}

    def measure(self, model: Any) -> dict[str, Any]:
        return base_report(
            model,
            self.tokenizer,
            self.world,
            train=self.general,
            held_out=self.held_out,
            people=self.facts.recall_people,
            length=min(1024, self.facts.long_length),
        )

    def settings(self) -> dict[str, Any]:
        # Only the folder's name: where it lay is nobody's business.
        folder = None if self.facts.general_text is None else Path(self.facts.general_text).name
        return asdict(self.facts) | {"general_text": folder}

    def card(self, report: Mapping[str, Any]) -> str:
        return model_card(report)


class ReasoningCorpus(_Staged):
    """Word problems with worked solutions, of the pretraining split."""

    def __init__(self, config: ReasoningConfig) -> None:
        self.reasoning = config
        self.mixes = [config.common(stage) for stage in config.stages]
        self.rare = config.rare()
        tokenizer = make_tokenizer()
        self.vocabulary = len(tokenizer)
        super().__init__(config, tokenizer)

    def document(self, stage: int, index: int) -> str:
        seed = self.reasoning.seed + stage
        rare = random.Random(f"mix/{seed}/{index}").random() < self.reasoning.rare_share
        problem = problem_at(index, self.rare if rare else self.mixes[stage], seed=seed, split="pretraining")
        return problem.prompt + problem.completion

    def batch(self, step: int) -> tuple[np.ndarray, int]:
        self.follow(step)
        rows, length = self.reasoning.rows_at(step)
        return self.lab.take(rows, length + 1), rows

    def progress(self) -> dict[str, int]:
        return {"problems": self.told + self.lab.position}

    def measure(self, model: Any) -> dict[str, Any]:
        return reasoning_report(
            model, self.tokenizer, problems_each=self.reasoning.test_problems, length=self.reasoning.long_length
        )

    def settings(self) -> dict[str, Any]:
        return asdict(self.reasoning)

    def card(self, report: Mapping[str, Any]) -> str:
        return reasoning_card(report)
