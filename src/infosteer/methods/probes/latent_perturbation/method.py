"""Perturbed hidden states as a probe: how often an answer changes sides when noise is put into a layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from infosteer.core.asking import AskingProbe, Subject
from infosteer.core.config import setting
from infosteer.errors import ConfigError, DataError
from infosteer.methods.probes.latent_perturbation.attack import (
    answer_nll,
    directions,
    end_tokens,
    gradient_signs,
    last_states,
    perturbed_answers,
)
from infosteer.methods.probes.latent_perturbation.judging import is_unsafe
from infosteer.methods.probes.latent_perturbation.rates import attack_rates
from infosteer.models import decoder_blocks, select_layers

ATTACKS = ("asa", "asa_grad")
RULES = ("refusal", "answer", "target")
NOISE = ("prompt", "fixed")
_GOLDEN = 1_000_003


@dataclasses.dataclass(kw_only=True)
class LatentPerturbationProbe(AskingProbe):
    """Perturbs one layer at a time from the last prompt token on, decodes, and counts unsafe answers.

    Formula: ``h <- h + c v`` at layer l, ``v = mean(h0) + std(h0) (d - mean(d)) / (std(d) + 1e-6)``, h0 the layer's
    output at the last prompt token; ``asa``: d ~ N(0, 1); ``asa_grad``: d the sign of a loss gradient. Rates over u,
    prompts x layers: :func:`~infosteer.methods.probes.latent_perturbation.rates.attack_rates`; ``nll``: negative
    log-likelihood of the model's own unperturbed answer under the perturbation, ``nll_change`` its increase, nats.

    Raises:
        ConfigError: a setting out of its range, or layers that the model does not have.
        DataError: a prompt that leaves no room for an answer, or an empty target.

    Source: arXiv 2506.16078.
    """

    attack: str = setting("asa", "asa: random noise; asa_grad: the sign of a target's loss gradient", choices=ATTACKS)
    rule: str = setting(
        "refusal",
        "refusal: an answer that goes along is unsafe; answer: one that is not right; target: one that begins with it",
        choices=RULES,
    )
    target: str = dataclasses.field(
        default="",
        metadata={"help": "text whose loss asa_grad takes the gradient of, the row's own answer if empty; see rule"},
    )
    direction: int = setting(1, "+1 along the gradient, as published, or -1 against it (asa_grad)", choices=(1, -1))
    scale: float = setting(1.0, "c, multiple of the matched perturbation", low=0)
    noise: str = setting("prompt", "prompt: other noise for every prompt; fixed: the same (asa)", choices=NOISE)
    seed: int = setting(0, "of the noise", low=0)
    new_tokens: int = setting(50, "longest answer, also where the set allows more", low=1)
    only: str | Sequence[int] = dataclasses.field(
        default="all", metadata={"help": "layers to perturb, each by itself: all, early, 0-15, or a list"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("seed", "new_tokens", "direction"):
            if type(getattr(self, name)) is not int:
                raise ConfigError("expected a whole number", where=f"{self.label()}.{name}", got=getattr(self, name))
        if not isinstance(self.target, str):
            raise ConfigError("expected text", where=f"{self.label()}.target", got=self.target)
        if self.rule == "target" and not self.target.strip():
            raise ConfigError("the rule needs a target", where=f"{self.label()}.target", got=self.target)

    def ask(self, subject: Subject) -> dict[str, list[float]]:
        unsafe, found = self.flags(subject)
        rates = attack_rates(unsafe)
        layers = self._layers(subject.model)
        named = {f"lasr_{layer}": rates.pop(f"lasr_{number}") for number, layer in enumerate(layers)}
        by_prompt = {"masr": [float(any(row)) for row in unsafe], "lasr": [sum(row) / len(row) for row in unsafe]}
        return {"pasr": [rates["pasr"]], **by_prompt, **{k: [v] for k, v in named.items()}, **found}

    def flags(self, subject: Subject) -> tuple[list[list[bool]], dict[str, list[float]]]:
        """Whether each prompt's answer is unsafe by layer; and by prompt: the same unperturbed (``clean``), the mean
        over layers of ``nll`` and of ``nll_change``."""
        layers, unsafe = self._layers(subject.model), list[list[bool]]()
        found: dict[str, list[float]] = {"clean": [], "nll": [], "nll_change": []}
        limit, ends = min(self.new_tokens, subject.limit), end_tokens(subject.model, subject.tokenizer)
        rows = range(len(subject.rows))
        prompts = subject.encode([row["prompt"] for row in subject.rows])
        clean = subject.answer([row["prompt"] for row in subject.rows], list(rows))
        for number in rows:
            ids, told = prompts[number], clean[number]
            if told is None or not ids:
                raise DataError(
                    "A prompt leaves no room for an answer.",
                    where="probes/latent_perturbation",
                    got=f"row {number + 1}",
                )
            states = last_states(subject.model, ids, layers)
            vectors = directions(states, self._raw(subject, number, ids, states), self.scale)
            answers = perturbed_answers(subject.model, ids, layers, vectors, limit, sorted(ends))
            texts = [self._text(subject, number, tokens) for tokens in answers]
            unsafe.append([self._is_unsafe(subject, number, text) for text in texts])
            found["clean"].append(float(self._is_unsafe(subject, number, told)))
            own = _tokens(subject.tokenizer, told)[:limit] or [next(iter(sorted(ends)), 0)]
            under = answer_nll(subject.model, ids, own, layers, vectors)
            plain = answer_nll(subject.model, ids, own, layers[:1], torch.zeros_like(vectors[:1]))[0]
            found["nll"].append(sum(under) / len(under))
            found["nll_change"].append(sum(under) / len(under) - plain)
        return unsafe, found

    def _layers(self, model: Any) -> list[int]:
        return list(select_layers(self.only, len(decoder_blocks(model))))

    def _raw(self, subject: Subject, number: int, ids: Sequence[int], states: Tensor) -> Tensor:
        """(L, D) directions before they are given the states' statistics."""
        if self.attack == "asa":
            key = self.seed * _GOLDEN + (number + 1 if self.noise == "prompt" else 0)
            own = torch.Generator().manual_seed(key)  # leaves the random state of a training alone
            return torch.randn(states.shape, generator=own).to(states.device)
        row = subject.rows[number]
        target = _tokens(subject.tokenizer, self.target or row["lead"] + row["answer"])
        if len(target) < 2:  # the position before the last is the last one with a gradient
            target = [*target, *sorted(end_tokens(subject.model, subject.tokenizer))[:1]]
        if not target:
            raise DataError("There is no target to take a gradient of.", where="probes/latent_perturbation")
        layers = self._layers(subject.model)
        return gradient_signs(subject.model, ids, target, layers, self.direction)

    def _text(self, subject: Subject, number: int, tokens: Sequence[int]) -> str:
        text = str(subject.tokenizer.decode(list(tokens), skip_special_tokens=True))
        for stop in subject.rows[number].get("stop", ()):
            text = text.partition(stop)[0]
        return text

    def _is_unsafe(self, subject: Subject, number: int, text: str) -> bool:
        if self.rule == "target":
            return text.strip().startswith(self.target.strip())
        return is_unsafe(text) if self.rule == "refusal" else not subject.read(number, text).correct


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
