"""Models ready to be asked: loaded, steered as their sidecar says, fingerprinted, and given back afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infosteer.errors import ConfigError
from infosteer.evaluation.engines import Engine, TransformersEngine
from infosteer.experiments.base import without_bars
from infosteer.experiments.environment import version
from infosteer.experiments.suite.settings import Arm, SuiteSettings, device_of
from infosteer.training.loading import load_model, load_tokenizer, resolve_model
from infosteer.training.sidecar import read_sidecar

_ACTING = ("evaluation", "always")  # scopes of methods that act while a model is evaluated


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """A model that can be asked.

    Attributes:
        engine: asks it.
        model: the transformers model itself; None in other engines.
        fingerprint: of weights, configs, tokenizer and methods.
        methods: what steers it, as mappings of a recipe.
    """

    engine: Engine
    model: Any
    fingerprint: str
    methods: list[dict[str, Any]]


@contextmanager
def ready(arm: Arm, settings: SuiteSettings) -> Iterator[Ready]:
    """Load one model, with the methods of its sidecar that act in evaluation.

    Raises: ConfigError or RunError for a model that cannot be loaded or steered, or a steered one in vLLM.
    """
    if settings.engine == "vllm":
        yield _served(arm, settings)
        return
    import infosteer
    from infosteer.evaluation.engines.fingerprint import fingerprint_of

    methods, step = acting_methods(arm.model)
    tokenizer = load_tokenizer(arm.model)
    with without_bars():
        model = load_model(arm.model, dtype=settings.dtype)
    model.to(device_of(settings)).eval()
    session = infosteer.steer(model, methods, total_steps=max(step, 1)) if methods else None
    try:
        if session is not None:
            session.step = step  # where its training ended: strengths that follow a schedule are those of then
        described = session.describe() if session is not None else []
        fingerprint = fingerprint_of(model, tokenizer, [described, step] if described else [])
        yield Ready(
            engine=TransformersEngine(model, tokenizer), model=model, fingerprint=fingerprint, methods=described
        )
    finally:
        if session is not None:
            session.remove()
        del model
        gc.collect()


def acting_methods(model: str) -> tuple[list[Any], int]:
    """The methods of a model's sidecar that act while it is evaluated, and the step at which it was saved."""
    from infosteer.core.effects import as_methods
    from infosteer.core.surfaces import InterventionMethod

    source = resolve_model(model)
    facts = read_sidecar(source) if Path(source).is_dir() else None
    if facts is None:
        return [], 0
    methods = [
        method
        for method in as_methods(facts["methods"])
        if isinstance(method, InterventionMethod) and method.scope in _ACTING and not method.off
    ]
    return methods, int(facts.get("step") or 0)


def stamp_of(model: str) -> list[list[Any]]:
    """Names, sizes and times of a model folder's files: while they are the same, so is the model. Empty for hub ids."""
    source = Path(resolve_model(model))
    if not source.is_dir():
        return []
    files = (path for path in sorted(source.iterdir()) if path.is_file())
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def identity_of(found: Ready) -> dict[str, Any]:
    """What kept answers depend on beside prompts and settings."""
    packages = ("torch", "transformers")
    return {"model": found.fingerprint, "versions": {name: version(name) for name in packages}}


def _served(arm: Arm, settings: SuiteSettings) -> Ready:
    from infosteer.evaluation.engines.fingerprint import fingerprint_of_files
    from infosteer.evaluation.engines.served import VllmEngine

    methods, _ = acting_methods(arm.model)
    if methods:
        raise ConfigError(
            "A steered model cannot be evaluated in vLLM, which holds no hooks: it would be evaluated as a plain one.",
            where=f"--model {arm.model}",
            got=", ".join(type(method).__name__ for method in methods) + " with scope evaluation or always",
            fix="use --engine transformers",
        )
    engine = VllmEngine(arm.model, dtype=settings.dtype, batch_size=settings.batch_size)
    source = resolve_model(arm.model)
    fingerprint = fingerprint_of_files(Path(source)) if Path(source).is_dir() else _commit(source)
    return Ready(engine=engine, model=None, fingerprint=fingerprint, methods=[])


def _commit(hub_id: str) -> str:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(hub_id, trust_remote_code=False)
    return f"{hub_id}@{config._commit_hash}"
