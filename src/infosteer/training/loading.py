"""Base models and tokenizers from a folder, the hub, or the package itself; safetensors only, no remote code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from infosteer.errors import ConfigError, RunError

EMBEDDED = "embedded"


def resolve_model(model: str) -> str:
    """A folder or hub id that transformers can load; ``embedded`` and ``embedded:reasoning`` are inside the package.

    Raises: ConfigError for a path that does not exist or a folder without a model.
    """
    kind, colon, half = model.partition(":")
    if kind == EMBEDDED:
        from infosteer.lab import embedded_base

        return str(embedded_base(half) if colon else embedded_base())
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
            raise ConfigError(
                "This folder holds no model.", where=f"model: {model}", got="no config.json", expected="a saved model"
            )
        return str(path)
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model or path.exists()
    if looks_like_path or not model:
        raise ConfigError(
            "There is no such model folder.",
            where=f"model: {model}",
            expected="`embedded`, `embedded:reasoning`, a folder with config.json, or a hub id like Qwen/Qwen2.5-1.5B",
        )
    return model


def load_tokenizer(model: str) -> Any:
    """The model's tokenizer, with a padding token (the end token where the tokenizer has none).

    Raises: ConfigError or RunError when it is missing or unreadable.
    """
    from transformers import AutoTokenizer

    source = resolve_model(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, local_files_only=Path(source).is_dir()
        )
    except Exception as error:  # transformers, tokenizers and the hub raise many kinds
        raise _load_error(error, model, "tokenizer") from error
    if tokenizer.eos_token is None:
        raise ConfigError(
            "The tokenizer has no end-of-text token, so answers would never end.", where=f"tokenizer of {model}"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(model: str, *, dtype: str = "float32") -> Any:
    """The causal language model, its weights read from safetensors in the given type (``auto``: as they are saved).

    Raises: ConfigError or RunError when it is missing or unreadable.
    """
    import torch
    from transformers import AutoModelForCausalLM

    source = resolve_model(model)
    try:
        return AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=Path(source).is_dir(),
        )
    except Exception as error:
        raise _load_error(error, model, "model") from error


def merge_adapters(model: Any) -> Any:
    """The model with what its adapters learned written into the weights that they adapt, and no adapters left.

    Works on PEFT's wrappers and on adapters that transformers loaded from a folder; a model without any comes back as
    it is.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    if isinstance(model, PeftModel):
        return model.merge_and_unload()
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()  # type: ignore[operator]
            model.set_submodule(name, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[module.active_adapters[0]])
    return model


def load_skeleton(model: str) -> Any:
    """The model's modules without weights (on the meta device), from its config alone: quick for any size.

    Raises: ConfigError or RunError when the config is missing or unreadable.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    source = resolve_model(model)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=Path(source).is_dir())
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise _load_error(error, model, "model's config") from error


def _load_error(error: Exception, model: str, what: str) -> Exception:
    """A short user-facing error for whatever transformers raised while loading."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    full = str(error)
    where = f"model: {model}"
    if isinstance(error, MemoryError):
        return error
    if "trust_remote_code" in full or "custom code" in full:
        return ConfigError(
            f"This {what} needs Python code from its repository, which is never run.",
            where=where,
            fix="use a model that transformers itself knows",
        )
    if Path(resolve_model(model)).is_dir():
        fix = "save it again with save_pretrained()"
        if "safetensors" in full or "pytorch_model" in full:
            fix = "convert the weights to safetensors; pickled weights are never read"
        return RunError(f"The {what} cannot be read.", where=where, got=f"{type(error).__name__}: {text}", fix=fix)
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    return ConfigError(
        f"The {what} cannot be had from the hub" + (" (offline mode is on)." if offline else "."),
        where=where,
        got=f"{type(error).__name__}: {text}",
        expected="a hub id in the local cache or within reach, or a folder",
        fix="download it first, give a folder with model=DIR, or use model=embedded",
    )
