"""Evaluation: sets, greedy decoding, likelihoods, answer extraction, intervals and paired tests."""

from infosteer.evaluation.evaluate import SetResult, evaluate, metrics, per_example
from infosteer.evaluation.records import analyse
from infosteer.evaluation.sets import EvalSet, load_set, overlap
from infosteer.evaluation.stored import stored_facts, utilisation

__all__ = [
    "EvalSet",
    "SetResult",
    "analyse",
    "evaluate",
    "load_set",
    "metrics",
    "overlap",
    "per_example",
    "stored_facts",
    "utilisation",
]
