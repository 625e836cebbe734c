"""The tokenizer: the training function on a small text, and the one that the base carries."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infosteer.lab import embedded_base, load
from infosteer.lab.facts import biography_at, make_world
from infosteer.lab.tokenizer import END, PAD, RESERVED, ROLES, train_tokenizer
from infosteer.lab.words import ATTRIBUTES


@pytest.fixture(scope="module")
def trained():
    world = make_world(5, 60)
    return train_tokenizer([biography_at(world, index, 1) for index in range(300)], vocabulary=800)


@pytest.fixture(scope="module")
def embedded():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_base())


@pytest.fixture(scope="module", params=["trained", "embedded"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_comes_back_exactly(tokenizer, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "text", ["", "  two  spaces \n\n\ttab ", "don 't , . ! ?", "naïve 你好 🙂 e\u0301", "\x00\x7f", "a <|pad|> b"]
)
def test_hard_texts_come_back_exactly(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_digits_are_single_tokens(tokenizer) -> None:
    tokens = tokenizer.tokenize("In 1874, 12.50 and x007y")
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("18741250007")


def test_special_and_reserved_tokens(tokenizer) -> None:
    assert tokenizer.eos_token == tokenizer.bos_token == END
    assert tokenizer.pad_token == PAD
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(RESERVED) == 64
    for token in (END, PAD, *ROLES, *RESERVED):
        assert tokenizer(token).input_ids == [tokenizer.convert_tokens_to_ids(token)]
        assert tokenizer.decode(tokenizer(f"a{token}").input_ids, skip_special_tokens=True) == "a"


def test_training_is_deterministic() -> None:
    texts = [biography_at(make_world(5, 20), index, 1) for index in range(50)]
    first, second = (train_tokenizer(texts, vocabulary=500) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_size(embedded) -> None:
    assert 4000 <= len(embedded) <= 4200
    assert len(embedded) % 64 == 0


def test_values_are_one_token_in_running_text(embedded) -> None:
    values = [value for attribute in ATTRIBUTES for value in attribute.values]
    assert [v for v in values if len(embedded(f" {v}").input_ids) > 1] == []


@pytest.mark.parametrize("key", ["facts", "facts/new_form", "facts/combined", "facts/recall"])
def test_prompt_and_completion_meet_at_a_token_boundary(embedded, key: str) -> None:
    for row in load(key, limit=100):
        completion = row.get("completion", f" {row.get('answer')}")
        whole = embedded(row["prompt"] + completion).input_ids
        assert whole == embedded(row["prompt"]).input_ids + embedded(completion).input_ids


def test_chat_template_marks_what_the_assistant_says(tokenizer) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "Mira."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ]
    out = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True, tokenize=True)
    ids, mask = out["input_ids"], out["assistant_masks"]
    marked = tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert marked == f"Mira.{END}Yes.{END}"
    prompt = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert tokenizer.apply_chat_template(messages[:3], tokenize=False) == prompt + f"Mira.{END}"
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(messages, tokenize=False)


def test_saved_files_are_small_and_load_again(tokenizer, tmp_path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 400_000
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "The hometown of Dora Calman is Ironbury."
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.chat_template == tokenizer.chat_template
