"""The seams of losses, params, probes and data, each with a method made for the test and an explicit computation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import infosteer
from infosteer.core.contract import Context
from infosteer.core.data import DataContext, DataMethod, Row
from infosteer.core.params import Handle, ParamMethod, ParamTarget
from infosteer.core.session import Session
from infosteer.core.surfaces import InterventionMethod, LossMethod, Observer, ProbeMethod, Tokens
from infosteer.core.token_losses import next_tokens
from infosteer.core.usage import memory_usage
from infosteer.errors import AttachError, ConfigError, NoEffectError
from infosteer.models import Site, locate, memory_vectors
from infosteer.ops.counter import uniform

VOCABULARY = 31


def llama(seed: int = 0, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=VOCABULARY,
        initializer_range=0.3, **changes,
    )  # fmt: skip
    return LlamaForCausalLM(config).train()


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCABULARY, (4, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    mask[3, :2] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :4] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@dataclasses.dataclass(kw_only=True)
class Smoothing(LossMethod):
    share: float = 0.2

    def per_token(self, losses: Tensor, tokens: Tokens, context: Context) -> Tensor:
        uniform_loss = -tokens.logits.log_softmax(-1).mean(-1)
        return torch.where(tokens.counted, (1 - self.share) * losses + self.share * uniform_loss, losses)


@dataclasses.dataclass(kw_only=True)
class Prompts(LossMethod):
    reads_prompts = True

    def per_token(self, losses: Tensor, tokens: Tokens, context: Context) -> Tensor:
        return losses + 0.5 * F.cross_entropy(tokens.logits, tokens.targets, reduction="none") * ~tokens.counted


def close(found: Tensor, wanted: Tensor) -> None:
    """transformers computes the task loss in float32 whatever the model's dtype."""
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-6, atol=0)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def explicit(model: nn.Module, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities (N, V), next tokens (N,), rows that carry loss (N,)."""
    logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], use_cache=False).logits
    logp = logits[:, :-1].reshape(-1, VOCABULARY).log_softmax(-1)
    return logp, rows["input_ids"][:, 1:].reshape(-1), (rows["labels"][:, 1:] != -100).reshape(-1)


def test_a_loss_by_token_equals_label_smoothing_of_torch() -> None:
    rows, model = batch(), llama().double()
    logp, targets, counted = explicit(model, rows)
    wanted = F.cross_entropy(logp[counted], targets[counted], label_smoothing=0.2)
    expected = gradients(model, wanted)
    with infosteer.steer(model, [Smoothing()]) as session:
        loss = session.loss(model(**rows, use_cache=False).loss)
        close(loss, wanted)
        found = gradients(model, loss)
        assert session.metrics()["infosteer/loss_change"] != 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_its_strength_scales_the_change_alone(strength: float) -> None:
    rows, model = batch(), llama().double()
    logp, targets, counted = explicit(model, rows)
    plain = F.cross_entropy(logp[counted], targets[counted])
    smooth = F.cross_entropy(logp[counted], targets[counted], label_smoothing=0.2)
    with infosteer.steer(model, [Smoothing(strength=strength)]) as session:
        loss = session.loss(model(**rows, use_cache=False).loss)
    close(loss, plain + strength * (smooth - plain))


def test_prompts_are_read_on_request_and_padding_never() -> None:
    rows, model = batch(), llama().double()
    logp, targets, counted = explicit(model, rows)
    inside = ((rows["attention_mask"][:, 1:] != 0) & (rows["attention_mask"][:, :-1] != 0)).reshape(-1)
    nll = -logp.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    wanted = (nll[counted].sum() + 0.5 * nll[inside & ~counted].sum()) / counted.sum()
    with infosteer.steer(model, [Prompts()]) as session:
        close(session.loss(model(**rows, use_cache=False).loss), wanted)


def test_many_rows_are_done_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = batch()

    def once() -> tuple[Tensor, dict[str, Tensor]]:
        model = llama()
        with infosteer.steer(model, [Smoothing(), Prompts()]) as session:
            loss = session.loss(model(**rows, use_cache=False).loss)
            return loss, gradients(model, loss)

    whole = once()
    monkeypatch.setattr("infosteer.core.token_losses.CHUNK_ROWS", 5)
    parts = once()
    torch.testing.assert_close(whole[0], parts[0])
    for name, value in whole[1].items():
        torch.testing.assert_close(parts[1][name], value)


def test_losses_need_labels_and_must_change_something() -> None:
    rows, model = batch(), llama()
    with infosteer.steer(model, [Smoothing()]) as session:
        logits = model(input_ids=rows["input_ids"], use_cache=False).logits
        with pytest.raises(AttachError, match="labels"):
            session.loss(logits.mean())
    with infosteer.steer(model, [Smoothing(share=0.0)]) as session:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        session.loss(model(**rows, use_cache=False).loss).backward()
        with pytest.raises(NoEffectError, match="no token's loss"):
            optimizer.step()


def test_next_tokens_stop_at_the_borders_of_packed_sequences() -> None:
    model, seen = llama(), {}

    class Spy(Smoothing):
        def per_token(self, losses: Tensor, tokens: Tokens, context: Context) -> Tensor:
            seen["targets"], seen["counted"] = tokens.targets, tokens.counted
            return losses * 2

    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    with infosteer.steer(model, [Spy()]) as session:
        labels = torch.tensor([[-100, 6, 7, -100, 9, 10]])
        session.loss(model(input_ids=ids, position_ids=positions, labels=labels, use_cache=False).loss)
        assert session.calls.last is not None
        following, known = next_tokens(session.calls.last)
    assert seen["targets"].tolist() == [6, 7, 9, 10]
    assert known.tolist() == [True, True, False, True, True, False]
    assert following[known].tolist() == [6, 7, 9, 10]


@dataclasses.dataclass(kw_only=True)
class Flip(InterventionMethod):
    """Changes the sign of about half of the coefficients, at random; optionally behind a shield."""

    random = True
    shielded: bool = False

    def edit(self, k: Tensor, context: Context) -> Tensor:
        assert context.keys is not None
        chosen = uniform(context.keys, k.shape[-1], seed=context.layer) < 0.5
        return torch.where(chosen.reshape(k.shape), -k, k)

    @property
    def shields(self) -> bool:
        return self.shielded


def test_random_edits_follow_the_text_and_the_step() -> None:
    rows, seen = batch(), []
    model = llama()

    def watch(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].detach().sign())

    session = infosteer.steer(model, [Flip()])
    locate(model)[0].module.register_forward_pre_hook(watch)
    order = torch.tensor([2, 0, 3, 1])
    model(**rows, use_cache=False)
    model(**{name: value[order] for name, value in rows.items()}, use_cache=False)
    session.step = 1
    model(**rows, use_cache=False)
    real = rows["attention_mask"] != 0
    assert torch.equal(seen[0][order][real[order]], seen[1][real[order]])
    assert not torch.equal(seen[0][real], seen[2][real])
    session.remove()


def test_a_shield_lets_the_edit_through_and_holds_its_memory_vectors() -> None:
    rows, model = batch(), llama().double()
    site = locate(model)[0]
    with infosteer.steer(model, [Flip(layers=[0])]) as session:
        free = model(**rows, use_cache=False)
        wanted = gradients(model, session.loss(free.loss))
    with infosteer.steer(model, [Flip(layers=[0], shielded=True)]) as session:
        chosen: list[Tensor] = []
        site.module.register_forward_pre_hook(lambda module, args: chosen.append(args[0].detach() != 0))
        shielded = model(**rows, use_cache=False)
        found = gradients(model, session.loss(shielded.loss))
    torch.testing.assert_close(shielded.logits, free.logits)
    for name, value in wanted.items():
        if name != f"{site.name}.weight":
            torch.testing.assert_close(found[name], value)
    # by hand: dL/dv_i sums k_i dL/dy over the rows whose k_i was left alone
    outputs: list[Tensor] = []
    with infosteer.steer(model, [Flip(layers=[0])]) as session:
        inputs: list[Tensor] = []
        hook = site.module.register_forward_hook(
            lambda m, args, out: (inputs.append(args[0]), outputs.append(out), out.retain_grad())[-1]
        )
        session.loss(model(**rows, use_cache=False).loss).backward()
        hook.remove()
    kept = (inputs[0].detach() * chosen[0]).reshape(-1, site.width)
    assert outputs[0].grad is not None
    by_hand = kept.T @ outputs[0].grad.reshape(-1, site.hidden)
    torch.testing.assert_close(found[f"{site.name}.weight"].T, by_hand)
    assert not torch.allclose(by_hand, wanted[f"{site.name}.weight"].T)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_shield_survives_checkpointing(reentrant: bool) -> None:
    def once(model: nn.Module) -> dict[str, Tensor]:
        with infosteer.steer(model, [Flip(shielded=True)]) as session:
            return gradients(model, session.loss(model(**batch(), use_cache=False).loss))

    wanted, model = once(llama()), llama()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    found = once(model)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_scope_evaluation_leaves_training_alone_and_is_no_error() -> None:
    rows, model, bare = batch(), llama(), llama()
    with infosteer.steer(model, [Flip(scope="evaluation")]):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = model(**rows, use_cache=False).loss
        assert torch.equal(loss, bare(**rows, use_cache=False).loss)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            steered = model.eval()(**rows).logits
    assert not torch.allclose(steered, model(**rows).logits)


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


@dataclasses.dataclass(kw_only=True)
class Twice(DataMethod):
    def transform(self, rows: Sequence[Row], context: DataContext) -> list[Row]:
        return [*rows, *rows[: round(context.strength * len(rows))]]


def test_data_methods_act_before_the_trainer_and_are_refused_after() -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    assert infosteer.transform_rows(rows, [Twice()]) == rows * 2
    assert infosteer.transform_rows(rows, [Twice(strength=0.5)]) == [*rows, rows[0]]
    assert infosteer.transform_rows(rows, [Twice(strength=0)]) == rows
    with pytest.raises(ConfigError, match="made once"):
        infosteer.transform_rows(rows, [Twice(strength={"points": [[0, 0.5], [10, 1.0]]})])
    with pytest.raises(AttachError, match="transform_rows"):
        infosteer.steer(llama(), [Twice()])
    assert isinstance(infosteer.steer(llama(), [Twice(strength=0)]), Session)
