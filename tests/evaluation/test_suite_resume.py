"""``infosteer eval`` again: nothing is computed twice, and what was asked otherwise is not taken over."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from infosteer.errors import RunError
from infosteer.evaluation.engines import TransformersEngine
from infosteer.experiments.suite.run import run_suite
from infosteer.training.loading import load_model

from .suite_inputs import Told, asked, read_json, read_lines


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts were really decoded, call by call."""
    ran: list[int] = []
    whole = TransformersEngine.decode

    def decode(self: Any, prompts: Any, **settings: Any) -> Any:
        ran.append(len(prompts))
        return whole(self, prompts, **settings)

    monkeypatch.setattr(TransformersEngine, "decode", decode)
    return ran


def test_a_finished_evaluation_is_not_done_again(done: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, told = counted(monkeypatch), Told()
    before = (done / "results.json").read_bytes()
    run_suite(asked(world), done, reporter=told)
    assert ran == []
    assert told.begun == [], "the model is not even loaded"
    assert (done / "results.json").read_bytes() == before


def test_an_interrupted_evaluation_goes_on(
    done: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Told):
        def progress(self, what: str, done: int, total: int) -> None:
            if what.startswith("gsm8k: decoding") and done > 8:
                raise KeyboardInterrupt

    ran = counted(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_suite(asked(world), tmp_path / "out", reporter=Stop())
    assert ran == [2] * 5 + [1] + [2] * 4 + [1], "batch by batch"
    path = run_suite(asked(world), tmp_path / "out")
    assert ran[11:] == [1, 2, 2], "the batch that was cut off, and the third task (two of its five prompts are one)"
    assert (path / "outcomes/model/seed-0.json").read_bytes() == (done / "outcomes/model/seed-0.json").read_bytes()
    for file in (done / "predictions").rglob("*.jsonl"):
        assert (path / file.relative_to(done)).read_bytes() == file.read_bytes()
    ours, theirs = (read_json(place / "results.json") for place in (path, done))
    assert ours == theirs
    assert len(read_lines(path / "metrics.jsonl")) == len(read_lines(done / "metrics.jsonl"))


def test_other_settings_are_refused_by_name(done: Path, world: Path) -> None:
    for changes, words in (
        ({"batch_size": 3}, "settings.batch_size: 2 -> 3"),
        ({"limit": 4}, "settings.limit: None -> 4"),
        ({"dtype": "bfloat16"}, "settings.dtype: float32 -> bfloat16"),
        ({"tasks": ("boolq",)}, "groups"),
        ({"models": (f"m={world / 'model'}",)}, "arms.m"),
    ):
        with pytest.raises(RunError, match="different") as caught:
            run_suite(asked(world, **changes), done)
        assert words in str(caught.value), changes
        assert "--update" in str(caught.value)


def test_other_rows_are_other_settings(world: Path, tmp_path: Path) -> None:
    data = shutil.copytree(world / "data", tmp_path / "data")
    path = run_suite(asked(world, tasks=("boolq",), data=str(data), limit=3), tmp_path / "out")
    text = (data / "boolq" / "test.jsonl").read_text()
    (data / "boolq" / "test.jsonl").write_text(text.replace("wet on day 2", "dry on day 2"))
    with pytest.raises(RunError, match=r"evaluate\.boolq\.rows_sha256"):
        run_suite(asked(world, tasks=("boolq",), data=str(data), limit=3), path)


def test_a_larger_limit_asks_only_what_is_new(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = counted(monkeypatch)
    path = run_suite(asked(world, limit=4, tasks=("boolq", "gsm8k")), tmp_path / "out")
    assert ran == [2, 2, 2, 2]
    run_suite(asked(world, tasks=("boolq", "gsm8k")), path, update=True)
    assert ran[4:] == [2, 2, 2, 1, 2, 2, 1]
    fresh = run_suite(asked(world, tasks=("boolq", "gsm8k")), tmp_path / "fresh", cache=tmp_path / "elsewhere")
    rows = [read_lines(place / "predictions/model/seed-0/boolq.jsonl") for place in (path, fresh)]
    assert [row["prediction"] for row in rows[0]] == [row["prediction"] for row in rows[1]]
    before = len(ran)
    run_suite(asked(world, tasks=("gsm8k",)), tmp_path / "third", cache=tmp_path / "elsewhere")
    assert len(ran) == before, "two evaluations may share what is kept"


def test_changed_weights_are_noticed(world: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(world / "model", tmp_path / "model")
    settings = asked(world, models=(str(folder),), tasks=(str(world / "taught.jsonl"),))
    path = run_suite(settings, tmp_path / "out")
    before = read_json(path / "results.json")
    model = load_model(str(folder))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(-1)
    model.save_pretrained(folder)
    run_suite(settings, path)
    after = read_json(path / "results.json")
    assert after["tasks"][0]["measures"]["exact_match"]["mean"] == 0
    assert before["settings"]["model"]["models"] != after["settings"]["model"]["models"], "another fingerprint"


def test_a_stranger_folder_is_left_alone(world: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not a run"):
        run_suite(asked(world), tmp_path)
