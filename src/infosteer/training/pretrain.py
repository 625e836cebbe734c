"""Pretraining of the lab's base models: a plain loop over packed rows of either half of the lab.

Entry: ``run_pretrain(recipe, output_dir)``; the shipped recipes are ``lab-pretrain`` and ``reasoning-pretrain``.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from infosteer.errors import ConfigError, NonFiniteLossError
from infosteer.training.pretrain_checkpoint import read_checkpoint, write_checkpoint
from infosteer.training.pretrain_config import PretrainConfig, config_from_recipe
from infosteer.training.pretrain_corpora import IGNORED, make_corpus

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
    """State of one pretraining: corpus, model, optimizer and clocks."""

    def __init__(self, config: PretrainConfig, output_dir: Path) -> None:
        self.config, self.output_dir, self.checkpoint = config, output_dir, output_dir / "checkpoint"
        self.started, self.cpu_started = time.perf_counter(), time.process_time()
        self.wall_before = self.cpu_before = 0.0
        self.corpus = make_corpus(config, self.checkpoint)
        torch.manual_seed(config.seed)
        end, pad = self.corpus.tokenizer.eos_token_id, self.corpus.tokenizer.pad_token_id
        self.model: Any = make_model(config, self.corpus.vocabulary, end, pad)  # typed too loosely to check calls on it
        self.optimizers = make_optimizers(self.model, config)
        self.step, self.losses = 0, dict[str, float]()
        logger.info("pretraining: %.2fM parameters", sum(p.numel() for p in self.model.parameters()) / 1e6)

    def learning_rate(self, step: int) -> float:
        c = self.config
        peak = c.stages[c.stage_at(step)]["learning_rate"]
        return float(peak * min(1.0, (step + 1) / max(1, c.warmup_steps), (c.steps - step) / c.decay_steps))

    def train(self) -> bool:
        """Train up to the last step; False when the time limit came first."""
        c = self.config
        self.model.train()
        while self.step < c.steps:
            batch = self.corpus.batch(self.step)
            labels = torch.from_numpy(batch.labels)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate(self.step)
            with torch.autocast("cpu", torch.bfloat16, enabled=c.bf16):
                logits = self.model(input_ids=torch.from_numpy(batch.ids), use_cache=False).logits
            losses = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED
            ).view(labels.shape)
            loss = losses.sum() / (labels != IGNORED).sum()
            if not math.isfinite(loss.item()):
                raise NonFiniteLossError(
                    "The loss of pretraining is not finite.",
                    where=f"step {self.step}",
                    got=loss.item(),
                    fix="lower train.learning_rate; the last checkpoint is kept",
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), c.max_grad_norm)
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.step += 1
            if self.step % c.logging_steps == 0 or self.step == c.steps:
                self._log(losses.detach(), labels, batch.n_lab)
            if self.step % c.save_steps == 0 and self.step < c.steps:
                self.save_checkpoint()
            if c.max_minutes is not None and self.wall() > 60 * c.max_minutes and self.step < c.steps:
                self.save_checkpoint()
                logger.warning("stopped by max_minutes after step %d of %d; run again to go on", self.step, c.steps)
                return False
        return True

    def _log(self, losses: torch.Tensor, labels: torch.Tensor, n_lab: int) -> None:
        for name, rows in (("lab", slice(n_lab)), ("general", slice(n_lab, None))):
            if count := int((labels[rows] != IGNORED).sum()):
                self.losses[name] = losses[rows].sum().item() / count
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
            **self.corpus.progress(),
            "wall_seconds": self.wall(),
            "cpu_seconds": self.cpu(),
        }

    def measure(self) -> dict[str, Any]:
        """What ``pretraining.json`` holds and the model card quotes."""
        report = self.corpus.measure(self.model)
        return {
            "finished": True,
            **self.progress(),
            **report,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "config": self.corpus.settings(),
        }

    def save(self, report: dict[str, Any]) -> None:
        """Write ``model/``: bf16 weights, tokenizer, report and model card; then drop the checkpoint."""
        target = self.output_dir / "model"
        self.model.to(torch.bfloat16).save_pretrained(target)
        self.corpus.tokenizer.save_pretrained(target)
        (target / "model.safetensors").chmod(
            0o644
        )  # safetensors writes for the owner alone; a package is for everybody
        (target / "pretraining.json").write_text(json.dumps(report, indent=1) + "\n")
        (target / "README.md").write_text(self.corpus.card(report))
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def _fingerprint(self) -> dict[str, Any]:
        """What must agree for a resume."""
        free = {
            "max_minutes",
            "threads",
            "logging_steps",
            "save_steps",
            "recall_people",
            "general_text",
            "test_problems",
        }
        return json.loads(json.dumps({k: v for k, v in asdict(self.config).items() if k not in free}))

    def save_checkpoint(self) -> None:
        """Everything that a resume needs."""
        state = {"step": self.step, **self.corpus.state()}
        clocks = {"wall": self.wall(), "cpu": self.cpu()}
        write_checkpoint(
            self.checkpoint,
            self.model,
            self.optimizers,
            {**state, **clocks, "config": self._fingerprint()},
            save_also=self.corpus.tokenizer.save_pretrained,
        )

    def resume(self) -> None:
        """Load the checkpoint, if there is one."""
        state = read_checkpoint(self.checkpoint, self.model, self.optimizers, self._fingerprint())
        if state is None:
            return
        self.step = state["step"]
        self.corpus.resume(self.step, state)
        self.wall_before, self.cpu_before = state["wall"], state["cpu"]
        logger.info("resumed at step %d", self.step)


def make_model(config: PretrainConfig, vocabulary: int, end: int, pad: int) -> PreTrainedModel:
    """A model of random weights in fp32, with so many tokens, ``end`` and ``pad`` among them.

    Raises: ConfigError for an architecture that its family does not know, or that cannot be built.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    known = AutoConfig.for_model(config.family).to_dict().keys()
    if unknown := sorted(set(config.architecture) - known):  # transformers would keep them as what nothing reads
        raise ConfigError(
            f"The family {config.family} has no such setting.", where="train.architecture", got=", ".join(unknown)
        )
    given: dict[str, Any] = {
        "vocab_size": vocabulary,
        "max_position_embeddings": config.context,
        "tie_word_embeddings": True,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": pad,
        **config.architecture,
    }
    try:
        made: PreTrainedModel = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(config.family, **given), dtype=torch.float32
        )
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError, AttributeError) as error:
        raise ConfigError(
            "No model can be built like that.", where="train.architecture", got=f"{type(error).__name__}: {error}"
        ) from error
    return made


def make_optimizers(model: PreTrainedModel, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW alone, or Muon for the layers' matrices (with steps as large as AdamW's) and AdamW for the rest.

    Raises: ConfigError where this torch has no Muon.
    """
    rate, decay = config.stages[0]["learning_rate"], config.weight_decay
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    tables = [m for m in model.modules() if isinstance(m, torch.nn.Embedding) or m is model.get_output_embeddings()]
    outer = {id(p) for table in tables for p in table.parameters()}
    inner = [p for p in matrices if id(p) not in outer]
    found: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        if "Muon" not in dir(torch.optim):
            raise ConfigError("This torch has no Muon.", where="train.optimizer", got=torch.__version__, expected="2.9")
        found.append(torch.optim.Muon(inner, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
        matrices = [p for p in matrices if id(p) in outer]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return [*found, torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)]


def _keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of handing it back: fresh pages cost 8 % of a step."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # no glibc: only slower
        return
    mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
