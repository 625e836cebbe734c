"""What a recipe's ``sweep.tune`` and ``sweep.primary`` must say: seeds of their own, metrics of sets that there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from infosteer.errors import ConfigError
from infosteer.evaluation.measures import better, split
from infosteer.experiments.recipe import Recipe
from infosteer.experiments.source import Source
from infosteer.experiments.sweep.settings import SweepSettings, Tune


def set_of(metric: str) -> str:
    """The evaluation set of a metric ``<set>/<measure>``."""
    return metric.rpartition("/")[0]


def check_tune(recipe: Recipe, sweep: SweepSettings, source: Source) -> None:
    """Refuse a choice of cells that cannot be made, or not fairly.

    Raises: ConfigError with the key's line.
    """
    for metric in sweep.primaries:
        if sweep.primary is not None and set_of(metric) not in recipe.evaluate:
            raise _no_set(metric, recipe.evaluate, source.at(("sweep", "primary")))
    tune = sweep.tune
    if tune is None:
        return
    seeds = tune.seeds
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
        raise ConfigError(
            "Tuning seeds must be different whole numbers from 0 to 2^32 - 1.",
            where=source.at(("sweep", "tune", "seeds")),
            got=list(seeds),
        )
    both = sorted(set(seeds) & set(recipe.seeds))
    if both:
        raise ConfigError(
            "A seed that chooses settings cannot judge them.",
            where=source.at(("sweep", "tune", "seeds")),
            got=f"{both} in both seeds and sweep.tune.seeds",
            expected="final seeds that were not used for tuning",
        )
    if not sweep.keys:
        raise ConfigError(
            "There is nothing to tune.", where=source.at(("sweep",)), expected="sweep.grid or sweep.random"
        )
    _check_metrics(recipe, tune, source)
    if not tune.per_arm:
        own = [key for key in sweep.keys if key.startswith("arms.")]
        if own:
            raise ConfigError(
                "With per_arm: false all arms take the baseline's cell, so a key of one arm cannot vary.",
                where=source.at(("sweep", "tune", "per_arm")),
                got=own[0],
            )


def _check_metrics(recipe: Recipe, tune: Tune, source: Source) -> None:
    where = source.at(("sweep", "tune", "metric"))
    known: Sequence[str] = list(tune.sets or recipe.evaluate)
    if not tune.metrics:
        raise ConfigError("Tuning needs a metric.", where=where, expected="<set>/<measure>")
    for metric in tune.metrics:
        if set_of(metric) not in known:
            raise _no_set(metric, known, where)
    if len({lower_is_better(metric) for metric in tune.metrics}) > 1:
        raise ConfigError("A mean of losses and shares means nothing.", where=where, got=", ".join(tune.metrics))


def lower_is_better(metric: str) -> bool:
    """Whether a metric is a loss."""
    return better(split(metric)[1]) == -1


def _no_set(metric: str, known: Iterable[str], where: str) -> ConfigError:
    return ConfigError(
        "This metric is of no set.", where=where, got=metric, expected=", ".join(f"{name}/<measure>" for name in known)
    )
