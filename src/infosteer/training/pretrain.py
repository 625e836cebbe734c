"""Pretraining of the lab's base model: a plain loop over packed rows of biographies and general English.

Entry: ``run_pretrain(recipe, output_dir)``; the shipped recipe is ``recipes/lab-pretrain.yaml``.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import random
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infosteer.errors import NonFiniteLossError
from infosteer.lab.card import model_card
from infosteer.lab.corpus import LabRows, encode_stream, general_rows, read_general_text
from infosteer.lab.facts import World, biography_at, make_world
from infosteer.lab.report import base_report
from infosteer.lab.tokenizer import train_tokenizer
from infosteer.training.pretrain_checkpoint import read_checkpoint, write_checkpoint
from infosteer.training.pretrain_config import PretrainConfig, config_from_recipe

logger = logging.getLogger(__name__)


def run_pretrain(recipe: Mapping[str, Any], output_dir: Path) -> dict[str, Any]:
    """Pretrain, measure and save a base model; resumes when ``output_dir`` holds a checkpoint of the same settings.

    Args:
        recipe: resolved recipe; ``train`` and ``data`` are read.
        output_dir: gets ``checkpoint/`` while it runs, and in the end ``model/`` (weights, tokenizer, README.md,
            pretraining.json).

    Returns:
        The report that ``pretraining.json`` holds; ``finished`` is False when ``max_minutes`` stopped the run, which
        then goes on with the next call.

    Raises:
        ConfigError: unknown or impossible settings.
        DataError: general text that cannot be read.
        RunError: a checkpoint of other settings.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    config = config_from_recipe(recipe)
    output_dir.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    _keep_freed_memory()
    run = _Run(config, output_dir)
    run.resume()
    if not run.train():
        return {"finished": False, **run.progress()}
    report = run.measure()
    run.save(report)
    return report


class _Run:
    """State of one pretraining: world, data, model, optimizer and clocks."""

    def __init__(self, config: PretrainConfig, output_dir: Path) -> None:
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        self.config, self.output_dir, self.checkpoint = config, output_dir, output_dir / "checkpoint"
        self.started, self.cpu_started = time.perf_counter(), time.process_time()
        self.wall_before = self.cpu_before = 0.0
        self.tokenizer: Any  # transformers types its own classes too loosely to check calls on them
        self.model: Any
        self.world: World = make_world(config.world_seed, config.people)
        text = read_general_text(
            config.general_text,
            config.general_files,
            seed=config.seed,
            megabytes_per_file=config.general_megabytes_per_file,
        )
        if (self.checkpoint / "tokenizer.json").exists():
            self.tokenizer = AutoTokenizer.from_pretrained(self.checkpoint)
        else:
            rounds = config.tokenizer_rounds * config.people
            lab = [biography_at(self.world, index, config.seed) for index in range(rounds)]
            self.tokenizer = train_tokenizer([*text.train, *lab], vocabulary=config.vocabulary)
        self.general = encode_stream(text.train, self.tokenizer)
        self.held_out = encode_stream(text.held_out, self.tokenizer)
        self.told = 0  # biographies in the stages before this one
        self.stage = -1
        self.enter(0)
        torch.manual_seed(config.seed)
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=config.vocabulary,
                max_position_embeddings=max(config.long_length, config.sequence_length),
                tie_word_embeddings=True,
                bos_token_id=end,
                eos_token_id=end,
                pad_token_id=pad,
                **dict[str, Any](config.architecture),
            )
        )
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=config.stages[0]["learning_rate"],
            betas=(0.9, 0.95),
            fused=True,
        )
        self.step, self.losses = 0, {"lab": 0.0, "general": 0.0}
        logger.info(
            "pretraining: %.2fM parameters, %d people, %.1fM tokens of general text, %d held out",
            sum(p.numel() for p in self.model.parameters()) / 1e6,
            config.people,
            len(self.general) / 1e6,
            len(self.held_out),
        )

    def enter(self, stage: int, position: int = 0) -> None:
        """Take biographies from a stage's people; each stage has a text of its own."""
        self.stage = stage
        people = self.config.stages[stage]["people"]
        world = World(people=self.world.people[-people:])
        self.lab = LabRows(world, self.tokenizer, seed=self.config.seed + stage, position=position)

    def batch(self, step: int) -> tuple[torch.Tensor, int]:
        """Rows (B, T + 1) of a step, lab rows first, and how many these are."""
        c = self.config
        if c.stage_at(step) != self.stage:
            self.told += self.lab.position
            self.enter(c.stage_at(step))
        stage = c.stages[self.stage]
        long = (step + 1) % c.long_every == 0
        length = c.long_length if long else c.sequence_length
        rows = max(2, stage["batch_size"] * c.sequence_length // length)
        # The share is kept over steps, not within each: the fraction of a row that is left over is drawn.
        n_lab = (
            rows
            if len(self.general) <= length
            else int(rows * stage["lab_share"] + random.Random(f"{c.seed}/{step}").random())
        )
        parts = [self.lab.take(n_lab, length + 1)] if n_lab else []
        if n_lab < rows:
            parts.append(general_rows(self.general, rows - n_lab, length + 1, seed=c.seed, step=step))
        return torch.from_numpy(np.concatenate(parts)), n_lab

    def learning_rate(self, step: int) -> float:
        c = self.config
        peak = c.stages[c.stage_at(step)]["learning_rate"]
        return float(peak * min(1.0, (step + 1) / max(1, c.warmup_steps), (c.steps - step) / c.decay_steps))

    def train(self) -> bool:
        """Train up to the last step; False when the time limit came first."""
        c = self.config
        self.model.train()
        while self.step < c.steps:
            rows, n_lab = self.batch(self.step)
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(self.step)
            with torch.autocast("cpu", torch.bfloat16, enabled=c.bf16):
                logits = self.model(input_ids=rows[:, :-1], use_cache=False).logits
            losses = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction="none"
            ).view(len(rows), -1)
            loss = losses.mean()
            if not math.isfinite(loss.item()):
                raise NonFiniteLossError(
                    "The loss of pretraining is not finite.",
                    where=f"step {self.step}",
                    got=loss.item(),
                    fix="lower train.learning_rate; the last checkpoint is kept",
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), c.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            if self.step % c.logging_steps == 0 or self.step == c.steps:
                self._log(losses.detach(), n_lab)
            if self.step % c.save_steps == 0 and self.step < c.steps:
                self.save_checkpoint()
            if c.max_minutes is not None and self.wall() > 60 * c.max_minutes and self.step < c.steps:
                self.save_checkpoint()
                logger.warning("stopped by max_minutes after step %d of %d; run again to go on", self.step, c.steps)
                return False
        return True

    def _log(self, losses: torch.Tensor, n_lab: int) -> None:
        for name, part in (("lab", losses[:n_lab]), ("general", losses[n_lab:])):
            if len(part):
                self.losses[name] = part.mean().item()
        record = {"step": self.step, "lr": self.learning_rate(self.step - 1), **self.losses, **self.progress()}
        logger.info("%s", json.dumps(record))
        with (self.output_dir / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(record) + "\n")

    def wall(self) -> float:
        return self.wall_before + time.perf_counter() - self.started

    def cpu(self) -> float:
        return self.cpu_before + time.process_time() - self.cpu_started

    def progress(self) -> dict[str, Any]:
        return {
            "steps": self.step,
            "biographies": self.told + self.lab.position,
            "wall_seconds": self.wall(),
            "cpu_seconds": self.cpu(),
        }

    def measure(self) -> dict[str, Any]:
        """What ``pretraining.json`` holds and the model card quotes."""
        c = self.config
        report = base_report(
            self.model,
            self.tokenizer,
            self.world,
            train=self.general,
            held_out=self.held_out,
            people=c.recall_people,
            length=min(1024, c.long_length),
        )
        return {
            "finished": True,
            **self.progress(),
            "tokens": c.tokens,
            **report,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            # Only the folder's name: where it lay is nobody's business.
            "config": asdict(c) | {"general_text": None if c.general_text is None else Path(c.general_text).name},
        }

    def save(self, report: dict[str, Any]) -> None:
        """Write ``model/``: bf16 weights, tokenizer, report and model card; then drop the checkpoint."""
        target = self.output_dir / "model"
        self.model.to(torch.bfloat16).save_pretrained(target)
        self.tokenizer.save_pretrained(target)
        (target / "model.safetensors").chmod(
            0o644
        )  # safetensors writes for the owner alone; a package is for everybody
        (target / "pretraining.json").write_text(json.dumps(report, indent=1) + "\n")
        (target / "README.md").write_text(model_card(report))
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def _fingerprint(self) -> dict[str, Any]:
        """What must agree for a resume."""
        free = {"max_minutes", "threads", "logging_steps", "save_steps", "recall_people", "general_text"}
        return json.loads(json.dumps({k: v for k, v in asdict(self.config).items() if k not in free}))

    def save_checkpoint(self) -> None:
        """Everything that a resume needs."""
        state = {"step": self.step, "told": self.told, "position": self.lab.position}
        clocks = {"wall": self.wall(), "cpu": self.cpu()}
        write_checkpoint(
            self.checkpoint,
            self.model,
            self.optimizer,
            {**state, **clocks, "config": self._fingerprint()},
            save_also=self.tokenizer.save_pretrained,
        )

    def resume(self) -> None:
        """Load the checkpoint, if there is one."""
        state = read_checkpoint(self.checkpoint, self.model, self.optimizer, self._fingerprint())
        if state is None:
            return
        self.step, self.told = state["step"], state["told"]
        self.enter(self.config.stage_at(self.step - 1), state["position"])
        self.wall_before, self.cpu_before = state["wall"], state["cpu"]
        logger.info("resumed at step %d", self.step)


def _keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of handing it back: fresh pages cost 8 % of a step."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # no glibc: only slower
        return
    mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
