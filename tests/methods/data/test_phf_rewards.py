"""Rewards: segments and their scores, at their characters and at their tokens."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from phf_rows import ROWS, made

from infosteer.core.marks import TokenRow
from infosteer.errors import ConfigError, DataError
from infosteer.methods.data.phf import LexiconReward, add_rewards
from infosteer.methods.data.phf.rewards import split
from infosteer.methods.losses.phf import PreferenceLoss
from infosteer.training.encode import encode_rows
from infosteer.training.loading import load_tokenizer


def test_segments_and_the_lexicon(tmp_path: Path) -> None:
    for text in ("One two. 3.5 is\nfour! ", "no end", "", "\n\n", "a.\nb.\n"):
        for by in ("sentence", "line", "row"):
            assert "".join(split(text, by)) == text
    assert split("One. Two!  3.5 is", "sentence") == ["One.", " Two!", "  3.5 is"]
    assert split("a\n\nb", "line") == ["a\n", "\n", "b"]
    reward = LexiconReward([" Bad", "worse "])
    assert reward(["BAD worse good day", "badly", "...", ""]) == [-0.5, 0, 0, 0]
    (tmp_path / "words.txt").write_text("bad\n\nworse\n")
    assert LexiconReward(str(tmp_path / "words.txt")).words == {"bad", "worse"}
    with pytest.raises(DataError, match="cannot be read"):
        LexiconReward(str(tmp_path / "none.txt"))
    with pytest.raises(ConfigError, match="needs some"):
        LexiconReward([" "])


def test_rewards_stand_at_their_characters() -> None:
    (row, *_) = made(ROWS, objective="score")
    assert [row["text"][start:end] for start, end, _ in row["rewards"]] == ["A good day.", " A bad day!", " A day."]
    assert [value for *_, value in row["rewards"]] == [0, pytest.approx(-1 / 3), 0]
    assert made([{"text": "bad", "rewards": [[0, 3, 0.7]]}], objective="score")[0]["rewards"] == [[0, 3, 0.7]]
    for wrong in (lambda _: [0.0], lambda s: [math.nan] * len(s)):
        with pytest.raises(DataError, match="no finite number"):
            add_rewards(ROWS, wrong)


def test_tokens_get_the_reward_of_their_segment() -> None:
    tokenizer = load_tokenizer("embedded")
    rows = [*made(ROWS, objective="score"), {"prompt": "A bad day.", "completion": " Bad day. Fine.", "rewards": []}]
    rows[-1:] = made([{"prompt": "A bad day.", "completion": " Bad day. Fine."}], objective="score")
    for row, encoded in zip(rows, encode_rows(rows, tokenizer, methods=[PreferenceLoss()]).rows, strict=True):
        marks, ids = encoded["marks_phf"], encoded["input_ids"]
        scored = [place for place, mark in enumerate(marks) if not math.isnan(mark)]
        assert math.isnan(marks[-1]), "the end token"
        for start, end, value in row["rewards"]:
            mine = [ids[place] for place in scored if marks[place] == value]
            assert row.get("text", row.get("completion"))[start:end].strip() in tokenizer.decode(mine)
        if "prompt" in row:
            assert [label != -100 for label in encoded["labels"][:-1]] == [p in scored for p in range(len(ids) - 1)]


def test_rewards_of_chats_survive_a_template_that_strips() -> None:
    content = "  Ab. Cd."
    text = f"<u>hi<a>{content.strip()}"
    row = TokenRow(
        row={"messages": [{"content": "hi"}, {"content": content}], "rewards": [[0, 5, -1.0], [5, 9, 0.0]]},
        text=text,
        ids=[0] * len(text),
        spans=[(i, i + 1) for i in range(len(text))],
        parts=[("user", 3, 5), ("assistant", 8, len(text))],
        completion=8,
    )
    (marks,) = PreferenceLoss().marks([row])
    assert all(math.isnan(mark) for mark in marks[:8])
    assert marks[8:] == [-1, -1, -1, 0, 0, 0, 0]
