"""lm-eval's tasks on our models: every example's score, shots and limits, steering, and draws."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval")

import infosteer
from infosteer.evaluation.harness import run_harness
from infosteer.evaluation.harness.writing import style_of, write

from .harness_tasks import LIFT, TASKS


def test_every_example_has_its_score_and_the_measure_is_their_mean(random_model, tokenizer, task_folder: Path) -> None:
    results = run_harness(random_model, tokenizer, [f"lm_eval:{name}" for name in TASKS], include_path=task_folder)
    assert list(results) == [f"lm_eval:{name}" for name in TASKS]
    for key, result in results.items():
        assert result.name == key
        assert result.n == len(TASKS[key.removeprefix("lm_eval:")][0])
        for measure, values in result.per_example.items():
            assert result.measures[measure] == pytest.approx(float(np.mean(values)))
            assert len(values) in (1, result.n)
        assert result.settings["batch_size"] == 64
        assert result.settings["dtype"] == "float32"
        assert {"prompt", "answer", "prediction", "correct"} == set(result.samples[0])
        json.dumps(result.settings)
    assert len(results["lm_eval:tiny_shots"].per_example["mcc"]) == 1  # a measure of the set as a whole
    documents = results["lm_eval:tiny_documents"]
    bits = np.log2(documents.measures["byte_perplexity"])
    assert documents.measures["bits_per_byte"] == pytest.approx(bits)
    assert len(documents.per_example["bits_per_byte"]) == documents.n
    assert np.exp(documents.measures["log_word_perplexity"]) == pytest.approx(documents.measures["word_perplexity"])
    writing = results["lm_eval:tiny_writing"]
    assert 0 < writing.failures["unfinished"] <= writing.n
    assert writing.settings["generation"]["max_gen_toks"] == 12


def test_a_group_gives_its_tasks_and_their_examples_together(random_model, tokenizer, task_folder: Path) -> None:
    seen: list[str] = []
    results = run_harness(
        random_model,
        tokenizer,
        ["tiny_group"],
        include_path=task_folder,
        limit=2,
        done=lambda one: seen.append(one.name),
    )
    assert list(results) == ["lm_eval:tiny_choices", "lm_eval:tiny_blanks", "lm_eval:tiny_group"]
    assert seen == ["lm_eval:tiny_choices", "lm_eval:tiny_blanks"]
    whole = results["lm_eval:tiny_group"]
    assert whole.n == 4
    assert whole.per_example["acc"] == [v for name in seen for v in results[name].per_example["acc"]]


def test_shots_limit_progress_and_generators(random_model, tokenizer, task_folder: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    before = random.getstate(), torch.get_rng_state()
    results = run_harness(
        random_model,
        tokenizer,
        ["tiny_shots"],
        include_path=task_folder,
        num_fewshot=1,
        limit=3,
        batch_size=2,
        progress=lambda *news: heard.append(news),
    )
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    (result,) = results.values()
    assert result.n == 3
    assert result.settings["num_fewshot"] == 1
    assert all(sample["prompt"].count("Q: ") == 2 for sample in result.samples)
    assert heard[-1] == ("tiny_shots: likelihoods", 9, 9)
    assert [done for _, done, _ in heard] == sorted(done for _, done, _ in heard)


def test_a_steered_model_scores_otherwise_and_a_paused_one_as_before(
    random_model, tokenizer, task_folder: Path
) -> None:
    def scores() -> list[float]:
        result = run_harness(random_model, tokenizer, ["tiny_last_words"], include_path=task_folder)
        return result["lm_eval:tiny_last_words"].per_example["log_perplexity"]

    plain = scores()
    with infosteer.steer(random_model, [LIFT]) as session:
        steered = scores()
        with session.pause():
            assert scores() == plain
    assert np.abs(np.array(steered) - plain).min() > 1e-4


def test_draws_are_seeded_and_the_batch_plays_no_part(random_model, tokenizer) -> None:
    style = style_of(
        {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 20, "max_gen_toks": 8, "until": "x"}
    )
    asked = [("Q: where?\nA:", style), ("a story", style), ("Q: where?\nA:", style)]

    def draw(batch_size: int, seed: int) -> list[str]:
        found = write(random_model, tokenizer, asked, limit=128, batch_size=batch_size, seed=seed)
        return [one.text for one in found]

    assert draw(1, seed=1) == draw(3, seed=1)
    assert draw(3, seed=1) != draw(3, seed=2)
    assert draw(3, seed=1)[0] != draw(3, seed=1)[2]  # a repeat is another draw
