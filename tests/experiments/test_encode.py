"""Token ids and labels are those that TRL's own preparation makes of the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from infosteer.errors import ConfigError, DataError
from infosteer.training.encode import encode_row, encode_rows
from infosteer.training.loading import load_model

PLAIN = [{"prompt": "Who? ", "completion": "Nobody knows"}, {"prompt": "2 + 2 = ", "completion": "4<end>"}]
TURNS = [
    {
        "prompt": [{"role": "user", "content": "Who?"}],
        "completion": [{"role": "assistant", "content": "Nobody"}],
    }
]


def by_trl(rows: list[dict[str, Any]], inputs: Path, out: Path, *, chat: bool, **options: Any) -> list[dict[str, Any]]:
    arguments = SFTConfig(output_dir=str(out), use_cpu=True, bf16=False, report_to="none", **options)
    trainer = SFTTrainer(
        load_model(str(inputs / "model")),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny.make_tokenizer(chat=chat),
    )
    return [{key: row[key] for key in ("input_ids", "labels")} for row in trainer.train_dataset]


@pytest.mark.parametrize("completion_only", [True, False])
@pytest.mark.parametrize("max_length", [None, 12])
def test_plain_rows_are_encoded_as_trl_does(
    inputs: Path, tmp_path: Path, completion_only: bool, max_length: int | None
) -> None:
    theirs = by_trl(PLAIN, inputs, tmp_path, chat=False, completion_only_loss=completion_only, max_length=max_length)
    ours = encode_rows(PLAIN, tiny.make_tokenizer(), completion_only_loss=completion_only, max_length=max_length)
    assert ours.rows == theirs


def test_conversations_are_encoded_as_trl_does(inputs: Path, tmp_path: Path) -> None:
    theirs = by_trl(TURNS, inputs, tmp_path, chat=True, max_length=None)
    assert encode_rows(TURNS, tiny.make_tokenizer(chat=True)).rows == theirs


def test_messages_carry_loss_on_the_last_reply() -> None:
    tokenizer = tiny.make_tokenizer(chat=True)
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    row = encode_row({"messages": messages}, tokenizer)
    trained = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert tokenizer.decode(trained) == "d<end>"


def test_text_rows_carry_loss_everywhere_and_end() -> None:
    tokenizer = tiny.make_tokenizer()
    row = encode_row({"text": "hello"}, tokenizer)
    assert row["labels"] == row["input_ids"]
    assert tokenizer.decode(row["input_ids"]) == "hello<end>"


def test_rows_cut_before_their_answer_are_counted_and_none_left_is_an_error() -> None:
    rows = [{"prompt": "x" * 20, "completion": "y"}, {"prompt": "x", "completion": "y"}]
    encoded = encode_rows(rows, tiny.make_tokenizer(), max_length=8)
    assert (len(encoded.rows), encoded.truncated, encoded.dropped) == (1, 1, 1)
    with pytest.raises(DataError, match="max_length"):
        encode_rows(rows[:1], tiny.make_tokenizer(), max_length=8)


def test_messages_without_a_chat_template_are_refused() -> None:
    with pytest.raises(ConfigError, match="chat template"):
        encode_rows(TURNS, tiny.make_tokenizer())
