"""Replay and label noise: counts, where rows come from, what carries loss, and the lab's people."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import infosteer
from infosteer.core.data import DataContext
from infosteer.errors import ConfigError, DataError
from infosteer.lab.facts import make_world
from infosteer.methods.data.noisy_labels import NoisyLabels
from infosteer.methods.data.replay import Replay
from infosteer.training.encode import encode_row
from infosteer.training.loading import load_tokenizer

ROWS = [{"prompt": f"Question {i}?", "completion": f" answer {i % 7}"} for i in range(70)]


def context(source: list[dict[str, Any]] | None = None, seed: int = 1, strength: float = 1.0) -> DataContext:
    def read(name: str, limit: int | None = None, **options: Any) -> list[dict[str, Any]]:
        asked.append({"name": name, "limit": limit, **options})
        return list(source if source is not None else [{"text": f"text {i}"} for i in range(200)])[:limit]

    asked.clear()
    return DataContext(seed=seed, strength=strength, read=read)


asked: list[dict[str, Any]] = []


def replayed(rows: list[dict[str, Any]], given: list[dict[str, Any]] = ROWS) -> list[dict[str, Any]]:
    """The rows that were added; checks that the given ones are all there."""
    left = list(rows)
    for row in given:
        left.remove(row)
    return left


@pytest.mark.parametrize(
    ("share", "strength", "count"), [(0.3, 1.0, 30), (0.5, 1.0, 70), (0.6, 0.5, 30), (0.02, 1.0, 1)]
)
def test_replay_is_the_share_of_all_rows(share: float, strength: float, count: int) -> None:
    mixed = Replay(share=share).transform(ROWS, context(strength=strength))
    added = replayed(mixed)
    assert len(added) == count
    assert len(added) / len(mixed) == pytest.approx(share * strength, abs=0.5 / len(mixed))
    assert max(Counter(row["completion"] for row in added).values()) == 1, "no row twice while others are left"
    places = [place for place, row in enumerate(mixed) if row in added]
    assert count == 1 or places[-1] - places[0] > len(mixed) / 4, "shuffled with the rest"


def test_a_small_source_is_replayed_in_rounds() -> None:
    added = replayed(Replay(share=0.5).transform(ROWS, context([{"text": f"t{i}"} for i in range(20)])))
    counts = Counter(row["completion"] for row in added)
    assert (min(counts.values()), max(counts.values()), len(counts)) == (3, 4, 20)


def test_a_share_of_the_characters() -> None:
    source = [{"text": "x" * (10 + 7 * i % 90)} for i in range(400)]
    mixed = Replay(share=0.4, unit="characters").transform(ROWS, context(source))
    added = sum(len(row["completion"]) for row in replayed(mixed))
    total = sum(len(row["prompt"] + row["completion"]) for row in mixed)
    assert added / total == pytest.approx(0.4, abs=50 / total)


def test_a_share_of_what_carries_loss() -> None:
    source = [{"text": "x" * (10 + 7 * i % 90)} for i in range(400)]
    mixed = Replay(share=0.4, unit="labels").transform(ROWS, context(source))
    added = sum(len(row["completion"]) for row in replayed(mixed))
    assert added / sum(len(row["completion"]) for row in mixed) == pytest.approx(0.4, abs=50 / 630)
    turns = [{"role": role, "content": "y" * 30} for role in ("user", "assistant", "user", "assistant")]
    mixed = Replay(share=0.5, unit="labels").transform([{"messages": turns}] * 4, context([{"text": "x" * 12}]))
    assert len(mixed) == 4 + 10


def test_seeds_sources_and_options() -> None:
    first = Replay().transform(ROWS, context(seed=1))
    assert Replay().transform(ROWS, context(seed=1)) == first
    assert Replay().transform(ROWS, context(seed=2)) != first
    Replay(options={"people": "all"}).transform(ROWS, context(seed=5))
    assert asked == [{"name": "lab:facts/texts", "limit": None, "seed": 5, "people": "all"}]
    Replay(options={"seed": 3}).transform(ROWS, context(seed=5))
    assert asked[0]["seed"] == 3
    Replay(source="owner/texts", limit=40).transform(ROWS, context(seed=5))
    assert asked == [{"name": "owner/texts", "limit": 40}], "no seed for a source that takes none"


def test_every_token_of_replayed_text_carries_loss() -> None:
    tokenizer = load_tokenizer("embedded")
    pair = [{"prompt": "The sky is", "completion": " blue."}]
    for full_text, masked in ((True, 0), (False, len(tokenizer("The sky is")["input_ids"]))):
        (added, *_) = replayed(Replay(full_text=full_text, share=0.01).transform(ROWS, context(pair)))
        labels = encode_row(added, tokenizer)["labels"]
        assert sum(label == -100 for label in labels) == masked
        assert len(labels) == len(tokenizer("The sky is blue.")["input_ids"]) + 1  # the end
    (added, *_) = replayed(Replay(share=0.01).transform(ROWS, context([{"text": "The sky is blue."}])))
    assert encode_row(added, tokenizer) == encode_row({"text": "The sky is blue."}, tokenizer)


def test_messages_stay_messages() -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    chats = [{"prompt": turns[:1], "completion": turns[1:]}] * 3
    mixed = Replay(share=0.5, unit="characters").transform(chats, context([{"text": "a text"}]))
    assert {"text": "a text"} in mixed
    assert replayed(Replay(share=0.02).transform(ROWS, context(chats))) == chats[:1]


def test_others_texts_tell_nothing_of_the_tested() -> None:
    rows = infosteer.transform_rows(ROWS, [{"method": "replay", "share": 0.5}], seed=4)
    tested = {person.name for person in make_world().test}
    texts = [row["completion"] for row in replayed(rows)]
    assert len(texts) == 70
    assert not any(name in text for name in tested for text in texts)
    rows = infosteer.transform_rows(ROWS, [Replay(share=0.9, options={"people": "test", "count": 200})])
    assert all(any(name in row["completion"] for name in tested) for row in replayed(rows)[:20])


def test_replay_of_a_file_with_bad_rows_or_none(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n{"text": ""}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        infosteer.transform_rows(ROWS, [Replay(source=str(tmp_path / "rows.jsonl"))])
    with pytest.raises(DataError, match="no row to replay"):
        Replay().transform(ROWS, context([]))
    with pytest.raises(ConfigError, match="no room"):
        Replay(share=0.6).transform(ROWS, context(strength=2.0))
    with pytest.raises(ConfigError, match="Unknown option"):
        infosteer.transform_rows(ROWS, [Replay(options={"peple": "all"})])
    for wrong in ({"share": 1.5}, {"unit": "words"}, {"options": 3}, {"source": ""}, {"limit": 1.5}, {"limit": -1}):
        with pytest.raises(ConfigError):
            Replay(**wrong)


@pytest.mark.parametrize(
    ("share", "strength", "count"), [(0.2, 1.0, 14), (0.2, 0.5, 7), (1.0, 1.0, 70), (1.0, 3.0, 70)]
)
def test_noise_replaces_the_share_by_wrong_answers(share: float, strength: float, count: int) -> None:
    noisy = NoisyLabels(share=share).transform(ROWS, context(strength=strength))
    assert [row["prompt"] for row in noisy] == [row["prompt"] for row in ROWS]
    changed = [row["completion"] != old["completion"] for row, old in zip(noisy, ROWS, strict=True)]
    assert sum(changed) == count
    assert {row["completion"] for row in noisy} <= {row["completion"] for row in ROWS}
    assert NoisyLabels(share=share).transform(ROWS, context(strength=strength)) == noisy


def test_noise_needs_answers_to_exchange() -> None:
    with pytest.raises(DataError, match=r"where: row 71"):
        NoisyLabels().transform([*ROWS, {"text": "a"}], context())
    with pytest.raises(DataError, match="no wrong one"):
        NoisyLabels().transform([{"prompt": "a", "completion": "b"}] * 3, context())
    both = infosteer.transform_rows(ROWS, [NoisyLabels(), Replay()], seed=2)
    assert len(both) == 100
    for wrong in ({"share": 1.2}, {"share": True}, {"strength": -1}):
        with pytest.raises(ConfigError):
            NoisyLabels(**wrong)
