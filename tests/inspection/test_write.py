"""What is left in a run's folder: equal to reading each model by hand, whole or not at all."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from families import alone, make_model, make_tokenizer, words

import infosteer
from infosteer.errors import ConfigError, DataError
from infosteer.inspection.data import Memories, Regions, Tokens, read
from infosteer.inspection.memories import overlap, read_memories
from infosteer.inspection.reading import read_text
from infosteer.inspection.write import MEMORIES, Subject, write_inspection

CORPUS = [words(*range(5, 30)), words(9, 8, 7), words(*range(50, 20, -1))]
TEXTS = {"first": words(7, 8, 9), "second": words(30, 12, 30, 12)}


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    base = make_model("llama")
    trained = copy.deepcopy(base)
    with torch.no_grad():
        draw = torch.Generator().manual_seed(1)
        for name, parameter in trained.named_parameters():
            if "mlp" in name:
                parameter.mul_(1.3).add_(0.02 * torch.randn(parameter.shape, generator=draw))
    return {"base": base, "steered": trained}


def subjects(models: dict[str, nn.Module], edits: Any = ()) -> list[Subject]:
    tokenizer = make_tokenizer()
    return [
        Subject(name="base", load=lambda: (models["base"], tokenizer)),
        Subject(name="steered", seed=7, load=lambda: (models["steered"], tokenizer), edits=edits),
    ]


def test_files_say_what_the_models_do(models: dict[str, nn.Module], tmp_path: Path) -> None:
    said: list[str] = []
    lift = infosteer.Intervention(fraction=0.3, alpha=2.0)
    files = write_inspection(tmp_path, subjects(models, [lift]), TEXTS, CORPUS, source="of the test", note=said.append)
    assert [path.name for path in files] == ["tokens.json", "regions.json", "memories.json"]
    assert said == ["reading base", "reading steered, seed 7"]

    tokens = read(tmp_path, Tokens)
    assert tokens is not None
    by_hand = read_text(models["steered"], make_tokenizer(), TEXTS["second"])
    mine = tokens.texts[1].readings[1]
    assert (mine.model, mine.seed, mine.hook) == ("steered", 7, False)
    assert mine.flux == pytest.approx(by_hand.flux, abs=1e-5)
    assert tokens.texts[1].readings[2].hook
    assert tokens.texts[1].readings[2].flux != mine.flux

    regions = read(tmp_path, Regions)
    assert regions is not None
    rows = [torch.tensor([int(w[1:]) for w in text.split()]) for text in CORPUS]
    base = torch.cat([alone(models["base"], row.tolist())[0][1] for row in rows]).abs()
    steered = torch.cat([alone(models["steered"], row.tolist())[0][1] for row in rows]).abs()
    low, high = torch.quantile(base, 0.25), torch.quantile(base, 0.75)
    wanted = [float((steered < low).double().mean()), float((steered > high).double().mean())]
    shares = regions.readings[1].shares[1]
    assert [shares[0], shares[2]] == pytest.approx(wanted, abs=4e-3)
    assert wanted[1] > 0.3, "the made-up training enlarges coefficients"
    assert regions.readings[0].means() == pytest.approx([0.25, 0.5, 0.25], abs=3e-3)

    memories = read(tmp_path, Memories)
    assert memories is not None
    assert memories.final_norm
    concepts = [[read_memories(model, site, top=8) for site in infosteer.locate(model)] for model in models.values()]
    layer = next(layer for layer in memories.layers if (layer.model, layer.layer) == ("steered", 0))
    assert layer.width == 48 <= MEMORIES
    assert [m.index for m in layer.memories] == list(range(48))
    assert layer.memories[5].specificity == pytest.approx(float(concepts[1][0].specificity[5]), abs=1e-5)
    best = int(concepts[1][0].tokens[5, 0])
    assert layer.memories[5].words[0][0] == (make_tokenizer().decode([best]) or f"<token {best}>")
    kept = sum(float(overlap(a, b).mean()) for a, b in zip(*concepts, strict=True)) / 2
    assert f"steered, seed 7 {100 * kept:.1f} %" in memories.note


def test_nothing_is_written_when_something_fails(models: dict[str, nn.Module], tmp_path: Path) -> None:
    def broken() -> Any:
        raise OSError("gone")

    cases: list[tuple[type[Exception], list[Subject], dict[str, str], list[str]]] = [
        (ConfigError, [], TEXTS, CORPUS),
        (ConfigError, subjects(models), {}, CORPUS),
        (ConfigError, subjects(models), TEXTS, []),
        (DataError, subjects(models), {"long": words(*[7] * 65)}, CORPUS),
        (OSError, [*subjects(models), Subject(name="gone", load=broken)], TEXTS, CORPUS),
    ]
    for error, chosen, texts, corpus in cases:
        with pytest.raises(error):
            write_inspection(tmp_path, chosen, texts, corpus)
        assert not (tmp_path / "inspection").exists()


def test_chosen_layers(models: dict[str, nn.Module], tmp_path: Path) -> None:
    write_inspection(tmp_path, subjects(models), TEXTS, CORPUS, layers=[1])
    memories, regions = read(tmp_path, Memories), read(tmp_path, Regions)
    assert memories is not None
    assert regions is not None
    assert {layer.layer for layer in memories.layers} == {1}
    assert {reading.layer_numbers for reading in regions.readings} == {(1,)}
