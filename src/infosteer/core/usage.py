"""Reading a calibration text with the model as it is: what it shows of the key coefficients, and how much it uses each
memory.

Formula of the use: ``u_i = mean over sequences of mean over their tokens of |k_i|`` (Kim et al., arXiv 2410.01380,
section 3: the average coefficients that knowledge entropy and resuscitation are computed from), in float64.

Shape letters: B sequences, T time, N = B * T rows, M memories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.errors import ConfigError
from infosteer.models import Site


def show_text(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Iterable[Mapping[str, Any]] | None,
    begin: Callable[[Tensor, Tensor], None],
    see: Callable[[int, Tensor, Tensor], None],
) -> None:
    """Runs batches through the model in evaluation mode, without gradient, and shows what passes its sites.

    Args:
        batches: model inputs with ``input_ids`` (B, T) and, where rows are padded, ``attention_mask``.
        begin: ``begin(ids, kept)`` before each batch, both (B, T), kept 1 for tokens and 0 for padding, fp32.
        see: ``see(layer, k, kept)`` at each site, k (N, M), kept (N,).

    Raises:
        ConfigError: no calibration text, or one without a single token.
    """
    if batches is None:
        raise ConfigError(
            "a method needs a calibration text to find out which memories are in use",
            where="calibration",
            expected="a list of texts or of batches of input_ids",
            fix="pass calibration= to steer or attach; in a recipe set data.calibration, e.g. lab:facts/texts",
        )
    kept: Tensor = torch.empty(0)
    empty = True

    def reader(layer: int) -> Any:
        def read(module: nn.Module, args: tuple[Any, ...]) -> None:
            k: Tensor = args[0].detach()
            see(layer, k.reshape(kept.numel(), -1), kept.reshape(-1).to(k.device))

        return read

    training = model.training
    hooks = [site.module.register_forward_pre_hook(reader(site.layer)) for site in sites]
    try:
        model.eval()
        device = next(model.parameters()).device
        for batch in batches:
            ids = torch.as_tensor(batch["input_ids"]).to(device)
            mask = torch.as_tensor(batch.get("attention_mask", torch.ones_like(ids))).to(device)
            kept = (mask != 0).float()
            empty = empty and not bool(kept.any())
            begin(ids, kept)
            with torch.no_grad():
                model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    if empty:
        raise ConfigError("the calibration text holds no token", where="calibration")


def memory_usage(
    model: nn.Module, sites: Sequence[Site], batches: Iterable[Mapping[str, Any]] | None
) -> dict[int, Tensor]:
    """Mean |k| of every memory, layer -> (M,) float64 on the CPU, with the model as it is now in evaluation mode.

    Args:
        batches: as :func:`show_text` takes them.

    Raises:
        ConfigError: no calibration text, or one without a single token.
    """
    sums = {site.layer: torch.zeros(site.width, dtype=torch.float64) for site in sites}
    share: Tensor = torch.empty(0)
    sequences = 0

    def begin(ids: Tensor, kept: Tensor) -> None:
        nonlocal share, sequences
        lengths = kept.double().sum(-1, keepdim=True)
        share = (kept.double() / lengths.clamp(min=1)).reshape(-1)
        sequences += int((lengths > 0).sum())

    def see(layer: int, k: Tensor, kept: Tensor) -> None:
        sums[layer] += (share.to(k.device) @ k.abs().double()).cpu()

    show_text(model, sites, batches, begin, see)
    return {layer: total / sequences for layer, total in sums.items()}
