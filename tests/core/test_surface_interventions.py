"""The seam of interventions: random edits, shields of memory vectors, and the scope of evaluation."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.methods.steered import batch, gradients, llama
from torch import Tensor, nn

import infosteer
from infosteer.core.contract import Context
from infosteer.core.surfaces import InterventionMethod
from infosteer.models import locate
from infosteer.ops.counter import uniform


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
