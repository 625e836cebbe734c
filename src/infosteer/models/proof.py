"""Proof that every site fires, and that what it is given is what counts.

Legend: B batch, T time, M memories (FFN width).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from infosteer.errors import SiteError
from infosteer.models.decoder import text_config
from infosteer.models.sites import Site, memory_vectors
from infosteer.models.walk import root_model

_CAUSES = (
    "likely causes: a fused feed-forward kernel (Liger, Unsloth, a hub kernel) that bypasses the module, a model "
    "compiled before, or model code that reads the weights itself; load the model without it, and attach before compile"
)
_LARGEST_BUFFER = 2**24  # entries
_PACKING = ("Linear4bit", "LinearNF4", "LinearFP4")


def prove(model: nn.Module, sites: Sequence[Site]) -> None:
    """Check by two tiny forwards that each site fires once a call with M floats, and that replacing k changes y.

    The forwards run on 1 x 2 token ids, in eval mode, without gradients, eagerly and without a cache. Nothing stays
    changed: training flags, buffers, attributes, hooks and random states are restored one by one.

    Raises:
        SiteError: a site does not fire exactly once, has another width or dtype, or does not govern its output; the
            model is on the meta device; its forward fails.
    """
    if not sites:
        raise SiteError("there is no site to prove", got="an empty list", expected="at least one site")
    _refuse_meta(model, sites)
    inputs = _dummy_inputs(model)
    with _untouched(model), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for module in model.modules():
            # Not .eval(): some libraries do more than set the flag there. bitsandbytes packs weights for inference when
            # it is evaluated on a CPU, for good, and then gives no gradient.
            module.training = type(module).__name__ in _PACKING
        plain = _record(model, sites, inputs, replace=False)
        _check_firings(sites, plain)
        edited = _record(model, sites, inputs, replace=True)
    for site, (_, before), (_, after) in zip(sites, plain, edited, strict=True):
        if len(after) != 1 or (torch.equal(before[0], after[0]) and not _all_zero(site)):
            raise _failure("replacing the key coefficients does not change the output", [(site, "unchanged output")])


Firing = tuple[list[torch.Tensor], list[torch.Tensor]]  # what entered, what came out


def _record(model: nn.Module, sites: Sequence[Site], inputs: dict[str, Any], *, replace: bool) -> list[Firing]:
    firings: list[Firing] = [([], []) for _ in sites]
    handles = []
    try:
        for site, (entered, left) in zip(sites, firings, strict=True):

            def before(_: nn.Module, args: tuple[Any, ...], entered: list[torch.Tensor] = entered) -> Any:
                k = args[0] if args else torch.empty(0)
                entered.append(k)
                if not replace or not k.is_floating_point() or not k.numel():
                    return None
                # Larger than any entry and of the opposite sign: no rounding can hide it.
                limit = (k.abs().amax() + 1).clamp(max=torch.finfo(k.dtype).max)
                return (torch.where(k < 0, limit, -limit), *args[1:])

            def after(_: nn.Module, args: Any, output: Any, left: list[torch.Tensor] = left) -> None:
                # A copy, because some families add the residual in place (Falcon).
                left.append((output[0] if isinstance(output, tuple) else output).clone())

            handles += [site.module.register_forward_pre_hook(before), site.module.register_forward_hook(after)]
        model(**inputs)
    except SiteError:
        raise
    except Exception as error:
        raise SiteError(
            f"the model failed on a trial forward of two tokens: {error}",
            where=type(model).__name__,
            got=type(error).__name__,
            expected="a forward that accepts input_ids and attention_mask",
            fix="make the model run on text alone first",
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return firings


def _check_firings(sites: Sequence[Site], firings: list[Firing]) -> None:
    bad: list[tuple[Site, str]] = []
    for site, (entered, _) in zip(sites, firings, strict=True):
        if len(entered) != 1:
            bad.append((site, f"fired {len(entered)} times"))
        elif entered[0].shape[-1] != site.width or not entered[0].is_floating_point():
            bad.append((site, f"saw shape {tuple(entered[0].shape)} of {entered[0].dtype}"))
    if bad:
        raise _failure(f"{len(bad)} of {len(sites)} sites do not fire once with their key coefficients", bad)


def _failure(what: str, bad: list[tuple[Site, str]]) -> SiteError:
    shown = "; ".join(
        f"{site.name} (inside {site.enclosing[1]._get_name()}) {seen}, M = {site.width}" for site, seen in bad[:4]
    )
    return SiteError(
        what,
        where=", ".join(site.name for site, _ in bad),
        got=shown + ("; ..." if len(bad) > 4 else ""),
        expected="each down projection is called once a forward, with M floating-point coefficients a token",
        fix=_CAUSES,
    )


def _all_zero(site: Site) -> bool:
    """Whether W_down is zero, so that no coefficient can matter (a fresh model that starts its FFNs at zero)."""
    try:
        return not bool(memory_vectors(site).any())
    except SiteError:
        return False


def _refuse_meta(model: nn.Module, sites: Sequence[Site]) -> None:
    offloaded = any(hasattr(module, "_hf_hook") for module in model.modules())
    on_meta = [site.name for site in sites if any(p.is_meta for p in site.module.parameters())]
    if on_meta and not offloaded:
        raise SiteError(
            "the model is on the meta device: it has no weights, so its sites cannot be proven",
            where=", ".join(on_meta[:4]),
            got="parameters on the meta device",
            expected="a model with weights",
            fix="load the weights first (from_pretrained without a meta-device context)",
        )


def _dummy_inputs(model: nn.Module) -> dict[str, Any]:
    """Two ordinary token ids, shape (1, 2), on the device of the embedding."""
    found = root_model(model)
    if found is None:
        raise SiteError("no transformers model was found", got=type(model).__name__, expected="a PreTrainedModel")
    root = found[1]
    embedding = root.get_input_embeddings()
    device = next((p.device for p in embedding.parameters() if not p.is_meta), torch.device("cpu"))
    configs = (root.config, text_config(root))
    special = {
        value
        for config in configs
        for key, value in config.to_dict().items()
        if key.endswith(("token_id", "token_index")) and isinstance(value, int)
    }
    vocabulary = int(getattr(configs[1], "vocab_size", None) or 2)
    ordinary = [token for token in range(min(vocabulary, len(special) + 2)) if token not in special]
    tokens = [*ordinary, 0, 0][:2]
    input_ids = torch.tensor([tokens], device=device)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "use_cache": False}


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Restore every random state and every attribute, buffer and flag of every module."""
    modules = list(model.modules())
    flags = [module.training for module in modules]
    # Models remember things in plain attributes (Qwen2-VL its rope deltas). FSDP1 too, but it must not be rolled back:
    # it sets itself up in its first forward.
    restore_attributes = not any(type(module).__name__ == "FullyShardedDataParallel" for module in modules)
    attributes = [dict(vars(module)) for module in modules]
    buffers = [{name: (buffer, _copy(buffer)) for name, buffer in module._buffers.items()} for module in modules]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module in modules:
            if isinstance(module, FSDPModule):
                # The root of FSDP2 stays whole after a forward; an optimizer made then would hold what no step trains.
                module.reshard()
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for module, flag, before, held in zip(modules, flags, attributes, buffers, strict=True):
            module.training = flag
            if restore_attributes:
                for name in [name for name in vars(module) if name not in before]:
                    del vars(module)[name]
                vars(module).update(before)
            for name in [name for name in module._buffers if name not in held]:
                del module._buffers[name]
            for name, (buffer, copy) in held.items():
                module._buffers[name] = buffer
                if buffer is not None and copy is not None and not torch.equal(buffer, copy):
                    with torch.no_grad():
                        buffer.copy_(copy)


def _copy(buffer: torch.Tensor | None) -> torch.Tensor | None:
    """A copy to restore from; packed weights of quantised models are buffers too, and too large to copy."""
    small = buffer is not None and not buffer.is_meta and buffer.numel() <= _LARGEST_BUFFER
    return buffer.clone() if small and buffer is not None else None
