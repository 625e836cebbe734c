"""What steering costs by other ways of doing the same, beside ours and the plain trainer.

    python benchmarks/rivals.py [--rounds 40] [--json]

- ``hooks``: the formulas written down in forward hooks, as one does it at first: coefficients copied to float32,
  ``kthvalue``, a comparison, a mean and ``torch.where``; the entropy left to autograd, its mean added to the loss.
- ``pyvene``: the same edit as an intervention of pyvene (the library under pyreft) at the input of the down projection.
  The arm is left out where pyvene is not installed (``pip install pyvene``).

Shapes, interleaving and memory are those of ``benchmarks/overhead.py``, which reads the same options.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util

import torch
from overhead import ARMS, Builder, Step, build_batch, main
from torch import Tensor
from transformers import Qwen2ForCausalLM

FRACTION, WEIGHT = 0.01, 0.01


def lift(k: Tensor) -> Tensor:
    """The smallest entries by magnitude overwritten by the mean magnitude with their sign."""
    wide = k.float()
    size = wide.abs()
    threshold = size.kthvalue(max(1, round(FRACTION * k.shape[-1])), dim=-1, keepdim=True).values
    target = size.mean(dim=-1, keepdim=True)
    return torch.where(size <= threshold, torch.where(wide < 0, -target, target), wide).to(k.dtype)


def entropy(k: Tensor) -> Tensor:
    """Entropy of every row's shares of magnitude."""
    share = k.float().abs()
    share = share / share.sum(dim=-1, keepdim=True)
    return -(share * (share + 1e-12).log()).sum(dim=-1)


def by_hooks(edits: bool, rewards: bool, model: Qwen2ForCausalLM, options: argparse.Namespace) -> Step:
    """A step whose model has the formulas in its hooks."""
    values: list[Tensor] = []

    def hook(module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        k = lift(args[0]) if edits else args[0]
        if rewards:
            values.append(entropy(k).mean())
        return (k, *args[1:])

    for layer in model.model.layers:
        layer.mlp.down_proj.register_forward_pre_hook(hook)
    inputs = build_batch(options)

    def step() -> None:
        values.clear()
        model.zero_grad(set_to_none=True)
        loss = model(**inputs).loss
        if rewards:
            loss = loss - WEIGHT * torch.stack(values).sum()
        loss.backward()

    return step


def by_pyvene(model: Qwen2ForCausalLM, options: argparse.Namespace) -> Step:
    """A step through pyvene's wrapper."""
    import pyvene

    class Lift(pyvene.ConstantSourceIntervention):
        def __init__(self, **settings: object) -> None:
            super().__init__(**settings, keep_last_dim=True)

        def forward(self, base: Tensor, source: object = None, subspaces: object = None, **_: object) -> Tensor:
            return lift(base)

    places = [
        {"component": f"model.layers[{index}].mlp.down_proj.input", "intervention": Lift(embed_dim=options.width)}
        for index in range(options.layers)
    ]
    wrapped = pyvene.IntervenableModel(pyvene.IntervenableConfig(places), model=model)
    wrapped.enable_model_gradients()
    model.train()
    inputs = build_batch(options)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        wrapped(dict(inputs))[1].loss.backward()

    return step


def rivals() -> dict[str, Builder]:
    """Our arms, then the others."""
    arms = {name: build for name, build in ARMS.items() if name != "intervention, half"}
    arms |= {
        "hooks: intervention": functools.partial(by_hooks, True, False),
        "hooks: regularisation": functools.partial(by_hooks, False, True),
        "hooks: both": functools.partial(by_hooks, True, True),
    }
    if importlib.util.find_spec("pyvene"):
        arms["pyvene: intervention"] = by_pyvene
    return arms


if __name__ == "__main__":
    main(rivals(), __file__, __doc__)
