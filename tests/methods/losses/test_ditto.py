"""DITTO: links by hand, the loss against an explicit sum over copies, and its rows."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from steered import VOCABULARY, llama

import infosteer
from infosteer.core.data import DataContext
from infosteer.core.marks import TokenRow
from infosteer.errors import AttachError, ConfigError, DataError
from infosteer.methods.data.ditto import PseudoRepetition
from infosteer.methods.data.ditto.method import repeated_row, sentences
from infosteer.methods.losses.ditto import RepetitionPenalty, penalise_repetition
from infosteer.methods.losses.ditto.links import lags
from infosteer.training.encode import encode_rows
from infosteer.training.loading import load_tokenizer


def token_row(text: str, spans: list[tuple[int, int]], **row: Any) -> TokenRow:
    ids = [hash(text[a:b]) % 1000 if b > a else 0 for a, b in spans]
    return TokenRow(row=row, text=text, ids=ids, spans=spans, parts=[], completion=0)


def letters(text: str) -> list[tuple[int, int]]:
    return [(place, place + 1) for place in range(len(text))]


def test_links_of_a_hand_made_sentence() -> None:
    """A prefix of 2, a sentence of 3 in 3 copies and 1 token more: L (N - 1) + K = 3 * 2 + 1 links of lag 3."""
    row = token_row("ppabcabcabca", letters("ppabcabcabca"), repeats={"start": 2, "length": 3})
    assert lags(row) == [-1] * 5 + [3] * 7
    assert lags(token_row("ppabc", letters("ppabc"))) == [0] * 5


def test_tokens_that_are_cut_otherwise_are_not_linked() -> None:
    text = "p a. a. a.E"  # one token for 'p a', and the second copy begins with ' a': other characters
    spans = [(0, 3), (3, 4), (4, 6), (6, 7), (7, 9), (9, 10), (10, 11), (0, 0)]
    row = token_row(text, spans, repeats={"start": 1, "length": 3})
    assert lags(row) == [-1, -1, -1, 2, 2, 2, -1, -1]
    other = TokenRow(row=row.row, text=text, ids=[*row.ids[:4], 999, *row.ids[5:]], spans=spans, parts=[], completion=0)
    assert lags(other) == [-1, -1, -1, 2, -1, 2, -1, -1], "the same characters, another token"


def test_one_character_of_several_tokens() -> None:
    row = token_row("xyxy", [(0, 1), (0, 1), (1, 2), (2, 3), (2, 3), (3, 4)], repeats={"start": 0, "length": 2})
    row = TokenRow(row=row.row, text=row.text, ids=[1, 2, 3, 1, 2, 3], spans=row.spans, parts=[], completion=0)
    assert lags(row) == [-1, -1, -1, 3, 3, 3]


@pytest.mark.parametrize("form", ["log", "clip", "mse"])
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_the_loss_is_explicit(form: str, decay: float) -> None:
    logits = (2 * torch.randn(8, 5, dtype=torch.float64)).requires_grad_(True)
    targets, marks = torch.arange(8) % 5, torch.tensor([0.0, -1, 1, 2, 3, 1, 2, 5])
    before = torch.tensor([-9.0, -9, -0.2, -3.0, math.nan, -0.5, -1e-3, -40])
    losses, counted = torch.rand(8, dtype=torch.float64), torch.tensor([True] * 6 + [False, True])
    found = penalise_repetition(losses, logits, targets, counted, marks, lambda _: before, decay=decay, form=form)
    p = logits.detach().softmax(-1)[torch.arange(8), targets]
    for t in range(8):
        gap = float(p[t]) - decay * math.exp(float(before[t]))
        penalty = {"log": -math.log(1 - abs(gap)), "clip": -math.log(1 - max(gap, 0)), "mse": 3 * gap**2}[form]
        wanted = {0: float(losses[0]), 1: 0.0, 4: 0.0, 6: 0.0}.get(t, penalty)
        assert float(found[t].detach()) == pytest.approx(wanted, abs=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert bool(gradient.isfinite().all())
    assert not gradient[[0, 1, 4, 6]].any()


def test_no_loss_at_the_aim_and_none_beyond_it_when_clipped() -> None:
    logits = torch.zeros(1, 4)  # p = 1/4
    arguments = (
        torch.zeros(1),
        logits,
        torch.zeros(1, dtype=torch.long),
        torch.ones(1, dtype=torch.bool),
        torch.ones(1),
    )
    at = penalise_repetition(*arguments, lambda _: torch.tensor([math.log(0.5)]), decay=0.5)
    assert float(at) == pytest.approx(0, abs=1e-6)
    below = {
        form: penalise_repetition(*arguments, lambda _: torch.zeros(1), decay=0.5, form=form)
        for form in ("log", "clip")
    }
    assert float(below["log"]) > 0.2
    assert float(below["clip"]) == 0


def repeats(prefix: int = 2, length: int = 3, total: int = 12) -> tuple[dict[str, torch.Tensor], TokenRow]:
    """One repeated row and one ordinary one, as a batch."""
    copy = torch.arange(3, 3 + length)
    ids = torch.cat([torch.arange(20, 20 + prefix), copy.repeat(total)])[:total]
    text = "".join(chr(int(token)) for token in ids)
    row = TokenRow(
        row={"repeats": {"start": prefix, "length": length}}, text=text, ids=ids.tolist(), spans=letters(text),
        parts=[], completion=prefix + length,
    )  # fmt: skip
    both = torch.stack([ids, torch.randint(1, VOCABULARY, (total,))])
    labels = both.clone()
    labels[0, : prefix + length] = -100
    return {"input_ids": both, "attention_mask": torch.ones_like(both), "labels": labels}, row


def test_in_a_session_it_is_the_sum_over_copies() -> None:
    batch, row = repeats()
    plain = TokenRow(row={}, text="", ids=[0] * 12, spans=[(0, 0)] * 12, parts=[], completion=0)
    method = RepetitionPenalty(decay=0.7)
    marks = torch.tensor(method.marks([row, plain]))
    model = llama().double()
    logits = model(input_ids=batch["input_ids"], use_cache=False).logits
    p = logits[:, :-1].softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    wanted = -p[1].log().sum()
    for n in range(1, 3):  # copy n against copy n - 1; target t is predicted by row t - 1
        for place in range(3):
            t = 2 + 3 * n + place
            if t < 12:
                wanted = wanted - (1 - (p[0, t - 1] - 0.7 * p[0, t - 4].detach()).abs()).log()
    wanted = wanted - (1 - (p[0, 10] - 0.7 * p[0, 7].detach()).abs()).log()  # the one token of the fourth copy
    wanted = wanted / int((batch["labels"][:, 1:] != -100).sum())
    wanted.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    with infosteer.steer(model, [method]) as session:
        loss = session.loss(model(**batch, marks_ditto=marks, use_cache=False).loss)
        loss.backward()
        logged = session.metrics()
    torch.testing.assert_close(loss.detach().double(), wanted.detach(), rtol=1e-5, atol=0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-7)
    copies, sources = p[0, 4:].detach(), p[0, 1:8].detach()
    assert logged["infosteer/ditto/ratio"] == pytest.approx(float(copies.sum() / sources.sum()), rel=1e-5)
    assert logged["infosteer/ditto/probability"] == pytest.approx(float(copies.mean()), rel=1e-5)
    assert logged["infosteer/ditto/share"] == pytest.approx(7 / 18)


def test_training_with_it_reaches_the_ratio() -> None:
    batch, row = repeats()
    batch = {name: value[:1] for name, value in batch.items()}
    marks, ratios = torch.tensor(RepetitionPenalty().marks([row])), {}
    for decay in (0.5, 1.0):
        model = llama()
        with infosteer.steer(model, [RepetitionPenalty(decay=decay)], measure_every=1) as session:
            optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
            for _ in range(60):
                optimizer.zero_grad()
                session.loss(model(**batch, marks_ditto=marks, use_cache=False).loss).backward()
                optimizer.step()
            ratios[decay] = session.metrics()["infosteer/ditto/ratio"]
    assert ratios[0.5] < 0.8 < ratios[1.0] < 1.2


def test_batches_and_rows_without_repetitions_are_errors() -> None:
    batch, _ = repeats()
    with infosteer.steer(llama(), [RepetitionPenalty()]) as session, pytest.raises(AttachError, match="repeat which"):
        session.loss(session.model(**batch, use_cache=False).loss)
    with pytest.raises(DataError, match="No training row is a repetition"):
        encode_rows([{"text": "A b. C d."}], load_tokenizer("embedded"), methods=[RepetitionPenalty()])
    for settings in ({"decay": 1.1}, {"decay": -0.1}, {"form": "cosine"}):
        with pytest.raises(ConfigError):
            RepetitionPenalty(**settings)


TEXTS = [{"text": f"Amos {i} is here. He cooks rice at 3.5 degrees! Does Amos {i} sing?"} for i in range(20)]


def made(rows: list[dict[str, Any]], seed: int = 1, strength: float = 1.0, **settings: Any) -> list[dict[str, Any]]:
    context = DataContext(seed=seed, strength=strength, read=lambda *_, **__: [])
    return [row for row in PseudoRepetition(**settings).transform(rows, context) if "repeats" in row]


def test_sentences() -> None:
    text = 'One is 3.5. "Two!" Three?! and four'
    assert sentences(text) == ["One is 3.5.", ' "Two!"', " Three?!", " and four"]
    assert sentences("") == []
    assert "".join(sentences("A.\n\nB. c")) == "A.\n\nB. c"


def test_rows_repeat_a_sentence_behind_its_predecessor() -> None:
    rows = made(TEXTS, characters=120)
    assert len(rows) == 20
    for row in rows:
        start, length = row["repeats"]["start"], row["repeats"]["length"]
        text = row["prompt"] + row["completion"]
        source = next(other["text"] for other in TEXTS if row["prompt"] in other["text"])
        assert source.index(row["prompt"]) + start + length in [len("".join(sentences(source)[:n])) for n in (2, 3)]
        assert len(row["prompt"]) == start + length
        assert len(text) <= 120
        assert text[start:] == (text[start : start + length] * 9)[: len(text) - start]
        assert len(text) - start >= 2 * length
        assert text[-1] != " "
    assert len({row["prompt"] for row in rows}) > 15, "all rows are used before one is used again"
    assert made(TEXTS, seed=1) == made(TEXTS, seed=1) != made(TEXTS, seed=2)


def test_counts_and_kinds_of_rows() -> None:
    assert len(made(TEXTS, share=0.2)) == 5
    assert len(made(TEXTS, share=0.5, strength=0.4)) == 5
    pair = [{"prompt": "Tell. Me.", "completion": " One two. Three four."}]
    assert {row["prompt"] for row in made(pair * 4)} == {" One two. Three four."}
    turns = [{"role": "user", "content": "Hi. There."}, {"role": "assistant", "content": "Yes. No."}]
    assert {row["prompt"] for row in made([{"messages": turns}])} == {"Yes. No."}


def test_rows_without_sentences() -> None:
    words = [{"text": " ".join(f"w{i}" for i in range(60))}]
    with pytest.raises(DataError, match="No row holds two sentences"):
        made(words)
    with pytest.raises(DataError, match="No row holds two sentences"):
        made(TEXTS, characters=30)
    for seed in range(5):
        (row,) = made(words, seed=seed, without_sentence="span", characters=600)
        assert 10 <= len(row["prompt"][row["repeats"]["start"] :].split()) <= 40
        assert row["prompt"].strip() in words[0]["text"]
    with pytest.raises(DataError):
        made([{"text": "too short"}], without_sentence="span")
    assert len(made([*words, *TEXTS])) == 21, "rows without sentences are passed over"


def test_two_copies_must_fit_and_the_last_is_cut_behind_a_word() -> None:
    assert repeated_row("A.", " Bc de.", 15) is None
    assert repeated_row("A.", " Bc de.", 16) == {
        "prompt": "A. Bc de.", "completion": " Bc de.", "repeats": {"start": 2, "length": 7},
    }  # fmt: skip
    assert str((repeated_row("A.", " Bc de.", 20) or {})["completion"]) == " Bc de. Bc"
    assert str((repeated_row("A.", " Bc de.", 21) or {})["completion"]) == " Bc de. Bc"


def test_with_a_real_tokenizer_every_token_of_later_copies_is_linked() -> None:
    rows = PseudoRepetition().transform(TEXTS, DataContext(seed=3, strength=1.0, read=lambda *_, **__: []))
    encoded = encode_rows(rows, load_tokenizer("embedded"), methods=[RepetitionPenalty()]).rows
    kinds = Counter("repeated" if max(row["marks_ditto"]) > 0 else "ordinary" for row in encoded)
    assert kinds == {"repeated": 20, "ordinary": 20}
    for row in encoded:
        marks, labels = row["marks_ditto"], row["labels"]
        if max(marks) == 0:
            assert set(marks) == {0}
            continue
        learnt = [place for place, label in enumerate(labels) if label != -100]
        assert all(marks[place] == max(marks) for place in learnt[:-1]), "one lag, all but the end token"
        assert marks[learnt[-1]] == -1
        assert all(row["input_ids"][p] == row["input_ids"][p - int(marks[p])] for p in learnt[:-1])


def test_settings_of_the_rows_are_checked() -> None:
    for settings in ({"share": 1.1}, {"characters": 20.5}, {"characters": 3}, {"without_sentence": "cry"}):
        with pytest.raises(ConfigError):
            PseudoRepetition(**settings)
    with pytest.raises(ConfigError, match="would be the whole"):
        made(TEXTS, share=0.6, strength=2.0)
    assert PseudoRepetition(share=0).idle
