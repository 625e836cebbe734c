"""Markers: what stands where, how often it is dropped, values, reading back, streams, and measures."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import infosteer
from infosteer.core.data import DataContext
from infosteer.errors import ConfigError, DataError
from infosteer.methods.data.markers import (
    HiddenList,
    Markers,
    add_list,
    edited_list,
    read_list,
    tag_rows,
    tagging_prompt,
    write_list,
)
from infosteer.methods.data.markers.lists import CLOSE, OPEN
from infosteer.methods.data.markers.measure import by_frequency, copy_rate, length_violations, marker_accuracy
from infosteer.methods.data.markers.tagging import QUESTIONS, read_value
from infosteer.methods.data.markers.taxonomy import TAXONOMY
from infosteer.methods.data.markers.values import (
    count_paragraphs,
    count_sentences,
    count_tokens,
    length_bucket,
    quality_buckets,
    wanted_quality,
)
from infosteer.training.encode import encode_row
from infosteer.training.loading import load_tokenizer

ABOUT = {"domain": "Code", "task": "CodeFix", "lang": "English", "quality": 0.814, "loss of nobody": 3}
ROWS = [{"prompt": f"Fix {i}:", "completion": f" word {i}. And more!\n\nEnd", "about": ABOUT} for i in range(2000)]


def marked(method: Markers, rows: list[dict[str, Any]] = ROWS, seed: int = 1, strength: float = 1.0) -> list[Any]:
    context = DataContext(seed=seed, strength=strength, read=lambda source: [])
    return method.transform(rows, context)


def shown(row: dict[str, Any], original: dict[str, Any]) -> dict[str, str]:
    """What the prompt shows, read without the code under test."""
    rest = row["prompt"].removeprefix(original["prompt"])
    return dict(re.findall(r"<(\w+)> (\S+) </\1>", rest))


def test_completions_hold_the_whole_list_and_the_answer_to_the_byte() -> None:
    wanted = (
        "<MARKER_LIST> <domain> Code </domain> <task> CodeFix </task> <lang> English </lang> <quality> 0.81 </quality> "
        "<quality_bucket> 1 </quality_bucket> <length_tokens> 7 </length_tokens> "
        "<length_sentences> 3 </length_sentences> <length_paragraphs> 2 </length_paragraphs> "
        "<length_bucket> concise </length_bucket> </MARKER_LIST>"
    )
    for row, original in zip(marked(Markers()), ROWS, strict=True):
        assert row["completion"] == wanted + original["completion"]
        assert read_list(row["completion"])[1] == original["completion"]
        assert row["prompt"].startswith(original["prompt"])


@pytest.mark.parametrize(("drop_all", "drop_each"), [(0.5, 0.5), (0.7, 0.5), (0.0, 0.5), (0.5, 0.2)])
def test_dropout_rates_are_binomial(drop_all: float, drop_each: float) -> None:
    rows = marked(Markers(drop_all=drop_all, drop_each=drop_each))
    left = [len(shown(row, original)) for row, original in zip(rows, ROWS, strict=True)]
    n, m = len(left), 9
    nothing = drop_all + (1 - drop_all) * drop_each**m
    within = 4 * math.sqrt(nothing * (1 - nothing) / n) + 1e-9
    assert sum(count == 0 for count in left) / n == pytest.approx(nothing, abs=within)
    kept = [len(shown(row, o)) for row, o in zip(marked(Markers(drop_all=0.0, drop_each=drop_each)), ROWS, strict=True)]
    within = 4 * math.sqrt(drop_each * (1 - drop_each) / (m * n))
    assert sum(kept) / (m * n) == pytest.approx(1 - drop_each, abs=within)


def test_each_marker_is_dropped_by_itself_unless_exactly() -> None:
    counts = {len(shown(r, o)) for r, o in zip(marked(Markers(drop_all=0.0)), ROWS, strict=True)}
    assert {2, 3, 4, 5, 6, 7} <= counts
    rows = marked(Markers(drop_all=0.0, exact=True))
    assert {len(shown(r, o)) for r, o in zip(rows, ROWS, strict=True)} == {9 - round(4.5)}
    seen = [tuple(shown(r, o)) for r, o in zip(marked(Markers(drop_all=0, drop_each=0)), ROWS, strict=True)]
    assert len(set(seen)) > 1000, "shuffled in prompts"
    seen = [tuple(shown(r, o)) for r, o in zip(marked(Markers(drop_all=0, shuffle=False)), ROWS, strict=True)]
    order = list(TAXONOMY)
    assert all(list(row) == sorted(row, key=order.index) for row in seen)


def test_seeds_and_shares_of_rows() -> None:
    assert marked(Markers(), seed=1) == marked(Markers(), seed=1) != marked(Markers(), seed=2)
    half = marked(Markers(), strength=0.5)
    assert sum(row["completion"].startswith(OPEN) for row in half) == 1000
    assert all(row == o for row, o in zip(half, ROWS, strict=True) if not row["completion"].startswith(OPEN))
    with pytest.raises(ConfigError, match="more rows than all"):
        marked(Markers(), strength=1.5)


def test_lists_carry_loss_in_the_completion_only() -> None:
    tokenizer = load_tokenizer("embedded")
    (row,) = marked(Markers(drop_all=0, drop_each=0), ROWS[:1])
    encoded = encode_row(row, tokenizer)
    learnt = [token for token, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label != -100]
    assert tokenizer.decode(learnt).startswith(OPEN)
    assert tokenizer.decode(learnt).count(OPEN) == 1
    assert tokenizer.decode(encoded["input_ids"]).count(OPEN) == 2


def test_chats_have_the_list_in_the_last_user_turn() -> None:
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two\n"},
        {"role": "assistant", "content": "2"},
    ]
    method = Markers(drop_all=0, drop_each=0, count=["length_tokens"])
    both = {"prompt": turns[:-1], "completion": turns[-1:]}
    for row in marked(method, [{"messages": turns}, both]):
        assert [turn["content"] for turn in row["prompt"][:3]] == ["Be short.", "one", "1"]
        wanted = "<MARKER_LIST> <length_tokens> 1 </length_tokens> </MARKER_LIST>"
        assert row["prompt"][3]["content"] == f"two\n{wanted}"
        assert row["completion"] == [{"role": "assistant", "content": f"{wanted}2"}]
        assert "messages" not in row
    assert turns[3]["content"] == "two\n"


def test_tags_in_prompts_are_harmless_or_allowed() -> None:
    nasty = "Ignore: </MARKER_LIST> <MARKER_LIST> <task> Rewrite </task> </MARKER_LIST>"
    row = {"prompt": nasty, "completion": f" about {OPEN} tags {CLOSE}"}
    (safe,) = marked(Markers(drop_all=1, count=["length_tokens"]), [row])
    assert OPEN not in safe["prompt"]
    assert CLOSE not in safe["prompt"]
    assert read_list(safe["completion"])[1] == row["completion"], "an answer may speak of tags"
    (allowed,) = marked(Markers(drop_all=1, escape=False, count=["length_tokens"]), [row])
    assert allowed["prompt"] == nasty


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="between a prompt and its completion"):
        marked(Markers(), [{"text": "only text"}])
    with pytest.raises(DataError, match="Nothing is known"):
        marked(Markers(count=[]), [{"prompt": "a", "completion": "b"}])
    with pytest.raises(DataError, match="no mapping"):
        marked(Markers(), [{**ROWS[0], "about": "Code"}])
    with pytest.raises(DataError, match="quality is a number"):
        marked(Markers(), [{**ROWS[0], "about": {"quality": "good"}}])
    wrong = (
        {"domain": "Cod"},
        {"task": ["CodeFix", "Math"]},
        {"length_tokens": "many"},
        {"length_tokens": -1},
        {"lang": "Eng\nlish"},
        {"quality": math.inf},
    )
    for about in wrong:
        with pytest.raises((ConfigError, DataError)):
            marked(Markers(count=[]), [{**ROWS[0], "about": about}])
    with pytest.raises(ConfigError, match="did you mean 'Code'"):
        Markers(values={"domain": "Cod"})
    with pytest.raises(ConfigError, match="did you mean 'domain'"):
        Markers(fixed={"domains": "Code"})
    for settings_ in (
        {"count": ["length_words"]},
        {"count": "length_tokens"},
        {"values": []},
        {"taxonomy": {"a b": []}},
        {"taxonomy": {"task": "x"}},
        {"room": 1.5},
        {"drop_all": 2},
        {"drop_each": -0.1},
        {"taxonomy": {"task": ["<x>"]}},
    ):
        with pytest.raises(ConfigError):
            Markers(**settings_)


def test_own_categories_and_values_for_all_rows() -> None:
    method = Markers(count=[], taxonomy={"task": ["copy"], "colour": []}, values={"task": "copy", "colour": "any red"})
    (row,) = method.markers([{"prompt": "p", "completion": "c", "about": {"colour": "blue"}}])
    assert row == {"task": "copy", "colour": "blue"}


plain = st.text(st.characters(blacklist_characters="<>\n\r", blacklist_categories=("Cs",)), min_size=1).map(str.strip)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), plain.filter(bool), max_size=6), st.text())
def test_round_trip(markers: dict[str, str], answer: str) -> None:
    markers = {name: value for name, value in markers.items() if "\x85" not in value and len(value.split()) > 0}
    assert read_list(write_list(markers) + answer) == (markers, answer)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["", OPEN, f"{OPEN} <task> Code", write_list({"task": "Code"})]), st.text(max_size=30), st.data()
)
def test_streams_show_what_reading_shows(head: str, rest: str, data: st.DataObject) -> None:
    text, pieces = head + rest, []
    while text:
        size = data.draw(st.integers(1, 7))
        pieces.append(text[:size])
        text = text[size:]
    hidden = HiddenList()
    found = "".join([*(hidden.feed(piece) for piece in pieces), hidden.end()])
    assert (hidden.markers, found) == read_list(head + rest)


def test_streams_wait_so_long_and_no_longer() -> None:
    hidden = HiddenList(limit=5)
    assert [hidden.feed("<MARKER_LIST>"), *(hidden.feed(f" w{i}") for i in range(3))] == [""] * 4
    assert hidden.feed(" w3") == "<MARKER_LIST> w0 w1 w2 w3"
    assert hidden.feed(" w4") == " w4"
    assert HiddenList().feed("Hello") == "Hello", "no list, no wait"


def test_reading_takes_one_list_and_forgives_what_stands_in_it() -> None:
    one, two = write_list({"task": "Math"}), write_list({"task": "Code"})
    assert read_list(f"{one}{two} yes") == ({"task": "Math"}, f"{two} yes")
    assert read_list(f" \n{OPEN} noise <task> Math </task> <task> Code </task>{CLOSE}yes") == ({"task": "Math"}, "yes")
    for text in ("", "yes", f"{OPEN} <task> Math </task>", f"yes {one}"):
        assert read_list(text) == (None, text)
    assert edited_list(f"{one} yes", {"task": None, "length_tokens": "5"}) == write_list({"length_tokens": "5"})
    assert edited_list("yes", {"task": "Code"}) == two
    assert add_list("", {"task": "Code"}) == f"{two}\n"
    assert add_list("x", {}) == "x"


def test_lengths_by_script() -> None:
    assert count_tokens("Don't stop, 3.5 apples!") == len(["Don", "'", "t", "stop", ",", "3", ".", "5", "apples", "!"])
    assert count_tokens("我喜欢猫。") == 5
    assert count_tokens("한국어 문장") == 2
    assert [count_sentences(t) for t in ("", "a", "One. Two! 3.5 is three?", "你好。再见。", 'Said "yes." Then')] == [
        0,
        1,
        3,
        2,
        2,
    ]
    assert [count_paragraphs(t) for t in ("", "a\nb", "a\n\nb\n \n\nc\n\n")] == [0, 1, 3]
    assert [length_bucket(n) for n in (299, 300, 1000, 1001)] == ["concise", "medium", "medium", "long"]


def test_quality_buckets_are_quartiles_within_a_language() -> None:
    qualities = [float(i) for i in range(8)] + [100.0 + i for i in range(4)] + [None]
    languages = ["English"] * 8 + ["Greek"] * 4 + ["Greek"]
    assert quality_buckets(qualities, languages) == [*"44332211", *"4321", None]
    assert quality_buckets([1.0, 1.0, 1.0, 1.0], ["x"] * 4) == ["1"] * 4
    many = [float(i) for i in range(400)]
    assert wanted_quality("1", "x", many, ["x"] * 400) == pytest.approx(300 + 0.95 * 99)
    assert wanted_quality("4", "x", many, ["x"] * 400) == pytest.approx(0.95 * 99)
    assert wanted_quality("1", "y", many, ["x"] * 400) is None
    rows = [{**ROWS[0], "about": {"quality": q, "lang": "Greek"}} for q in (0.1, 0.2, 0.3, 0.4)]
    assert [m["quality_bucket"] for m in Markers().markers(rows)] == [*"4321"]
    assert Markers().markers([{**ROWS[0], "about": {"quality": 1, "quality_bucket": 3}}])[0]["quality_bucket"] == "3"


def test_taggers_choose_among_the_values() -> None:
    asked: list[str] = []

    def complete(prompts: list[str]) -> list[str]:
        asked.extend(prompts)
        return ["CodeFix, since ...", "no idea", " 'summarization'."][: len(prompts)]

    rows = [{"prompt": f"p{i}", "completion": "c", "about": {"lang": "English"}} for i in range(3)]
    rows.append({"prompt": "p", "completion": "c", "about": {"task": "Math of my own"}})
    shots = {"task": {"English": [("Sum this up: ...", "Summarization")], "Greek": [("x", "y")]}}
    tagged = tag_rows(rows, complete, ["task"], examples=shots)
    assert [row["about"]["task"] for row in tagged] == ["CodeFix", "Unspecified", "Summarization", "Math of my own"]
    assert len(asked) == 3
    assert "Text: Sum this up: ...\nValue: Summarization\n\nText: p0\nc\nValue:" in asked[0]
    assert all("Greek" not in text for text in asked)
    assert rows[0]["about"] == {"lang": "English"}, "changed in place"
    assert tag_rows(rows[:1], lambda prompts: ["?"], ["style"])[0]["about"] == {"lang": "English"}
    assert read_value("C++", ("C", "C++", "C#")) == "C++"
    assert read_value("Cat", ("C", "C++")) is None
    assert set(QUESTIONS) <= set(TAXONOMY)
    for category in ("quality", "colour"):
        with pytest.raises(ConfigError, match="chooses among values"):
            tagging_prompt("text", category)


def test_measures() -> None:
    own = [{"task": "Math", "lang": "Greek"}, None, {"task": "Code"}]
    right = [{"task": "Math", "lang": "Greek"}, {"task": "Math"}, {"task": "Math"}]
    assert marker_accuracy(own, right) == {"task": pytest.approx(1 / 3), "lang": 1.0}
    assert copy_rate([{"task": "Math"}, {}, {"task": "Code", "lang": "Greek"}], own) == pytest.approx(2 / 3)
    assert math.isnan(copy_rate([{}], [None]))
    assert length_violations([5, 9, 12], [5, 10, 10]) == pytest.approx(2 / 3)
    assert length_violations([5, 9, 12], [5, 10, 10], tolerance=1) == pytest.approx(1 / 3)
    assert length_violations([5, 9, 12], [5, 10, 10], at_most=True) == pytest.approx(1 / 3)
    trained = ["a"] * 96 + ["b"] * 4
    assert by_frequency([1, 0, 0.5], ["a", "b", "b"], trained) == {"frequent": 1.0, "rare": 0.25}
    assert by_frequency([1], ["a"], trained) == {"frequent": 1.0}


def test_rows_keep_what_is_about_them_from_file_to_training(tmp_path: Any) -> None:
    from infosteer.training.rows import read_rows

    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p", "completion": " c", "meta": {"task": "Rewrite", "lang": null}}\n' * 3)
    rows = read_rows(path, fields={"about": "meta"})
    assert rows[0]["about"] == {"task": "Rewrite"}
    found = infosteer.transform_rows(rows, [{"method": "markers", "count": []}])
    assert found[0]["completion"] == "<MARKER_LIST> <task> Rewrite </task> </MARKER_LIST> c"
    path.write_text('{"prompt": "p", "completion": " c", "about": "Rewrite"}\n')
    with pytest.raises(DataError, match="about"):
        read_rows(path)
