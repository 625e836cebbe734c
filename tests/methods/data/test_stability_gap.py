"""The stability gap: budgets, rates, fixed and dynamic epochs, perplexities, and the gap's numbers."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from infosteer.core.data import DataContext
from infosteer.errors import ConfigError, DataError
from infosteer.methods.data.stability_gap import (
    GapRecord,
    KneserNey,
    ModelScorer,
    StabilityGap,
    load_kenlm,
    measure_gap,
    relative_updates,
)
from infosteer.methods.data.stability_gap.pick import text_of
from infosteer.training.loading import load_tokenizer

ENGLISH = [*("the", "old", "man", "went", "to", "the", "small", "house", "and", "the", "dog", "went", "with")]


def text(place: int, *, good: bool) -> str:
    draw = random.Random(f"{place} {good}")
    if not good:
        return f"{place} " + " ".join(f"x{draw.randrange(10**6)}" for _ in range(draw.randint(8, 14)))
    start = draw.randrange(6)
    return f"{place} " + " ".join((ENGLISH * 2)[start : start + draw.randint(8, 14)])


GOOD, BAD = [{"text": text(i, good=True)} for i in range(300)], [{"text": text(i, good=False)} for i in range(300)]
POOL = [row for pair in zip(BAD, GOOD, strict=True) for row in pair]
SOURCES = {
    "trusted": [{"text": text(i, good=True)} for i in range(1000, 1100)],
    "web": [{"text": f"web number {i} " + "of the web " * 3} for i in range(200)],
    "code": [{"text": f"def f{i}(): return {i} of this thing"} for i in range(20)],
    "empty": [],
}


def read(method: StabilityGap, rows: list[Any] = POOL, seed: int = 1, strength: float = 1.0) -> list[Any]:
    def source(name: str, **options: Any) -> list[Any]:
        return SOURCES[name]

    return method.transform(rows, DataContext(seed=seed, strength=strength, read=source))


def count(rows: list[Any]) -> int:
    """Words, counted by white space and marks by hand: another way than the code's."""
    return sum(len(text_of(row).replace("(", " ( ").replace(")", " ) ").replace(":", " : ").split()) for row in rows)


def epochs(rows: list[Any], number: int, budget: float) -> list[list[Any]]:
    """The rows cut into epochs of about a budget's words."""
    parts: list[list[Any]] = [[]]
    for row in rows:
        if len(parts) < number and count(parts[-1]) + count([row]) / 2 > budget:
            parts.append([])
        parts[-1].append(row)
    return parts


def test_the_subset_is_the_best_of_the_reference_and_within_a_document_of_its_size() -> None:
    for share in (0.1, 0.3):
        rows = read(StabilityGap(reference="trusted", share=share, epochs=1))
        assert all(row in GOOD for row in rows)
        assert count(rows) == pytest.approx(share * count(POOL), abs=15)
        loose = read(StabilityGap(select="random", share=share, epochs=1))
        assert 0.3 < sum(row in GOOD for row in loose) / len(loose) < 0.7
        assert count(loose) == pytest.approx(share * count(POOL), abs=15)


def test_every_epoch_holds_the_mixture() -> None:
    method = StabilityGap(reference="trusted", share=0.3, epochs=4, mixture={"web": 0.12, "code": 0.06})
    rows, budget = read(method), 0.3 * count(POOL)
    assert count(rows) == pytest.approx(4 * budget, rel=0.02)
    for part in epochs(rows, 4, budget):
        for name, rate in (("web", 0.12), ("code", 0.06)):
            assert count([row for row in part if row in SOURCES[name]]) / budget == pytest.approx(rate, abs=0.01)
        domain = [place for place, row in enumerate(part) if row in GOOD]
        assert count([part[place] for place in domain]) / budget == pytest.approx(0.82, abs=0.01)
        assert max(b - a for a, b in itertools.pairwise(domain)) < len(part) / 3, "shuffled"
    counts = Counter(row["text"] for row in rows if row in SOURCES["code"])
    assert max(counts.values()) - min(counts.values()) <= 1, "all of a source before any comes again"
    half = read(method, strength=0.5)
    assert count([r for r in half if r in SOURCES["web"]]) / count(half) == pytest.approx(0.06, abs=0.01)


@pytest.mark.parametrize("resample", ["dynamic", "fixed"])
def test_dynamic_epochs_differ_and_fixed_ones_do_not(resample: str) -> None:
    method = StabilityGap(select="random", share=0.5, epochs=3, mixture={"web": 0.3}, resample=resample)
    parts = epochs(read(method), 3, 0.5 * count(POOL))
    own = [{row["text"] for row in part if row not in SOURCES["web"]} for part in parts]
    # cutting by words may put a document at an epoch's end into the next one
    apart = [len(first ^ second) for first, second in itertools.pairwise(own)]
    assert all(number > 40 for number in apart) if resample == "dynamic" else all(number <= 4 for number in apart)
    union = set().union(*own)
    assert count([{"text": t} for t in union]) <= 0.5 * count(POOL) + 15, "all from one subset"


def test_without_a_mixture_an_epoch_is_the_subset() -> None:
    rows = read(StabilityGap(reference="trusted", epochs=5))
    assert set(Counter(row["text"] for row in rows).values()) == {5}
    size = len(rows) // 5
    parts = [[row["text"] for row in rows[i * size : (i + 1) * size]] for i in range(5)]
    assert all(set(part) == set(parts[0]) for part in parts)
    assert parts[0] != parts[1], "in new order"
    assert read(StabilityGap(reference="trusted", epochs=5), seed=2) != rows


def test_duplicates_and_short_rows_leave_first() -> None:
    rows = [{"text": "Too short."}, *GOOD[:20], *({"text": row["text"].upper() + " "} for row in GOOD[:20])]
    found = read(StabilityGap(select="random", share=1, epochs=1), rows)
    assert sorted(row["text"] for row in found) == sorted(row["text"] for row in GOOD[:20])


def test_quality_with_diversity() -> None:
    twins = [{"text": f"a b c d e f g h i j k l m {end}", "about": {"quality": q}} for end, q in (("n", 9), ("o", 8))]
    others = [{"text": " ".join(f"w{i}{j}" for j in range(14)), "about": {"quality": i}} for i in range(6)]
    rows = [*others, *twins]
    chosen = read(StabilityGap(select="quality", share=0.25, epochs=1, likeness=0.8), rows)
    assert {row["about"]["quality"] for row in chosen} == {9, 5}, "the second best repeats the best"
    chosen = read(StabilityGap(select="quality", share=0.25, epochs=1, likeness=1.0), rows)
    assert {row["about"]["quality"] for row in chosen} == {9, 8}
    with pytest.raises(DataError, match="ranked by quality"):
        read(StabilityGap(select="quality"), GOOD)
    assert read(StabilityGap(select="diverse", reference="trusted", epochs=1), POOL)


def test_rows_of_all_forms_are_read() -> None:
    chat = [{"role": "user", "content": "one two three"}, {"role": "assistant", "content": " four five six"}]
    rows = [{"messages": chat}, {"prompt": chat[:1], "completion": chat[1:]}, {"prompt": "a b c", "completion": " d e"}]
    assert [text_of(row) for row in rows] == ["one two three four five six"] * 2 + ["a b c d e"]
    assert len(read(StabilityGap(select="random", share=1, epochs=2), rows)) == 4, "two rows say the same"


def test_what_is_refused() -> None:
    for settings in (
        {},
        {"select": "random", "share": 0},
        {"select": "random", "epochs": 1.5},
        {"select": "random", "mixture": {"web": -0.1}},
        {"select": "random", "mixture": {"web": math.nan}},
        {"select": "random", "mixture": ["web"]},
        {"select": "random", "options": {"web": 3}},
        {"select": "worst"},
        {"reference": 3},
    ):
        with pytest.raises(ConfigError):
            StabilityGap(**settings)
    with pytest.raises(ConfigError, match="no room"):
        read(StabilityGap(select="random", mixture={"web": 0.7, "code": 0.3}))
    with pytest.raises(DataError, match="No row is left"):
        read(StabilityGap(select="random"), [{"text": "short"}])
    with pytest.raises(DataError, match="no row to read"):
        read(StabilityGap(select="random", mixture={"empty": 0.1}))
    with pytest.raises(DataError, match="no row to read"):
        read(StabilityGap(reference="empty"))
    with pytest.raises(DataError, match="no words"):
        KneserNey(["", " "])


def test_kneser_ney_is_a_distribution_and_that_of_a_count_by_hand() -> None:
    model = KneserNey(["a b a b", "a c"], order=2)
    vocabulary = ["a", "b", "c", "</s>", "never seen"]
    for history in ([], ["a"], ["b"], ["never seen"], ["<s>"]):
        assert sum(model.probability(word, history) for word in vocabulary) == pytest.approx(1.0)
    # bigrams: <s>a 2, ab 2, ba 1, b</s> 1, ac 1, c</s> 1; kinds to the left: a {<s>, b}, b {a}, c {a}, </s> {b, c}
    unigram = max(1 - 0.75, 0) / 6 + 0.75 * 4 / 6 * (1 / 5)
    wanted = max(2 - 0.75, 0) / 3 + 0.75 * 2 / 3 * unigram
    assert model.probability("b", ["a"]) == pytest.approx(wanted)
    (perplexity,) = model(["a b"])
    nats = [model.probability(w, h) for w, h in (("a", ["<s>"]), ("b", ["a"]), ("</s>", ["b"]))]
    assert perplexity == pytest.approx(math.prod(nats) ** (-1 / 3))
    for order in (1, 3):
        scores = KneserNey([row["text"] for row in SOURCES["trusted"]], order=order)(
            [*(row["text"] for row in GOOD), *(row["text"] for row in BAD)]
        )
        assert max(scores[:300]) < min(scores[300:])


def tiny() -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=load_tokenizer("embedded").vocab_size, **shape)).train()


def test_a_model_as_scorer_and_kenlm_where_it_is() -> None:
    model, tokenizer = tiny(), load_tokenizer("embedded")
    sentence = "The sky is blue."
    ids = torch.tensor([tokenizer(sentence)["input_ids"]])
    with torch.no_grad():
        wanted = float(torch.exp(model.eval()(input_ids=ids, labels=ids).loss))
    model.train()
    assert ModelScorer(model, tokenizer)([sentence, ""]) == [pytest.approx(wanted, rel=1e-4), math.inf]
    assert model.training
    try:
        import kenlm  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="not installed"):
            load_kenlm("model.arpa")


def test_the_gap_of_a_curve() -> None:
    gap = measure_gap([0, 10, 20, 30, 40], [50, 44, 48, 52, 51])
    assert (gap.depth, gap.length, gap.lowest_at, gap.peak, gap.peak_at) == (6, 25, 10, 52, 30)
    gap = measure_gap([0, 10, 20], [1.0, 2.0, 1.5], higher_is_better=False)
    assert (gap.depth, gap.length, gap.peak) == (1.0, math.inf, 1.0)
    rising = measure_gap([5, 6, 7], [1, 2, 3])
    assert (rising.depth, rising.length, rising.peak_at) == (0, 0, 7)
    late = measure_gap([0, 10, 20, 30], [1, 2, 0, 1])
    assert (late.depth, late.length, late.peak_at) == (1, 30, 10)
    for tokens, scores in (([0], [1]), ([0, 1], [1]), ([0, 0], [1, 2]), ([0, 1], [1, math.nan])):
        with pytest.raises(ConfigError):
            measure_gap(tokens, scores)


def test_relative_updates_by_layer() -> None:
    model = tiny()
    record = GapRecord()
    record.see(0, model, general=1.0)
    assert math.isnan(record.updates[0]["ratio"])
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    factors = [1.4, 1.2, 1.1, 1.0]
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            for weight in layer.parameters():
                weight.mul_(factors[number])
        model.lm_head.weight.mul_(9)
    found = relative_updates(before, model, ends=1)
    assert found["bottom"] == pytest.approx(0.4, rel=1e-4)
    assert found["top"] == pytest.approx(0.0, abs=1e-6)
    found = relative_updates(before, model)
    assert found == pytest.approx({"bottom": 0.3, "top": 0.05, "ratio": 6.0}, rel=1e-3)
    record.see(100, model, general=0.5)
    assert record.updates[1] == pytest.approx(found)
    assert record.gap("general").depth == 0.5
    with pytest.raises(ConfigError, match="same scores"):
        record.see(200, model, other=1.0)
    with pytest.raises(ConfigError, match="beginning is not known"):
        relative_updates({}, model)
    with pytest.raises(ConfigError, match="numbered layers"):
        relative_updates({}, torch.nn.Linear(2, 2))


def test_a_run_reads_the_rows_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from infosteer.training import sft, trainer
    from infosteer.training.settings import TrainSettings

    seen: list[list[int]] = []

    def stop(made: Any) -> Any:
        seen.append([int(i) for i in made._get_train_sampler(made.train_dataset)])
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "load_model", lambda name, dtype: tiny())
    monkeypatch.setattr("infosteer.training.attach.attach", lambda trainer, *rest, **more: stop(trainer))
    for methods in ([StabilityGap(select="random", share=1, epochs=2)], []):
        settings = TrainSettings(per_device_train_batch_size=4, gradient_accumulation_steps=1)
        with pytest.raises(KeyboardInterrupt):
            sft.train_sft(
                model="embedded", rows=GOOD[:10], settings=settings, methods=methods, seed=1, output_dir=tmp_path
            )
    assert seen[0] == list(range(20))
    assert sorted(seen[1]) == list(range(10)) != seen[1]
