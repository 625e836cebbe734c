"""The seam of probes: at which steps they look, what they add up, and that they change nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from tests.methods.steered import batch, llama
from torch import Tensor

import infosteer
from infosteer.core.surfaces import Observer, ProbeMethod
from infosteer.models import Site


@dataclasses.dataclass(kw_only=True)
class Means(ProbeMethod):
    reads_hidden = True

    def observer(self, sites: Sequence[Site]) -> Observer:
        return Sums()


class Sums(Observer):
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.rows = self.k = self.hidden = 0.0

    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        assert not k.requires_grad
        assert weight is not None
        self.rows += float(weight.sum())
        self.k += float((k.mean(-1) * weight).sum())

    def see_hidden(self, hidden: Tensor, weight: Tensor | None) -> None:
        assert weight is not None
        self.hidden += float((hidden.mean(-1) * weight).sum())

    def metrics(self) -> dict[str, float]:
        return {"rows": self.rows, "k": self.k, "hidden": self.hidden} if self.rows else {}


def test_probes_look_at_their_steps_and_change_nothing() -> None:
    rows, model, bare = batch(), llama(), llama()
    carried = float((rows["labels"][:, 1:] != -100).sum())
    plain = bare(**rows, use_cache=False)
    with infosteer.steer(model, [Means(every=2)]) as session:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        looked = []
        for _ in range(4):
            out = model(**rows, use_cache=False)
            assert torch.equal(out.logits, plain.logits)
            looked.append(session.probes.metrics())
            out.loss.backward()
            optimizer.step()
    name = next(key for key in looked[0] if key.endswith("/rows"))
    assert [found[name] for found in looked] == [2 * carried] * 4  # two layers; a step in between keeps what was seen
    hidden = bare.model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).last_hidden_state
    kept = torch.nn.functional.pad(rows["labels"][:, 1:] != -100, (0, 1))
    value = next(value for key, value in looked[0].items() if key.endswith("/hidden"))
    assert value == pytest.approx(float(hidden.detach().mean(-1)[kept].sum()), rel=1e-4)


def test_a_probe_outside_training_adds_up_until_it_is_reset() -> None:
    model = llama().eval()
    with infosteer.steer(model, [Means(scope="always")]) as session, torch.no_grad():
        for _ in range(3):
            model(input_ids=batch()["input_ids"], attention_mask=batch()["attention_mask"])
        tokens = float(batch()["attention_mask"].sum())
        assert next(v for k, v in session.probes.metrics().items() if k.endswith("rows")) == 3 * 2 * tokens
        session.probes.reset()
        assert session.probes.metrics() == {}
