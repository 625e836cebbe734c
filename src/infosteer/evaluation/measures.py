"""What the measures of results are called, their units, what values they take, and which way is better."""

from __future__ import annotations

from collections.abc import Iterable

# from 0 to 1, shown in percent
SHARES = ("exact_match", "strict_match", "utilisation", "option_accuracy", "option_accuracy_norm")
ORDER = (*SHARES, "answer_nll", "nll", "bits_per_byte")
_ROUGE = ("rouge1", "rouge2", "rougeL")
_BOUNDED = frozenset([*SHARES, *_ROUGE, "calibration_error", "verified", "process"])
_HARNESS = frozenset(
    ["acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"]
)  # lm-eval's, maybe with a filter
_LABELS = {
    "exact_match": "right answers",
    "strict_match": "right answers, strictly read",
    "utilisation": "stored facts that are answered",
    "option_accuracy": "right options",
    "option_accuracy_norm": "right options, by likelihood per character",
    "answer_nll": "loss on the answer",
    "nll": "loss on text",
    "bits_per_byte": "loss on text",
}
_UNITS = {"answer_nll": "nats a token", "nll": "nats a token", "bits_per_byte": "bits a byte"}
_LOWER = ("nll", "bits_per_byte", "loss", "perplexity", "error")


def split(metric: str) -> tuple[str, str]:
    """``set/measure`` as (set, measure)."""
    name, _, measure = metric.rpartition("/")
    return name, measure


def ordered(measures: Iterable[str]) -> list[str]:
    """Known measures first, in the order in which they are shown, each once."""
    found = dict.fromkeys(measures)
    return [*(m for m in ORDER if m in found), *(m for m in found if m not in ORDER)]


def is_share(measure: str) -> bool:
    """Whether a measure is a share of examples, which is shown in percent."""
    return measure in SHARES or measure.partition(":")[0] in _HARNESS


def is_bounded(measure: str) -> bool:
    """Whether a measure lies between 0 and 1."""
    return measure in _BOUNDED or is_share(measure) or measure.startswith("pass@")


def label(measure: str) -> str:
    """The measure in words."""
    return _LABELS.get(measure, measure.replace("_", " "))


def unit(measure: str) -> str:
    """``%``, ``nats a token`` or nothing."""
    return "%" if is_share(measure) else _UNITS.get(measure, "")


def step_unit(measure: str) -> str:
    """The unit of a difference: percent become points."""
    return "points" if is_share(measure) else unit(measure)


def better(measure: str) -> int | None:
    """1 where more is better, -1 where less is, None where the name does not say."""
    if is_share(measure) or "accuracy" in measure or measure in _ROUGE:
        return 1
    return -1 if measure.endswith(_LOWER) else None


def scale(measure: str) -> float:
    """The factor to the unit shown."""
    return 100.0 if is_share(measure) else 1.0


def digits(measure: str) -> int:
    """Decimals in the unit shown."""
    return 1 if is_share(measure) else 3


def show(value: float, measure: str, *, sign: bool = False, minus: str = "\u2212") -> str:
    """A value in the unit shown, with a true minus unless another one is given."""
    places = digits(measure)
    text = f"{value * scale(measure):{'+' if sign else ''}.{places}f}"
    if float(text) == 0:
        text = f"{0:.{places}f}"
    return text.replace("-", minus)


def show_p(value: float) -> str:
    """A p-value with three digits, or that it is smaller."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"
