"""Activation checkpointing with several forwards in one loss: every recompute belongs to its own forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import infosteer
from infosteer.methods.interventions.key_random import KeyRandom

METHODS = {
    "uncertain": infosteer.Intervention(fraction=0.3, uncertain_from=2.6),
    "answer": infosteer.Intervention(fraction=0.3, tokens="answer"),
    "random": KeyRandom(fraction=0.3),
    "entropy": infosteer.EntropyRegularization(weight=0.1),
}


def batch(seed: int) -> dict[str, Tensor]:
    ids = torch.randint(1, 31, (4, 9), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[:, : 2 + 2 * seed] = -100
    return {"input_ids": ids, "labels": labels}


def gradients(method: Any, *, checkpoints: bool, coupled: bool, backwards: int = 1) -> dict[str, Tensor]:
    """Of ``l_1 + 2 l_2``, two forwards of as many rows; in one backward, or in one for each."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=31, initializer_range=0.3)).train()
    with infosteer.steer(model, [method]) as session:
        if checkpoints:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        losses = [(1 + seed) * model(**batch(seed), use_cache=False).loss for seed in (0, 1)]
        whole = losses if backwards == 2 else [torch.stack(losses).sum()]
        for loss in whole:
            (session.loss(loss) if coupled else loss).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("coupled", [True, False], ids=["session.loss", "plain backward"])
@pytest.mark.parametrize("backwards", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_every_recompute_edits_the_rows_of_its_own_forward(name: str, backwards: int, coupled: bool) -> None:
    if name == "entropy" and not coupled:
        pytest.skip("a penalty needs session.loss")
    wanted = gradients(METHODS[name], checkpoints=False, coupled=coupled, backwards=backwards)
    found = gradients(METHODS[name], checkpoints=True, coupled=coupled, backwards=backwards)
    for parameter, gradient in wanted.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-5, atol=1e-7, msg=parameter)
