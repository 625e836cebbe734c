"""Does lifting send gradient to memories that would get none? ``python benchmarks/mechanism.py [--rows 64] [--json]``

The gradient of a memory vector is ``dL/dv_i = sum_t k'_ti delta_t`` with delta_t = dL/dy_t at the FFN's output, so a
coefficient near 0 hides its memory from the update. For each setting of the intervention this measures, at the base's
weights on SFT rows of the lab, over the entries I that the intervention overwrites:

- ``energy before`` and ``after``: ``sum_t sum_{i in I_t} k_ti^2 |delta_t|^2`` with the coefficients as they were and as
  they became, each over the sum of all entries: which share of the gradient's energy these entries carry;
- ``norm ratio``: the norm of dL/dW_down with the intervention over that without;
- ``cosine``: between the two gradients of all FFN weights: how much the update as a whole turns;
- ``loss change``: of the first forward, nats a token.

Results: docs/evidence/mechanism/results.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import infosteer
from infosteer import lab
from infosteer.training.compat import versions
from infosteer.training.encode import encode_rows
from infosteer.training.loading import load_model, load_tokenizer

OUT = Path(__file__).resolve().parents[1] / "docs" / "evidence" / "mechanism" / "results.json"
SETTINGS: dict[str, dict[str, Any]] = {
    "magnitude 1 %": {"fraction": 0.01},
    "magnitude 5 %": {"fraction": 0.05},
    "magnitude 25 %": {"fraction": 0.25},
    "magnitude 50 %": {"fraction": 0.5},
    "magnitude 1 %, alpha 5": {"fraction": 0.01, "alpha": 5.0},
    "signed 1 % (the paper's letter)": {"fraction": 0.01, "order": "signed", "reference": "mean"},
}


def batch_of(rows: int, seed: int) -> dict[str, Tensor]:
    """SFT rows of the lab as one batch, padded on the right."""
    tokenizer = load_tokenizer("embedded")
    encoded = encode_rows(lab.load("facts", seed=seed)[:rows], tokenizer).rows
    length = max(len(row["input_ids"]) for row in encoded)

    def padded(name: str, value: int) -> Tensor:
        return torch.tensor([row[name] + [value] * (length - len(row[name])) for row in encoded])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in encoded])
    return {"input_ids": padded("input_ids", 0), "attention_mask": mask, "labels": padded("labels", -100)}


@contextmanager
def watched(sites: Sequence[infosteer.models.Site], seen: dict[int, dict[str, Tensor]]) -> Iterator[None]:
    """Keeps, of every site, the coefficients that reach the projection and the gradient at its output."""
    handles = []
    for site in sites:
        here = seen.setdefault(site.layer, {})

        def after(module: nn.Module, args: Any, output: Tensor, here: dict[str, Tensor] = here) -> None:
            here["k"] = args[0].detach()
            output.register_hook(lambda gradient: here.__setitem__("delta", gradient.detach()))

        handles.append(site.module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def measure(model: nn.Module, batch: dict[str, Tensor], methods: Sequence[Any]) -> dict[str, Any]:
    """Loss, gradients of the FFN weights, and what was seen at the sites."""
    sites, seen = infosteer.locate(model), {}
    model.train()
    model.zero_grad()
    with infosteer.steer(model, list(methods)), watched(sites, seen):
        loss = model(**batch, use_cache=False).loss
        loss.backward()
    weights = {site.layer: [role.module.weight for roles in site.roles.values() for role in roles] for site in sites}
    return {
        "loss": float(loss.detach()),
        "sites": seen,
        "values": {site.layer: site.module.weight.grad.clone() for site in sites},
        "all": torch.cat([weight.grad.flatten() for group in weights.values() for weight in group]),
    }


def compare(plain: dict[str, Any], lifted: dict[str, Any]) -> dict[str, Any]:
    """The measures of the module's docstring, by layer and over all layers."""
    layers = []
    for layer, before in plain["sites"].items():
        after = lifted["sites"][layer]
        changed = after["k"] != before["k"] if layer == min(plain["sites"]) else None
        layers.append(
            {
                "layer": layer,
                "norm ratio": float(lifted["values"][layer].norm() / plain["values"][layer].norm()),
                **({} if changed is None else _energies(before, after, changed)),
            }
        )
    cosine = torch.nn.functional.cosine_similarity(plain["all"].double(), lifted["all"].double(), dim=0)
    return {
        "loss change": lifted["loss"] - plain["loss"],
        "cosine": float(cosine),
        "norm ratio": float(lifted["all"].norm() / plain["all"].norm()),
        "layers": layers,
    }


def _energies(before: dict[str, Tensor], after: dict[str, Tensor], changed: Tensor) -> dict[str, float]:
    """Only of the first layer, whose coefficients before the edit are the same in both forwards."""
    weight = after["delta"].double().square().sum(-1, keepdim=True)
    energy = {name: side["k"].double().square() * weight for name, side in (("before", before), ("after", after))}
    return {f"energy {name}": float((value * changed).sum() / value.sum()) for name, value in energy.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--json", action="store_true", help="print the results instead of writing them")
    arguments = parser.parse_args()
    model = load_model("embedded", dtype="float32")
    results: dict[str, Any] = {"schema": 1, "versions": versions(), "rows": arguments.rows, "settings": {}}
    for seed in arguments.seeds:
        batch = batch_of(arguments.rows, seed)
        plain = measure(model, batch, [])
        for name, setting in SETTINGS.items():
            lifted = measure(model, batch, [infosteer.Intervention(**setting)])
            results["settings"].setdefault(name, []).append({"seed": seed, **compare(plain, lifted)})
    text = json.dumps(results, indent=1)
    if arguments.json:
        print(text)
        return
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(text + "\n", encoding="utf-8")
    for name, found in results["settings"].items():
        first = [one["layers"][0] for one in found]
        shares = " to ".join(
            f"{sum(one[f'energy {when}'] for one in first) / len(first):.2e}" for when in ("before", "after")
        )
        print(f"{name}: share of the energy {shares}; cosine {sum(one['cosine'] for one in found) / len(found):.4f}")


if __name__ == "__main__":
    main()
