"""Geometry of a text against states taken by hand, and of a run from its log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny

from infosteer.errors import ConfigError, DataError, RunError
from infosteer.inspection.data import Geometry, read, write
from infosteer.inspection.geometry import geometry_of_run, measure_geometry
from infosteer.inspection.report.gather import gather

TEXTS = [f"{word} {'x' * (i % 5)} {i}" for i, word in enumerate(["one", "three", "fourth", "a"] * 20)]


class Characters:
    """A tokenizer of single characters."""

    eos_token_id = pad_token_id = 1
    bos_token_id = 2

    def __call__(self, texts: list[str] | str, **_: object) -> dict[str, object]:
        one = isinstance(texts, str)
        rows = [[ord(c) % 50 + 5 for c in text] for text in ([texts] if one else texts)]
        return {"input_ids": rows[0] if one else rows}


def rank_of_covariance(z: np.ndarray) -> float:
    values = np.linalg.eigvalsh(np.cov(z.astype(np.float64).T, bias=True))
    p = values[values > 1e-12] / values[values > 1e-12].sum()
    return float(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize("tokens", ["last", "all"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_states_of_the_texts(model_type: str, tokens: str) -> None:
    model = tiny(model_type)
    found = measure_geometry(model, Characters(), TEXTS, tokens=tokens, layers=[0])
    final, layer = [], []
    for text in TEXTS:
        with torch.no_grad():
            ids = torch.tensor([Characters()(text)["input_ids"]])
            states = model(input_ids=ids, output_hidden_states=True).hidden_states
        kept = slice(-1, None) if tokens == "last" else slice(None)
        final.append(states[-1][0, kept])
        layer.append(states[1][0, kept])
    for place, rows in ((None, final), (0, layer)):
        z = torch.cat(rows).numpy()
        assert found[place]["rows"] == len(z)
        assert found[place]["rankme_cov"] == pytest.approx(rank_of_covariance(z), rel=1e-4)
    assert set(found) == {None, 0}
    assert set(measure_geometry(model, Characters(), TEXTS[:4])) == {None}


def test_long_texts_are_pieces() -> None:
    found = measure_geometry(tiny("llama"), Characters(), ["abcdefgh" * 4], max_tokens=8)
    assert found[None]["rows"] == 4


def test_hostile_input() -> None:
    model = tiny("llama")
    with pytest.raises(ConfigError, match="tokens"):
        measure_geometry(model, Characters(), TEXTS, tokens="first")
    with pytest.raises(DataError):
        measure_geometry(model, Characters(), [])
    with pytest.raises(ConfigError, match="layers"):
        measure_geometry(model, Characters(), TEXTS, layers=[7])


def write_run(folder: Path, lines: list[object]) -> Path:
    (folder / "recipe.yaml").write_text("name: r\narms: {plain: [], lift: []}\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn": ')
    return folder


def test_a_run_with_the_monitor(tmp_path: Path) -> None:
    lines = [
        {"event": "train", "arm": arm, "seed": seed, "step": step, "loss": 1.0, "infosteer/geometry/rows": 64.0,
         "infosteer/geometry/rankme": 10.0 + step, "infosteer/geometry/alpha/layer_3": 1.5,
         "infosteer/geometry/alpha": "nan", "infosteer/entropy": 3.0}
        for arm in ("plain", "lift") for seed in (1, 2) for step in (1, 10)
    ]  # fmt: skip
    lines += [{"event": "evaluate", "arm": "plain", "seed": 1, "step": 10, "infosteer/geometry/rankme": 99.0}]
    lines += [{"event": "train", "arm": None, "step": 1, "infosteer/geometry/rankme": 98.0}]
    run = write_run(tmp_path, lines)
    found = geometry_of_run(run, base={None: {"rankme": 7.0}})
    assert found is not None
    assert gather(run).geometry == geometry_of_run(run), "the report draws what was logged, without any file"
    write(run, found)
    assert read(run, Geometry) == found
    assert {(p.model, p.metric, p.layer) for p in found.points} == {
        ("base", "rankme", None), ("plain", "rankme", None), ("lift", "rankme", None), ("plain", "rows", None),
        ("lift", "rows", None), ("plain", "alpha", 3), ("lift", "alpha", 3),
    }  # fmt: skip
    assert [p.value for p in found.points if (p.model, p.seed, p.metric) == ("lift", 2, "rankme")] == [11.0, 20.0]
    assert found.points[0].metric == "rankme"
    assert set(found.about) == {"rankme", "alpha", "rows"}


def test_a_run_without_it_and_no_run(tmp_path: Path) -> None:
    run = write_run(tmp_path, [{"event": "train", "arm": "plain", "seed": 1, "step": 1, "loss": 1.0}])
    assert geometry_of_run(run) is None
    with pytest.raises(RunError):
        geometry_of_run(tmp_path / "nowhere")
