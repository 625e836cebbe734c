"""How much the batch size alone changes answers: in half precision, padding and other kernels move the last bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from infosteer.evaluation import EvalSet, SetResult
from infosteer.evaluation.engines import Engine
from infosteer.evaluation.evaluate import evaluate_with
from infosteer.evaluation.shares import wilson

_OPTIONS = "option_accuracy"
_NLL = "answer_nll"


def batch_effect(
    engine: Engine, sets: Mapping[str, EvalSet], results: Mapping[str, SetResult], *, rows: int, batch_size: int
) -> dict[str, Any]:
    """Ask the first rows of every set again, one by one, and compare with what came out in batches.

    Returns: ``batch_sizes``; ``rows`` and the shares of them whose predicted text (``predictions``) and whose verdict
        (``verdicts``) changed; ``option_rows`` and the share of them where the likeliest option became right or wrong
        (``options``); each share as {share, low, high}, a 95 % Wilson interval; ``nll_largest``, the largest change of
        an answer's loss in nats a token. Empty where nothing was decoded.
    """
    texts: list[bool] = []
    verdicts: list[bool] = []
    options: list[bool] = []
    losses = [0.0]
    for name, one in sets.items():
        before = results[name]
        chosen = [i for i, row in enumerate(before.rows) if not row["too_long"]][:rows]
        if not chosen:
            continue
        part = replace(one, rows=[one.rows[i] for i in chosen], max_new_tokens=before.settings["max_new_tokens"])
        again = evaluate_with(engine, [part], batch_size=1, likelihoods=_NLL in before.measures)[name]
        for place, i in enumerate(chosen):
            texts.append(before.rows[i]["prediction"] != again.rows[place]["prediction"])
            verdicts.append(before.rows[i]["correct"] != again.rows[place]["correct"])
            old, new = ({m: scores[at] for m, scores in found.per_example.items() if m in (_OPTIONS, _NLL)}
                        for found, at in ((before, i), (again, place)))  # fmt: skip
            if _OPTIONS in old:
                options.append(old[_OPTIONS] != new[_OPTIONS])
            if _NLL in old:
                losses.append(abs(old[_NLL] - new[_NLL]))
    if not texts:
        return {}
    return {
        "batch_sizes": [1, batch_size],
        "rows": len(texts),
        "predictions": _share(texts),
        "verdicts": _share(verdicts),
        "option_rows": len(options),
        "options": _share(options) if options else None,
        "nll_largest": max(losses),
    }


def _share(changed: list[bool]) -> dict[str, float]:
    low, high = wilson(sum(changed), len(changed))
    return {"share": sum(changed) / len(changed), "low": low, "high": high}
