"""Two models of one family, before and after training: which weights moved, how a text is read, what memories say,
whether directions carry over. Plain data; whoever shows it formats it.

Legend: N texts, M memories, K tokens of a concept.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.errors import ConfigError
from infosteer.inspection.activations import collect_states
from infosteer.inspection.directions import probe_layers
from infosteer.inspection.geometry import measure_geometry
from infosteer.inspection.memories import overlap as concept_overlap
from infosteer.inspection.memories import read_memories
from infosteer.inspection.neurons import entropy_neurons
from infosteer.inspection.neurons import overlap as neuron_overlap
from infosteer.inspection.observe import observe
from infosteer.inspection.transfer import transfer
from infosteer.methods.probes.information_flux import InformationFlux
from infosteer.methods.probes.knowledge_entropy import KnowledgeEntropy
from infosteer.models import locate, parameters_of, place_parameters
from infosteer.models.decoder import text_config
from infosteer.models.walk import root_model

CONCEPT_TOKENS = 10
_CHUNK_ELEMENTS = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """How far the weights of one part went.

    Attributes:
        part: values, keys, gates (of the FFN), ffn (the rest of it), attention, norms, embeddings, head, other;
            ``embeddings+head`` where one weight is both.
        layer: None for what lies in no layer.
        relative: ``|B - A|_F / |A|_F`` over all parameters of the part in the layer.
        parameters, changed: numbers in the part, and those of them that differ.
    """

    part: str
    layer: int | None
    relative: float
    parameters: int
    changed: int


def check_fit(a: nn.Module, b: nn.Module) -> None:
    """Refuses models that cannot be compared weight by weight.

    Raises:
        ConfigError: of other family, depth, width or vocabulary; it names the first difference.
    """
    shapes: list[dict[str, Any]] = []
    for model in (a, b):
        found = root_model(model)
        config: Any = text_config(found[1]) if found is not None else None
        sites = locate(model)
        shapes.append(
            {
                "model type": config.model_type,
                "layers": len(sites),
                "hidden size": sites[0].hidden,
                "FFN widths": [site.width for site in sites],
                "vocabulary": config.vocab_size,
            }
        )
    for name in shapes[0]:
        if shapes[0][name] != shapes[1][name]:
            raise ConfigError(
                "The two models do not fit each other, so their weights cannot be compared.",
                where=name,
                got=f"{shapes[0][name]} and {shapes[1][name]}",
                expected="the same model before and after training",
            )


def weight_drift(a: nn.Module, b: nn.Module) -> list[Drift]:
    """Relative change of the weights by part and layer, in float64.

    Raises:
        ConfigError: models that do not fit, weights that only one has (adapters), or that are no numbers (quantised).
        ArchitectureError: a family that is not in the table.
    """
    check_fit(a, b)
    before, after = (dict(model.named_parameters(remove_duplicate=False)) for model in (a, b))
    if before.keys() != after.keys():
        only = sorted(before.keys() ^ after.keys())
        raise ConfigError(
            "Only one of the models has some weights.",
            got=", ".join(only[:4]) + (", ..." if len(only) > 4 else ""),
            expected="the same names in both",
            fix="merge adapters first: infosteer.training.loading.merge_adapters(model)",
        )
    sums: dict[tuple[str, int | None], list[float]] = defaultdict(lambda: [0.0, 0.0, 0, 0])
    # Of the model with more weights: training may have taken a head apart from the embeddings.
    for part, layer, name, rows in _places(max(a, b, key=lambda model: len(list(model.parameters())))):
        old, new = (_rows_of(weights[name], rows) for weights in (before, after))
        if not old.is_floating_point() or old.shape != new.shape:
            raise ConfigError(
                "These weights cannot be compared as numbers.",
                where=name,
                got=f"{old.dtype} {tuple(old.shape)} and {new.dtype} {tuple(new.shape)}",
                expected="floating weights of one shape",
                fix="load the models without 4- or 8-bit quantisation",
            )
        total = sums[part, layer]
        for x, y in zip(_blocks(old), _blocks(new), strict=True):
            wide = x.double()
            total[0] += float((y.double() - wide).square().sum())
            total[1] += float(wide.square().sum())
            total[2] += x.numel()
            total[3] += int((x != y).sum())
    return [
        Drift(
            part=part,
            layer=layer,
            relative=math.sqrt(change / size) if size else (0.0 if change == 0 else math.inf),
            parameters=int(count),
            changed=int(changed),
        )
        for (part, layer), (change, size, count, changed) in sums.items()
    ]


def read_text(model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> dict[str, float]:
    """Flux, knowledge entropy and geometry of a text, as ``<probe>/<measure>``; means over layers and all tokens.

    Raises:
        DataError: no text with a token in it.
    """
    sites = locate(model)
    observers = {
        "information_flux": InformationFlux().observer(sites),
        "knowledge_entropy": KnowledgeEntropy().observer(sites),
    }
    seen = observe(model, tokenizer, texts, list(observers.values()))
    found = {
        f"{name}/{measure}": value
        for name, observer in observers.items()
        for measure, value in observer.metrics().items()
        if "/layer_" not in measure
    }
    geometry = measure_geometry(model, tokenizer, texts, tokens="all")[None]
    return {"tokens": float(seen.tokens), **found, **{f"geometry/{name}": value for name, value in geometry.items()}}


def concept_stability(a: nn.Module, b: nn.Module, *, top: int = CONCEPT_TOKENS) -> list[dict[str, float | int]]:
    """How many of the K likeliest tokens of each memory stay, by layer.

    Returns:
        ``layer``; ``kept``: mean share of the K tokens that are in both concepts; ``chance``: K / V; ``same``: share of
        memories whose likeliest token is the same; ``specificity_a``, ``specificity_b``: means.

    Raises:
        SiteError: memory vectors that cannot be read.
    """
    found: list[dict[str, float | int]] = []
    for first, second in zip(locate(a), locate(b), strict=True):
        x, y = read_memories(a, first, top=top), read_memories(b, second, top=top)
        root = root_model(a)
        assert root is not None, "sites were located in it"
        found.append(
            {
                "layer": first.layer,
                "kept": float(concept_overlap(x, y).mean()),
                "chance": x.tokens.shape[1] / text_config(root[1]).vocab_size,
                "same": float((x.tokens[:, 0] == y.tokens[:, 0]).double().mean()),
                "specificity_a": float(x.specificity.mean()),
                "specificity_b": float(y.specificity.mean()),
            }
        )
    return found


def compare_directions(
    a: nn.Module,
    b: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    labels: Sequence[int],
    folds: Sequence[Tensor],
    *,
    method: str = "mass_mean",
    shuffles: int = 0,
) -> dict[str, Any]:
    """One pair of classes in both models: ``own_a``, ``own_b`` readings by layer, and ``a_to_b``, ``b_to_a``.

    Raises:
        DataError, ConfigError: as the functions of ``infosteer.inspection.directions`` and ``activations``.
    """
    states = [collect_states(model, tokenizer, texts) for model in (a, b)]
    targets = torch.tensor(list(labels))
    own = [probe_layers(x, targets, folds, method, shuffles=shuffles) for x in states]
    both = [transfer(states[i], states[1 - i], targets, folds, method) for i in (0, 1)]
    names = ("own_a", "own_b", "a_to_b", "b_to_a")
    rows: Iterable[Sequence[Any]] = [*own, *both]
    return {name: [dataclasses.asdict(row) for row in part] for name, part in zip(names, rows, strict=True)}


def compare_models(
    a: nn.Module, b: nn.Module, tokenizer: Any, texts: Sequence[str], *, concepts: bool = True
) -> dict[str, Any]:
    """All that needs no labelled data: ``drift``, ``text`` (measure -> a, b), ``concepts``, ``entropy_neurons``.

    Raises:
        ConfigError: models that do not fit.
        ArchitectureError, SiteError, DataError: as the parts.
    """
    drift = [dataclasses.asdict(row) for row in weight_drift(a, b)]
    readings = [read_text(model, tokenizer, texts) for model in (a, b)]
    neurons = [_neurons(model) for model in (a, b)]
    return {
        "kind": "models",
        "drift": drift,
        "text": {
            name: {"a": value, "b": readings[1][name]} for name, value in readings[0].items() if name in readings[1]
        },
        "concepts": concept_stability(a, b) if concepts else [],
        "entropy_neurons": neuron_overlap(*neurons),
    }


def _neurons(model: nn.Module) -> Any:
    width = locate(model)[-1].width
    return entropy_neurons(model, count=min(10, max(1, round(width / 4))))


def _places(model: nn.Module) -> Iterator[tuple[str, int | None, str, tuple[int, slice] | None]]:
    """(part, layer, name, (axis, rows)) of every weight, or of the halves of a fused one; together all, once."""
    sites = locate(model)
    roles: dict[str, list[tuple[str, tuple[int, slice] | None]]] = defaultdict(list)
    for site in sites:
        for role, parts in site.roles.items():
            for name, _, axis, rows in (found for part in parts for found in parameters_of(part)):
                roles[name].append((role, None if axis is None or rows is None else (axis, rows)))
    for placed in place_parameters(model, sites):
        for label, half in roles.get(placed.name, [("+".join(placed.parts), None)]):
            yield label, placed.layer, placed.name, half


def _rows_of(weight: Tensor, rows: tuple[int, slice] | None) -> Tensor:
    if rows is None:
        return weight
    first, last, _ = rows[1].indices(weight.shape[rows[0]])
    return weight.narrow(rows[0], first, last - first)


def _blocks(weight: Tensor) -> Iterator[Tensor]:
    """Parts of a weight, so that its float64 copy stays small."""
    return iter(weight.detach().cpu().reshape(-1).split(_CHUNK_ELEMENTS))
