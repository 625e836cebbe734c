"""What a model is, as a short text: equal for equal weights, config and tokenizer, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from infosteer.evaluation.decode import end_ids

_UNSEEN = ("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype")  # of a config: no matter


def fingerprint_of(model: Any, tokenizer: Any, methods: Sequence[Any] = ()) -> str:
    """64 bits of SHA-256 over parameters, buffers, configs, tokenizer and the methods that act in evaluation.

    The weights are read as they are held, in their number type; adapters are weights.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    adapters = {name: config.to_dict() for name, config in getattr(model, "peft_config", {}).items()}
    ends = end_ids(model.generation_config, tokenizer)  # of that config, all that decoding here goes by
    configs = [_config(model.config), ends, adapters]  # an adapter's scale stands in no weight
    facts = [configs, tokenizer_facts(tokenizer), list(methods)]
    digest.update(json.dumps(facts, sort_keys=True, default=_plain).encode())
    return digest.hexdigest()[:16]


def fingerprint_of_files(folder: Path) -> str:
    """64 bits of SHA-256 over a saved model's weights, configs and tokenizer, for engines that load it themselves."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.model")]):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while piece := file.read(2**24):
                digest.update(piece)
    return digest.hexdigest()[:16]


def tokenizer_facts(tokenizer: Any) -> list[Any]:
    """All that decides how texts become tokens and tokens become texts, as plain data."""
    core = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else json.dumps(tokenizer.get_vocab())
    return [hashlib.sha256(core.encode()).hexdigest(), tokenizer.chat_template, tokenizer.special_tokens_map]


def _config(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if key not in _UNSEEN}


def _plain(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, set) else str(value)
