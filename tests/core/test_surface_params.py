"""The seam of params: the end of training, the usage of memories, and the calibration text that it is taken from."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.methods.steered import batch, llama
from torch import Tensor, nn

import infosteer
from infosteer.core.params import Handle, ParamMethod, ParamTarget
from infosteer.core.usage import memory_usage
from infosteer.errors import ConfigError
from infosteer.models import locate, memory_vectors


@dataclasses.dataclass(kw_only=True)
class Halfway(ParamMethod):
    """Ends half-way between the first and the last weights; remembers what it was given."""

    def apply(self, target: ParamTarget) -> Handle:
        return HalfwayHandle(target)


class HalfwayHandle(Handle):
    def __init__(self, target: ParamTarget) -> None:
        self.target = target
        self.start = [p.detach().clone() for p in target.model.parameters()]

    def parameters(self) -> list[nn.Parameter]:
        return list(self.target.model.parameters())

    def before_step(self, strength: float) -> None: ...

    def after_step(self, strength: float) -> None: ...

    def undo(self) -> None: ...

    def touched(self) -> bool:
        return True

    def finish(self, strength: float) -> None:
        with torch.no_grad():
            for p, start in zip(self.parameters(), self.start, strict=True):
                p.lerp_(start, 0.5 * strength)


def test_finish_runs_once_at_the_end() -> None:
    rows, model, bare = batch(), llama(), llama()
    start = [p.detach().clone() for p in model.parameters()]
    for m in (bare, model):
        with infosteer.steer(m, [Halfway()] if m is model else []) as session:
            optimizer = torch.optim.SGD(m.parameters(), lr=0.5)
            m(**rows, use_cache=False).loss.backward()
            optimizer.step()
            session.finish()
            session.finish()
    for first, last, found in zip(start, bare.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, (first + last) / 2)


def test_usage_is_the_mean_of_magnitudes_by_sequence() -> None:
    model, rows = llama(), batch()
    sites = locate(model)
    batches = [{name: rows[name][i : i + 2] for name in ("input_ids", "attention_mask")} for i in (0, 2)]
    found = memory_usage(model, sites, batches)
    assert model.training
    seen: dict[int, Tensor] = {}
    for site in sites:
        site.module.register_forward_pre_hook(lambda m, args, layer=site.layer: seen.update({layer: args[0]}))
    with torch.no_grad():
        model.eval()(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"])
    for site in sites:
        mask = rows["attention_mask"].double().unsqueeze(-1)
        wanted = ((seen[site.layer].abs().double() * mask).sum(1) / mask.sum(1)).mean(0)
        torch.testing.assert_close(found[site.layer], wanted, rtol=1e-5, atol=1e-8)
    assert memory_vectors(sites[0]).shape[0] == len(found[0])


def test_methods_ask_for_calibration_when_they_need_it() -> None:
    @dataclasses.dataclass(kw_only=True)
    class Used(Halfway):
        def apply(self, target: ParamTarget) -> Handle:
            assert target.usage() is target.usage(), "computed once"
            return HalfwayHandle(target)

    model = llama()
    with pytest.raises(ConfigError, match="calibration"):
        infosteer.steer(model, [Used()])
    infosteer.steer(model, [Used()], calibration=[{"input_ids": [[1, 2, 3]]}]).remove()
    for wrong in ([], "text", [1], ["text"], [{"ids": [1]}]):
        with pytest.raises(ConfigError, match=r"calibration|tokenizer"):
            infosteer.steer(model, [Used()], calibration=wrong)
    with pytest.raises(ConfigError, match="no token"):
        infosteer.steer(model, [Used()], calibration=[{"input_ids": [[1, 2]], "attention_mask": [[0, 0]]}])
