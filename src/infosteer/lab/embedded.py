"""Where the embedded base model lies."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from infosteer.errors import RunError


def embedded_base() -> Path:
    """The folder of the base model that the package carries; transformers' ``from_pretrained`` loads it.

    Raises:
        RunError: the package was built or unpacked without it.
    """
    folder = Path(str(resources.files("infosteer.lab") / "base"))
    if not (folder / "model.safetensors").is_file():
        raise RunError(
            "The embedded base model is missing from this installation.",
            where=str(folder),
            expected="config.json, model.safetensors and the tokenizer",
            fix="install the package again, or make a base with `infosteer run lab-pretrain`",
        )
    return folder
