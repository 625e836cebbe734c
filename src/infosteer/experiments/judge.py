"""The recipe's evaluation sets: read before the first step, scored before and after every training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from infosteer.errors import ConfigError
from infosteer.experiments.recipe import Recipe
from infosteer.experiments.schema import to_plain
from infosteer.experiments.sections import EvaluateSettings

if TYPE_CHECKING:
    from infosteer.core.contract import Method
    from infosteer.core.surfaces import InterventionMethod, ProbeMethod
    from infosteer.evaluation import EvalSet, SetResult


def load_sets(recipe: Recipe) -> dict[str, EvalSet]:
    """Every evaluation set by name. Raises: InfoSteerError for a set that cannot be read."""
    from infosteer.evaluation import load_set

    sets = {}
    for name, settings in recipe.evaluate.items():
        loaded = load_set(name, _spec(settings), skip_bad_rows=settings.skip_bad_rows)
        if not settings.score_options and loaded.scoring == "exact_match":
            loaded = replace(loaded, rows=[{**row, "options": None} for row in loaded.rows])
        for probe in settings.probes:
            _check_probe(probe, name, loaded)  # one that cannot be is found before the first training
        sets[name] = loaded
    return sets


def evaluate_sets(
    model: Any,
    tokenizer: Any,
    sets: Mapping[str, EvalSet],
    recipe: Recipe,
    *,
    methods: Sequence[Method] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """What the model does on every set, as plain data.

    Args:
        methods: what the model was trained with; its data methods may have prompts and answers go through them.

    Returns: name -> ``measures`` (means), ``examples`` (measure -> score of each example, None where it has none),
        ``failures`` (counts), ``samples`` and ``settings``.
    """
    from infosteer.evaluation.engines import TransformersEngine, asked_through
    from infosteer.evaluation.evaluate import evaluate_with

    judged = {}
    engine = asked_through(TransformersEngine(model, tokenizer), methods)
    for name, rows in sets.items():
        batch_size = recipe.evaluate[name].batch_size
        result = evaluate_with(engine, [rows], batch_size=batch_size, progress=progress)[name]
        judged[name] = judged_of(result)
    return judged


def judged_of(result: SetResult) -> dict[str, Any]:
    """One set's result as plain data, as ``evaluate_sets`` returns it."""
    return {
        "measures": result.measures,
        "examples": {key: [_or_none(v) for v in values] for key, values in result.per_example.items()},
        "failures": result.failures,
        "samples": result.samples,
        "settings": result.settings,
    }


def add_probes(
    judged: Mapping[str, dict[str, Any]],
    model: Any,
    tokenizer: Any,
    sets: Mapping[str, EvalSet],
    recipe: Recipe,
    *,
    edits: Sequence[InterventionMethod] = (),
) -> None:
    """Add what the probes of each set say of a model that reads it with its answers: ``<probe>_<metric>``.

    Only means over layers are taken. One value stands for the whole set: other examples would have given another, but
    only other seeds put an interval around it.

    Args:
        model: without a session.
        edits: interventions that steer the model while it is evaluated.

    Raises: as ``inspection.observe``.
    """
    from infosteer.core.asking import AskingProbe
    from infosteer.inspection.observe import observe
    from infosteer.models import locate

    for name, rows in sets.items():
        named = {probe: _probe(probe, name) for probe in recipe.evaluate[name].probes}
        watching = {probe: method for probe, method in named.items() if not isinstance(method, AskingProbe)}
        if not watching:
            continue
        sites = locate(model, trust_structure=recipe.trust_structure)
        observers = {probe: method.observer(sites) for probe, method in watching.items()}
        observe(model, tokenizer, [row_text(row, tokenizer) for row in rows.rows], [*observers.values()], edits=edits)
        for probe, observer in observers.items():
            for metric, value in observer.metrics().items():
                if "/" not in metric:
                    judged[name]["measures"][f"{probe}_{metric}"] = value
                    judged[name]["examples"][f"{probe}_{metric}"] = [value]


def ask_probes(
    judged: Mapping[str, dict[str, Any]],
    model: Any,
    tokenizer: Any,
    sets: Mapping[str, EvalSet],
    recipe: Recipe,
    *,
    methods: Sequence[Any] = (),
) -> None:
    """Add what probes that ask say of a model: those of the arm on every set with answers, a set's own on that set.

    Args:
        model: as it is evaluated, edits included.
        methods: the arm's.

    Raises: as ``evaluation.asking.ask``.
    """
    from infosteer.core.asking import AskingProbe
    from infosteer.evaluation.asking import as_measures, ask

    of_arm = {probe.label(): probe for probe in methods if isinstance(probe, AskingProbe) and not probe.off}
    for name, rows in sets.items():
        own = {probe: _probe(probe, name) for probe in recipe.evaluate[name].probes}
        asking = {probe: method for probe, method in own.items() if isinstance(method, AskingProbe)}
        for probe in ((asking | of_arm) if rows.scoring != "text" else asking).values():
            batch_size = recipe.evaluate[name].batch_size
            found = ask(model, tokenizer, rows, probe, methods=methods, batch_size=batch_size)
            for measure, (mean, values) in as_measures(probe, found).items():
                judged[name]["measures"][measure] = mean
                judged[name]["examples"][measure] = values


def _probe(name: str, of_set: str) -> ProbeMethod:
    from infosteer.core.registry import build_method

    built: ProbeMethod = build_method({"method": f"probes/{name}"}, where=f"evaluate.{of_set}.probes")
    return built


def _check_probe(probe: str, of_set: str, rows: EvalSet) -> None:
    from infosteer.core.asking import AskingProbe

    if isinstance(_probe(probe, of_set), AskingProbe) and rows.scoring == "text":
        raise ConfigError(
            "This probe asks questions, and the set holds documents.", where=f"evaluate.{of_set}.probes", got=probe
        )


def row_text(row: Mapping[str, Any], tokenizer: Any) -> str:
    """An evaluation row as a model reads it, with its answer."""
    from infosteer.evaluation.model_state import prompt_text

    if "text" in row:
        return str(row["text"])
    return prompt_text(tokenizer, row["prompt"]) + row["lead"] + row["answer"]


def add_utilisation(judged: Mapping[str, dict[str, Any]], stored: Mapping[str, Sequence[bool]]) -> None:
    """Add the measure ``utilisation`` and the count ``stored`` to the sets whose facts the base was asked for.

    A set of whose facts the base stores none gets the count alone.
    """
    from infosteer.evaluation import utilisation

    for name, known in stored.items():
        result = judged[name]
        scores = utilisation(result["examples"]["exact_match"], known)
        result["stored"] = sum(known)
        if result["stored"]:
            result["measures"]["utilisation"] = math.fsum(s for s in scores if not math.isnan(s)) / result["stored"]
            result["examples"]["utilisation"] = [_or_none(score) for score in scores]


def add_stored(outcome: dict[str, Any], stored: Mapping[str, Sequence[bool]]) -> None:
    """``add_utilisation`` for a whole outcome, in place, where the base was asked which facts it stores."""
    for name, known in stored.items():
        judged = {
            "measures": {},
            "examples": outcome["examples"][name],
        }
        add_utilisation({name: judged}, {name: known})
        outcome["sets"][name] = {"stored": judged["stored"], **outcome["sets"][name]}
        outcome["metrics"].update({f"{name}/{m}": value for m, value in judged["measures"].items()})


def outcome_of(arm: str, seed: int, judged: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What an evaluation leaves in the file of a finished outcome."""
    kept = ("stored", "contamination", "failures", "settings", "samples")
    return {
        "schema": 1,
        "arm": arm,
        "seed": seed,
        "status": "finished",
        "metrics": {f"{name}/{m}": value for name, result in judged.items() for m, value in result["measures"].items()},
        "sets": {name: {key: result[key] for key in kept if key in result} for name, result in judged.items()},
        "examples": {name: result["examples"] for name, result in judged.items()},
    }


def _spec(settings: EvaluateSettings) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(settings)
    options = plain.pop("options")
    for key in ("batch_size", "skip_bad_rows", "score_options", "probes"):
        plain.pop(key)
    if not plain["fields"]:
        plain.pop("fields")
    return {**{key: value for key, value in plain.items() if value is not None}, **options}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
