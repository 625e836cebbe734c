"""How much a text uses each memory: mean magnitude of its key coefficient.

Formula: ``u_i = mean over sequences of mean over their tokens of |k_i|`` (Kim et al., arXiv 2410.01380, section 3: the
average coefficients that knowledge entropy and resuscitation are computed from), in float64.

Shape letters: B sequences, T time, M memories.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.errors import ConfigError
from infosteer.models import Site


def memory_usage(
    model: nn.Module, sites: Sequence[Site], batches: Iterable[Mapping[str, Any]] | None
) -> dict[int, Tensor]:
    """Mean |k| of every memory, layer -> (M,) float64 on the CPU, with the model as it is now in evaluation mode.

    Args:
        batches: model inputs with ``input_ids`` (B, T) and, where rows are padded, ``attention_mask``.

    Raises:
        ConfigError: no calibration text, or one without a single token.
    """
    if batches is None:
        raise ConfigError(
            "a method needs a calibration text to find out which memories are in use",
            where="calibration",
            expected="a list of texts or of batches of input_ids",
            fix="pass calibration= to steer or attach; in a recipe set data.calibration, e.g. lab:facts/biographies",
        )
    sums = {site.layer: torch.zeros(site.width, dtype=torch.float64) for site in sites}
    weight: Tensor = torch.empty(0)
    sequences = 0

    def reader(layer: int) -> Any:
        def read(module: nn.Module, args: tuple[Any, ...]) -> None:
            k = args[0].detach().reshape(weight.numel(), -1).abs().double()
            sums[layer] += (weight.reshape(-1).to(k.device) @ k).cpu()

        return read

    training = model.training
    hooks = [site.module.register_forward_pre_hook(reader(site.layer)) for site in sites]
    try:
        model.eval()
        device = next(model.parameters()).device
        for batch in batches:
            ids = torch.as_tensor(batch["input_ids"]).to(device)
            mask = torch.as_tensor(batch.get("attention_mask", torch.ones_like(ids))).to(device)
            kept = (mask != 0).double()
            lengths = kept.sum(-1, keepdim=True)
            weight = torch.where(lengths > 0, kept / lengths.clamp(min=1), 0.0)
            sequences += int((lengths > 0).sum())
            with torch.no_grad():
                model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    if not sequences:
        raise ConfigError("the calibration text holds no token", where="calibration")
    return {layer: total / sequences for layer, total in sums.items()}
