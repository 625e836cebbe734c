"""Evaluation: sets, greedy decoding, likelihoods, answer extraction, contamination, intervals and paired tests.

Names are loaded on first use: to judge scores that are there already needs no torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infosteer.evaluation.contamination import Contamination as Contamination
    from infosteer.evaluation.contamination import check as check_contamination  # noqa: F401
    from infosteer.evaluation.evaluate import evaluate as evaluate
    from infosteer.evaluation.evaluate import metrics as metrics
    from infosteer.evaluation.evaluate import per_example as per_example
    from infosteer.evaluation.records import analyse as analyse
    from infosteer.evaluation.set_result import SetResult as SetResult
    from infosteer.evaluation.sets import EvalSet as EvalSet
    from infosteer.evaluation.sets import load_set as load_set
    from infosteer.evaluation.stored import stored_facts as stored_facts
    from infosteer.evaluation.stored import utilisation as utilisation

_HOMES = {
    "Contamination": "contamination.Contamination",
    "EvalSet": "sets.EvalSet",
    "SetResult": "set_result.SetResult",
    "analyse": "records.analyse",
    "check_contamination": "contamination.check",
    "evaluate": "evaluate.evaluate",
    "load_set": "sets.load_set",
    "metrics": "evaluate.metrics",
    "per_example": "evaluate.per_example",
    "stored_facts": "stored.stored_facts",
    "utilisation": "stored.utilisation",
}

__all__ = sorted(_HOMES)


class _Package(ModuleType):
    """Keeps ``evaluate`` the function: when a module of that name is loaded, Python would put it in the same place."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.evaluate if name == "evaluate" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'infosteer.evaluation' has no attribute {name!r}")
    module, _, own = _HOMES[name].partition(".")
    value = getattr(importlib.import_module(f"infosteer.evaluation.{module}"), own)
    setattr(sys.modules[__name__], name, value)
    return value
