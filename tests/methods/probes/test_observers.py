"""What every observer of key coefficients is told and keeps: counted rows, each forward once, training left alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from probed import batch, llama
from torch import Tensor

import infosteer
from infosteer.core.surfaces import Observer, ProbeMethod
from infosteer.methods.probes.information_flux import FluxObserver, InformationFlux
from infosteer.methods.probes.knowledge_entropy import KnowledgeEntropy, KnowledgeEntropyObserver
from infosteer.methods.probes.region_shift import RegionObserver
from infosteer.methods.probes.token_information import TokenInformation, TokenObserver

OBSERVERS: list[Callable[[], Observer]] = [
    FluxObserver,
    KnowledgeEntropyObserver,
    lambda: RegionObserver(cutoffs={0: (0.3, 1.0)}),
    TokenObserver,
]


def test_observers_say_nothing_before_they_have_seen_a_counted_row() -> None:
    for make in OBSERVERS:
        observer = make()
        assert observer.metrics() == {}
        observer.begin(torch.ones(1, 3, dtype=torch.long))
        observer.see(0, torch.full((3, 4), math.nan), torch.zeros(3))
        assert observer.metrics() == {}


def test_rows_that_do_not_count_may_hold_anything() -> None:
    k, weight, ids = torch.randn(6, 8), torch.tensor([1.0, 0, 1, 1, 0, 1]), torch.tensor([[3, 4, 3], [4, 5, 4]])
    bad = torch.where(weight[:, None] == 0, math.nan, k)
    for make in OBSERVERS:
        found = []
        for rows in (k, bad):
            observer = make()
            observer.begin(ids)
            observer.see(0, rows, weight)
            found.append(observer.metrics())
        assert found[0] == pytest.approx(found[1], rel=1e-6)
        assert all(math.isfinite(value) for value in found[0].values())


class Diary(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def begin(self, ids: Tensor | None) -> None:
        self.told.append(("begin", None if ids is None else tuple(ids.shape)))

    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        assert not k.requires_grad
        self.told.append(("see", layer))

    def calibrated(self) -> None:
        self.told.append(("calibrated", None))

    def metrics(self) -> dict[str, float]:
        return {}

    def reset(self) -> None:
        self.told.append(("reset", None))


@dataclasses.dataclass(kw_only=True)
class Watch(ProbeMethod):
    calibrates = True

    def observer(self, sites: Any) -> Observer:
        return Diary()


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_each_forward_begins_once_and_recomputes_are_not_shown(reentrant: bool | None) -> None:
    model = llama().train()
    if reentrant is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
    inputs = {**batch(), "labels": batch()["input_ids"]}
    with infosteer.steer(model, [Watch(every=1, layers=[0, 2])], calibration=[batch()]) as session:
        for _ in range(2):
            session.loss(model(**inputs, use_cache=False).loss).backward()
        model(inputs_embeds=model.get_input_embeddings()(inputs["input_ids"]), attention_mask=inputs["attention_mask"])
    (diary,) = session.probes.observers.values()
    assert isinstance(diary, Diary)
    forward = [("begin", (4, 9)), ("see", 0), ("see", 2)]
    unknown = [("begin", None), ("see", 0), ("see", 2)]
    assert diary.told == [*forward, ("calibrated", None), ("reset", None), *forward, *forward, *unknown]


def test_probes_leave_training_as_it_is() -> None:
    found = []
    for probes in ([], [InformationFlux(every=1), KnowledgeEntropy(every=1), TokenInformation(every=1)]):
        model, inputs = llama().train(), {**batch(), "labels": batch()["input_ids"]}
        with infosteer.steer(model, [infosteer.EntropyRegularization(), *probes]) as session:
            session.loss(model(**inputs, use_cache=False).loss).backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
