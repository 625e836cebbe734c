"""Examples in training prompts: whose they are, where they stand, and that the loss is on the row's own answer."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import infosteer
from infosteer.core.data import DataContext
from infosteer.core.demo_slots import SLOTS, ZERO_SHOT
from infosteer.errors import ConfigError, DataError
from infosteer.methods.data.demo_slots import DemoSlots
from infosteer.training.encode import encode_row
from infosteer.training.loading import load_tokenizer

ROWS = [
    {"prompt": f"q{i}?", "completion": f" a{i}", "about": {"task": "even" if i % 2 == 0 else "odd"}} for i in range(40)
]


def transform(method: DemoSlots, rows: Any = ROWS, *, seed: int = 1, strength: float = 1.0) -> list[dict[str, Any]]:
    return method.transform(rows, DataContext(seed=seed, strength=strength, read=lambda *_, **__: []))


def test_examples_are_other_rows_of_the_task_at_the_place_that_was_drawn() -> None:
    for slot in SLOTS:
        made = transform(DemoSlots(demos=3, slots=[slot], closing="Now."))
        for number, row in enumerate(made):
            system, user = (message["content"] for message in row["prompt"])
            assert [message["role"] for message in row["prompt"]] == ["system", "user"]
            assert row["completion"] == [{"role": "assistant", "content": f"a{number}"}]
            held = (system if slot in ("ssp", "esp") else user).split("\n\n")
            shown = [part for part in held if part[:1] == "q" and " a" in part]
            numbers = [int(part.split("?")[0][1:]) for part in shown]
            assert shown == [f"q{i}? a{i}" for i in numbers]
            assert len(set(numbers)) == 3
            assert number not in numbers
            assert all(i % 2 == number % 2 for i in numbers)
            wanted = {
                "ssp": ([*shown, "Answer the question."], [f"q{number}?", "Now."]),
                "esp": (["Answer the question.", *shown], [f"q{number}?", "Now."]),
                "sum": (["Answer the question."], [*shown, f"q{number}?", "Now."]),
                "eum": (["Answer the question."], [f"q{number}?", *shown, "Now."]),
            }[slot]
            assert ([*system.split("\n\n")], [*user.split("\n\n")]) == wanted


def test_places_are_drawn_for_each_row_by_the_seed() -> None:
    rows = [{"prompt": f"q{i}", "completion": "a"} for i in range(2000)]
    method = DemoSlots(demos=1, slots=[*SLOTS, ZERO_SHOT], instruction="S")
    made = transform(method, rows)

    def slot_of(row: dict[str, Any]) -> str:
        system, user = (message["content"].split("\n\n") for message in row["prompt"])
        if len(system) == 2:
            return "esp" if system[0] == "S" else "ssp"
        return ZERO_SHOT if len(user) == 1 else "sum" if user[0].endswith(" a") else "eum"

    counts = Counter(map(slot_of, made))
    assert set(counts) == {*SLOTS, ZERO_SHOT}
    assert all(abs(count - 400) < 90 for count in counts.values())  # five standard deviations
    assert transform(method, rows) == made
    assert transform(method, rows, seed=2) != made


def test_strength_is_the_share_of_rows_and_the_rest_is_left_alone() -> None:
    made = transform(DemoSlots(demos=2), strength=0.25)
    assert sum(a is not b and a != b for a, b in zip(made, ROWS, strict=True)) == 10
    with pytest.raises(ConfigError, match="strength 1"):
        transform(DemoSlots(demos=2), strength=1.5)


def test_in_words_the_loss_is_on_the_rows_own_answer() -> None:
    rows = [{"prompt": f"Question {i}:", "completion": f" yes {i}"} for i in range(4)]
    tokenizer = load_tokenizer("embedded")
    for number, row in enumerate(infosteer.transform_rows(rows, [DemoSlots(demos=2, frame="words")], seed=3)):
        encoded = encode_row(row, tokenizer)
        kept = [i for i, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label != -100]
        assert tokenizer.decode(kept, skip_special_tokens=True) == f" yes {number}"
        text = tokenizer.decode(encoded["input_ids"], skip_special_tokens=True)
        assert text.count(" yes ") == 3
        assert text.endswith(f"Assistant: yes {number}")


def test_chats_keep_their_own_instruction() -> None:
    rows = [
        {"prompt": [{"role": "system", "content": "own"}, {"role": "user", "content": f"q{i}"}],
         "completion": [{"role": "assistant", "content": "a"}]}
        for i in range(3)
    ]  # fmt: skip
    (system, user) = transform(DemoSlots(demos=1, slots=["sum"]), rows)[0]["prompt"]
    assert system["content"] == "own\n\nAnswer the question."
    assert user["content"].endswith("\n\nq0")


@pytest.mark.parametrize(
    "row", [{"text": "plain"}, {"prompt": [{"role": "user", "content": "a"}] * 3, "completion": "b"}, {"prompt": "a"}]
)
def test_rows_that_are_no_questions_are_refused(row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="one turn"):
        transform(DemoSlots(demos=1), [*ROWS, row])


def test_too_few_rows_and_bad_settings_are_refused() -> None:
    with pytest.raises(DataError, match=r"too few rows(.|\n)*the task even"):
        transform(DemoSlots(demos=20))
    for wrong in ({"demos": 0}, {"demos": 2.5}, {"slots": "sum"}, {"slots": []}, {"slots": ["middle"]},
                  {"frame": "xml"}, {"instruction": None}):  # fmt: skip
        with pytest.raises(ConfigError):
            DemoSlots(**wrong)
