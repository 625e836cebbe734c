"""Probes of an evaluation set: what they say equals what the saved weights give by hand, steered or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from infosteer.errors import ConfigError
from infosteer.experiments.run import run
from infosteer.functional import intervene


def by_hand(place: Path, texts: list[str], fraction: float = 0.0) -> float:
    """Mean over layers and tokens of the entropy of |k|, in float64, from hooks of our own."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(place).double(), AutoTokenizer.from_pretrained(place)
    totals: dict[int, list[float]] = {}
    for number, layer in enumerate(model.model.layers):

        def see(module: torch.nn.Module, args: tuple[torch.Tensor], number: int = number) -> tuple[torch.Tensor]:
            k = intervene(args[0], fraction, 1.0) if fraction else args[0]
            share = k.abs() / k.abs().sum(-1, keepdim=True)
            totals.setdefault(number, []).extend(torch.special.entr(share).sum(-1).flatten().tolist())
            return (k,)

        layer.mlp.down_proj.register_forward_pre_hook(see)
    for text in texts:
        model(input_ids=torch.tensor([tokenizer(text)["input_ids"]]))
    means = [sum(values) / len(values) for values in totals.values()]
    return sum(means) / len(means)


def test_a_set_is_read_by_its_probes_with_every_model(inputs: Path, tmp_path: Path) -> None:
    texts = [f"The {i}th ship came home late." for i in range(5)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    recipe = tiny.recipe(
        inputs,
        arms={"plain": [], "read-steered": [{"method": "key_lift", "fraction": 0.3, "scope": "evaluation"}]},
        evaluate={"texts": {"source": str(tmp_path / "texts.jsonl"), "probes": ["information_flux"]}},
        evaluate_base=True,
    )
    recipe["train"]["save_model"] = True
    path = run(recipe, tmp_path / "run")
    seed = recipe["seeds"][0]
    expected = {
        "base": by_hand(inputs / "model", texts),
        "plain": by_hand(path / f"checkpoints/plain/seed-{seed}", texts),
        "read-steered": by_hand(path / f"checkpoints/read-steered/seed-{seed}", texts, 0.3),
    }
    assert expected["plain"] != pytest.approx(expected["read-steered"], rel=1e-3)
    for arm, value in expected.items():
        outcome = json.loads((path / f"outcomes/{arm}/seed-{0 if arm == 'base' else seed}.json").read_text())
        assert outcome["metrics"]["texts/information_flux_nats"] == pytest.approx(value, rel=1e-5)
        assert set(outcome["metrics"]) >= {"texts/nll", "texts/information_flux_normalised"}


def test_probes_that_ask_are_asked_of_their_set_and_of_their_arms_sets(inputs: Path, tmp_path: Path) -> None:
    noise = {"method": "probes/latent_perturbation", "rule": "answer", "new_tokens": 2, "only": [0]}
    recipe = tiny.recipe(
        inputs,
        arms={"plain": [], "asked": [noise]},
        evaluate={
            "id": {"source": str(inputs / "test.jsonl"), "max_new_tokens": 2},
            "noisy": {"source": str(inputs / "test.jsonl"), "max_new_tokens": 2, "probes": ["latent_perturbation"]},
        },
        evaluate_base=True,
    )
    path = run(recipe, tmp_path / "run")
    seed, found = recipe["seeds"][0], {}
    for arm in ("base", "plain", "asked"):
        outcome = json.loads((path / f"outcomes/{arm}/seed-{0 if arm == 'base' else seed}.json").read_text())
        found[arm] = {name for name in outcome["metrics"] if name.endswith("latent_perturbation_masr")}
        assert all(
            outcome["metrics"][f"{name}/latent_perturbation_masr"]
            >= outcome["metrics"][f"{name}/latent_perturbation_pasr"]
            for name in (one.split("/")[0] for one in found[arm])
        )
    assert found["base"] == found["plain"] == {"noisy/latent_perturbation_masr"}
    assert found["asked"] == {"noisy/latent_perturbation_masr", "id/latent_perturbation_masr"}


def test_an_unknown_probe_is_found_before_the_first_training(inputs: Path, tmp_path: Path) -> None:
    recipe = tiny.recipe(inputs)
    recipe["evaluate"] = {"id": {"source": str(inputs / "test.jsonl"), "probes": ["key_lift"]}}
    with pytest.raises(ConfigError, match="key_lift"):
        run(recipe, tmp_path / "run")
    assert not list((tmp_path / "run").glob("outcomes/*"))


def test_documents_cannot_be_asked(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "A ship."}\n')
    recipe = tiny.recipe(inputs)
    recipe["evaluate"] = {"id": {"source": str(tmp_path / "texts.jsonl"), "probes": ["demo_position"]}}
    with pytest.raises(ConfigError, match="holds documents"):
        run(recipe, tmp_path / "run")
    assert not list((tmp_path / "run").glob("outcomes/*"))
