"""Whether two runs judged the same questions in the same way; what differs is named, and such scores are not paired."""

from __future__ import annotations

from typing import Any

from infosteer.core.config import difference
from infosteer.inspection.comparison.read import RunScores

# Of a set's settings: what makes other questions of it, what makes other scores of decoded answers, and what moves the
# last bits only.
_QUESTIONS = ("task", "version", "wording", "template", "shots", "shots_seed")
_DECODED = ("scoring", "decoding", "max_new_tokens")
_NUMERICS = ("dtype", "batch_size", "engine", "device")
_LIKELIHOODS = ("answer_nll", "option_accuracy", "option_accuracy_norm", "nll", "bits_per_byte")
_SHOWN = 4


def apart(one: RunScores, arm: str, other: RunScores, other_arm: str, metric: str) -> list[str]:
    """Why the scores of a metric cannot be paired by example, as ``one / other``; empty where nothing is against it.

    Sets are the same where the fingerprints of their rows are. Without these, as in runs from before they were kept,
    the recipes must say the same of the set, and the numbers of examples must agree.
    """
    name, _, measure = metric.rpartition("/")
    left, right = (run.sets.get(which, {}).get(name, {}) for run, which in ((one, arm), (other, other_arm)))
    keys = _QUESTIONS if measure in _LIKELIHOODS else (*_QUESTIONS, *_DECODED)
    why = [
        f"{key} {left[key]} / {right[key]}" for key in keys if key in left and key in right and left[key] != right[key]
    ]
    counts = sorted({len(scores[metric]) for scores in one.examples.get(arm, {}).values() if metric in scores})
    other_counts = sorted({len(s[metric]) for s in other.examples.get(other_arm, {}).values() if metric in s})
    if counts and other_counts and counts != other_counts:
        why.append(f"rows {_words(counts)} / {_words(other_counts)}")
    if left.get("rows_sha256") and right.get("rows_sha256"):
        if left["rows_sha256"] != right["rows_sha256"] and not why:
            why.append("other rows")
        return why
    recipes = [(run.run.recipe or {}).get("evaluate") for run in (one, other)]
    if all(isinstance(recipe, dict) for recipe in recipes):
        before, after = ({name: (recipe or {}).get(name)} for recipe in recipes)
        changes = difference(before, after)
        why += [line.replace(" -> ", " / ") for line in changes[:_SHOWN]]
    return why


def numerics(one: RunScores, arm: str, other: RunScores, other_arm: str) -> list[str]:
    """What moves scores in their last bits: number types, batch sizes, engines that differ."""
    told: dict[str, None] = {}
    for name, left in one.sets.get(arm, {}).items():
        right: Any = other.sets.get(other_arm, {}).get(name, {})
        for key in _NUMERICS:
            if key in left and key in right and left[key] != right[key]:
                told[f"{key} {left[key]} / {right[key]}"] = None
    return list(told)


def _words(counts: list[int]) -> str:
    return " and ".join(map(str, counts))
