"""InfoSteer: make post-training use what pretraining stored, and show whether it did.

Names are loaded on first use, so that importing the package (and the command line's help) needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infosteer import errors as errors
    from infosteer import functional as functional
    from infosteer.core.registry import list_methods as list_methods
    from infosteer.core.registry import method_info as method_info
    from infosteer.core.session import Session as Session
    from infosteer.core.steer import steer as steer
    from infosteer.methods.data.noisy_labels import NoisyLabels as NoisyLabels
    from infosteer.methods.data.replay import Replay as Replay
    from infosteer.methods.interventions.key_damp import KeyDamp as KeyDamp
    from infosteer.methods.interventions.key_dropout import KeyDropout as KeyDropout
    from infosteer.methods.interventions.key_lift import Intervention as Intervention
    from infosteer.methods.interventions.key_noise import KeyNoise as KeyNoise
    from infosteer.methods.interventions.key_random import KeyRandom as KeyRandom
    from infosteer.methods.losses.label_smoothing import LabelSmoothing as LabelSmoothing
    from infosteer.methods.losses.output_entropy import OutputEntropy as OutputEntropy
    from infosteer.methods.params.freeze import Freeze as Freeze
    from infosteer.methods.params.protect_memory import ProtectMemory as ProtectMemory
    from infosteer.methods.params.protect_random import ProtectRandom as ProtectRandom
    from infosteer.methods.params.protect_used import ProtectUsed as ProtectUsed
    from infosteer.methods.params.recadam import RecAdam as RecAdam
    from infosteer.methods.params.resuscitation import Resuscitation as Resuscitation
    from infosteer.methods.params.weight_interpolation import WeightInterpolation as WeightInterpolation
    from infosteer.methods.penalties.key_entropy import EntropyRegularization as EntropyRegularization
    from infosteer.methods.penalties.key_entropy_target import EntropyTarget as EntropyTarget
    from infosteer.methods.penalties.key_norm import KeyNorm as KeyNorm
    from infosteer.methods.probes.geometry import RepresentationGeometry as RepresentationGeometry
    from infosteer.methods.probes.information_flux import InformationFlux as InformationFlux
    from infosteer.methods.probes.knowledge_entropy import KnowledgeEntropy as KnowledgeEntropy
    from infosteer.methods.probes.region_shift import RegionShift as RegionShift
    from infosteer.methods.probes.token_information import TokenInformation as TokenInformation
    from infosteer.models import locate as locate
    from infosteer.training.attach import attach as attach
    from infosteer.training.transform import transform_rows as transform_rows

__version__ = "0.1.0"

_HOMES = {
    "steer": "infosteer.core.steer",
    "attach": "infosteer.training.attach",
    "locate": "infosteer.models",
    "Session": "infosteer.core.session",
    "Intervention": "infosteer.methods.interventions.key_lift",
    "EntropyRegularization": "infosteer.methods.penalties.key_entropy",
    "KeyDamp": "infosteer.methods.interventions.key_damp",
    "KeyDropout": "infosteer.methods.interventions.key_dropout",
    "KeyNoise": "infosteer.methods.interventions.key_noise",
    "KeyRandom": "infosteer.methods.interventions.key_random",
    "LabelSmoothing": "infosteer.methods.losses.label_smoothing",
    "OutputEntropy": "infosteer.methods.losses.output_entropy",
    "EntropyTarget": "infosteer.methods.penalties.key_entropy_target",
    "KeyNorm": "infosteer.methods.penalties.key_norm",
    "RepresentationGeometry": "infosteer.methods.probes.geometry",
    "ProtectMemory": "infosteer.methods.params.protect_memory",
    "Freeze": "infosteer.methods.params.freeze",
    "ProtectRandom": "infosteer.methods.params.protect_random",
    "ProtectUsed": "infosteer.methods.params.protect_used",
    "RecAdam": "infosteer.methods.params.recadam",
    "Resuscitation": "infosteer.methods.params.resuscitation",
    "WeightInterpolation": "infosteer.methods.params.weight_interpolation",
    "NoisyLabels": "infosteer.methods.data.noisy_labels",
    "Replay": "infosteer.methods.data.replay",
    "InformationFlux": "infosteer.methods.probes.information_flux",
    "KnowledgeEntropy": "infosteer.methods.probes.knowledge_entropy",
    "RegionShift": "infosteer.methods.probes.region_shift",
    "TokenInformation": "infosteer.methods.probes.token_information",
    "transform_rows": "infosteer.training.transform",
    "list_methods": "infosteer.core.registry",
    "method_info": "infosteer.core.registry",
}
_MODULES = ("errors", "functional")

__all__ = [*sorted(_HOMES), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"infosteer.{name}")
    raise AttributeError(f"module 'infosteer' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
