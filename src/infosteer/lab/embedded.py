"""Where the embedded base models lie."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from infosteer.errors import ConfigError, RunError

BASES = {"facts": ("base", "lab-pretrain"), "reasoning": ("reasoning_base", "reasoning-pretrain")}  # folder, recipe


def embedded_base(half: str = "facts") -> Path:
    """The folder of a base model that the package carries; transformers' ``from_pretrained`` loads it.

    Args:
        half: the half of the lab that it knows, "facts" or "reasoning".

    Raises:
        ConfigError: there is no such half.
        RunError: the package was built or unpacked without it.
    """
    if half not in BASES:
        raise ConfigError("There is no such embedded base.", where="model", got=half, expected=" or ".join(BASES))
    name, recipe = BASES[half]
    folder = Path(str(resources.files("infosteer.lab") / name))
    if not (folder / "model.safetensors").is_file():
        raise RunError(
            "The embedded base model is missing from this installation.",
            where=str(folder),
            expected="config.json, model.safetensors and the tokenizer",
            fix=f"install the package again, or make a base with `infosteer run {recipe}`",
        )
    return folder
