"""lm-evaluation-harness and InfoSteer: its tasks through this package's engine, steered models as one of its models.

Importing this package makes the model ``infosteer`` known to lm-eval, where that is installed (the extra ``eval``).
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from infosteer.errors import ConfigError

if TYPE_CHECKING:
    from infosteer.evaluation.harness.lm import SteeredLM as SteeredLM
    from infosteer.evaluation.harness.run import run_harness as run_harness

__all__ = ["SteeredLM", "register", "run_harness"]

MODEL = "infosteer"
_HOMES = {"SteeredLM": "lm", "run_harness": "run"}


def register() -> None:
    """Make ``--model infosteer`` known to lm-eval; lm-eval 0.4 does not look for entry points.

    Raises:
        ConfigError: lm-eval is not installed.
    """
    require()
    import lm_eval.models  # noqa: F401 - first, since lm-eval lists its own models only while the registry is empty
    from lm_eval.api.registry import model_registry

    if MODEL not in model_registry:
        model_registry.register(MODEL, target=f"{__name__}.lm:SteeredLM")


def require() -> None:
    """Raises: ConfigError when lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            "lm-evaluation-harness is not installed",
            expected="the package lm_eval",
            fix="pip install 'infosteer[eval]'",
        )


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


if importlib.util.find_spec("lm_eval") is not None:
    register()
