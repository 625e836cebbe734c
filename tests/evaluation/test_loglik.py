"""Likelihoods against a full float64 forward of every text by itself, with the boundary worked out naively."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from infosteer.evaluation import loglik, predictions
from infosteer.evaluation.loglik import score_options, score_texts

from .conftest import CORPUS, tiny

ROWS = [  # prompt, lead, options
    ("Pick one.\n", "the correct answer is ", ["answer1", "answer2", "answer3"]),
    ("is it so?\n", "", ["true", "false"]),
    ("Q: where?\nA:", " ", ["in Paris", "fox", "Bob"]),
    ("Q: where?\nA: ", "", ["in Paris", "fox", "Bob"]),
    ("a story", "", [" true", " true story", " tru"]),
    ("caf\u00e9 \u202e\x07", " ", ["\u00e9", "e", "\U0001f600 and more"]),
    ("The quick brown fox jumps over the lazy dog. " * 2, "", ["the", "The", "fox jumps"]),
    ("x", "", ["y"]),
]


def by_hand(model: torch.nn.Module, tokenizer, prompt: str, lead: str, options: list[str]) -> list[list[float]]:
    """Per option the log-probabilities of its tokens: one text at a time, all logits, float64."""
    wide = copy.deepcopy(model).double()
    base = tokenizer(prompt + lead)["input_ids"]
    wholes = [tokenizer(prompt + lead + option)["input_ids"] for option in options]
    start = 0
    while all(start < len(ids) and ids[start] == base[start] for ids in wholes) and start < len(base) - 1:
        start += 1
    if all(ids[: len(base)] == base for ids in wholes):
        start = len(base)
    start = max(start, 1)
    found = []
    for ids in wholes:
        if base[0] != wholes[0][0]:
            raise AssertionError("the texts of this test share their first token")
        with torch.no_grad():
            log_probs = wide(torch.tensor([ids])).logits[0].log_softmax(-1)
        found.append([float(log_probs[p - 1, ids[p]]) for p in range(start, len(ids))])
    return found


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "bloom", "gpt_neox", "mistral"])
def test_options_in_batches_equal_a_float64_pass_over_each(kind: str, tokenizer) -> None:
    model = tiny(kind, len(tokenizer))
    rows = [row for row in ROWS if row[0] != "x"]
    prompts, leads, options = zip(*rows, strict=True)
    for batch_size in (1, 3, 64):
        found = score_options(model, tokenizer, prompts, options, leads=leads, batch_size=batch_size)
        for (prompt, lead, texts), scores in zip(rows, found, strict=True):
            expected = by_hand(model, tokenizer, prompt, lead, texts)
            assert scores.tokens.tolist() == [len(values) for values in expected]
            np.testing.assert_allclose(scores.total, [sum(values) for values in expected], rtol=2e-4, atol=2e-4)
            size = [len(text.encode()) for text in texts]
            np.testing.assert_allclose(scores.per_byte, scores.total / np.array(size))
            assert not scores.too_long


def test_a_trailing_space_belongs_to_the_option_as_in_the_common_harness(random_model, tokenizer) -> None:
    """The usual rule: spaces at the end of the context move to the continuation, both are encoded together."""
    (row,) = score_options(random_model, tokenizer, ["Q: where?\nA: "], [["in Paris", "Bob"]])
    stripped = "Q: where?\nA:"
    context = tokenizer(stripped)["input_ids"]
    for option, total, tokens in zip([" in Paris", " Bob"], row.total, row.tokens, strict=True):
        whole = tokenizer(stripped + option)["input_ids"]
        with torch.no_grad():
            log_probs = random_model(torch.tensor([whole])).logits[0].log_softmax(-1)
        values = [float(log_probs[p - 1, whole[p]]) for p in range(len(context), len(whole))]
        assert tokens == len(values)
        assert total == pytest.approx(sum(values), abs=1e-4)


def test_options_that_differ_in_the_last_token_share_one_pass(random_model, tokenizer) -> None:
    rows: list[int] = []
    handle = random_model.register_forward_hook(lambda m, a, k, o: rows.append(len(k["input_ids"])), with_kwargs=True)
    score_options(random_model, tokenizer, ["Pick one.\n"] * 4, [["answer1", "answer2", "answer3"]] * 4)
    handle.remove()
    assert rows == [4]


def test_a_prompt_is_run_once_for_all_its_options(random_model, tokenizer) -> None:
    fed: list[int] = []
    handle = random_model.register_forward_hook(lambda m, a, k, o: fed.append(k["input_ids"].numel()), with_kwargs=True)
    options = ["in Paris", "quick brown fox", "Bob"]
    score_options(random_model, tokenizer, [CORPUS[-1]], [options], leads=[" "])
    handle.remove()
    prompt = len(tokenizer(CORPUS[-1])["input_ids"])
    longest = max(len(tokenizer(f" {option}", add_special_tokens=False)["input_ids"]) for option in options)
    assert sum(fed) <= prompt + len(options) * longest


def test_a_text_without_anything_before_it_is_predicted_from_the_opening_token(random_model, tokenizer) -> None:
    """The only token of the prompt merges with the option, so nothing is left to predict the first token from."""
    (row,) = score_options(random_model, tokenizer, [" "], [["the fox", "the dog"]])
    for total, text in zip(row.total, (" the fox", " the dog"), strict=True):
        ids = [tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]
        assert ids[1] != tokenizer(" ")["input_ids"][0]
        with torch.no_grad():
            log_probs = random_model(torch.tensor([ids])).logits[0].log_softmax(-1)
        assert total == pytest.approx(sum(float(log_probs[p - 1, ids[p]]) for p in range(1, len(ids))), abs=1e-4)


def test_only_the_logits_of_the_options_are_computed_and_memory_is_bounded(
    tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("llama", len(tokenizer))
    prompts, leads, options = zip(*ROWS[:6], strict=True)
    prompts = [CORPUS[-1] + prompt for prompt in prompts]
    shapes: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    expected = score_options(model, tokenizer, prompts, options, leads=leads)
    shortest = min(len(tokenizer(p)["input_ids"]) for p in prompts)
    assert all(shape[1] < shortest for shape in shapes)
    shapes.clear()
    monkeypatch.setattr(predictions, "LOGITS_AT_ONCE", 8 * len(tokenizer))
    found = score_options(model, tokenizer, prompts, options, leads=leads)
    # a question alone runs whatever its size, its options together
    assert all(shape[0] <= 3 or shape[0] * shape[1] <= 8 for shape in shapes)
    assert any(shape[0] > 1 for shape in shapes)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.total, other.total, rtol=1e-4, atol=1e-4)


def test_a_model_that_cannot_keep_fewer_logits(random_model, tokenizer) -> None:
    class Old(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.config = random_model, random_model.config

        def forward(self, input_ids, attention_mask, use_cache=False):  # no position_ids, no logits_to_keep
            positions = (attention_mask.cumsum(1) - 1).clamp_min(0)
            return self.inner(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions)

    prompts, leads, options = zip(*ROWS[:5], strict=True)
    found = score_options(Old(), tokenizer, prompts, options, leads=leads)
    for one, other in zip(found, score_options(random_model, tokenizer, prompts, options, leads=leads), strict=True):
        np.testing.assert_allclose(one.total, other.total, rtol=1e-4, atol=1e-4)


def test_rows_beyond_the_context_are_reported_and_disturb_no_other(tokenizer) -> None:
    model = tiny("gpt2", len(tokenizer), positions=32)
    finished: list[int] = []
    rows = [("Pick one.\n", ["true", "false"]), (" fox" * 50, ["true", "false"]), ("is it so?", [" Bob", " in Paris"])]
    found = score_options(
        model, tokenizer, [p for p, _ in rows], [o for _, o in rows], progress=finished.append, batch_size=1
    )
    assert [one.too_long for one in found] == [False, True, False]
    assert np.isnan(found[1].total).all()
    assert np.isfinite(found[2].total).all()
    assert sum(finished) == 3


def test_documents_against_a_token_by_token_pass(random_model, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loglik, "WINDOW", 16)
    texts = ["The quick brown fox jumps over the lazy dog. \u00e9" * 4, "a", "numbers 0 1 2 3 4 5 6 7 8 9."]
    nats, tokens, size = score_texts(random_model, tokenizer, texts, batch_size=2)
    for number, text in enumerate(texts):
        ids = [tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]
        expected = 0.0
        for p in range(1, len(ids)):
            begin = (p - 1) // 16 * 16  # the window that predicts this token starts at a multiple of 16
            with torch.no_grad():
                log_probs = random_model(torch.tensor([ids[begin:p]])).logits[0, -1].double().log_softmax(-1)
            expected -= float(log_probs[ids[p]])
        assert nats[number] == pytest.approx(expected, rel=1e-4)
        assert (tokens[number], size[number]) == (len(ids) - 1, len(text.encode()))


def test_a_uniform_model_costs_log_v_a_token(tokenizer) -> None:
    model = tiny("llama", len(tokenizer))
    torch.nn.init.zeros_(model.lm_head.weight)
    nats, tokens, _ = score_texts(model, tokenizer, ["The quick brown fox", "dog"])
    np.testing.assert_allclose(nats, tokens * math.log(len(tokenizer)), rtol=1e-6)
    (row,) = score_options(model, tokenizer, ["Pick one.\n"], [["answer2", "answer1"]])
    assert row.total[0] == row.total[1]
    assert int(row.total.argmax()) == 0
