"""Reading rows: every kind of source, every format, and what happens to rows that cannot be used."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infosteer.errors import ConfigError, DataError, InfoSteerError
from infosteer.training.answers import find_option, last_number, same_number, show_number
from infosteer.training.row_formats import COLUMNS, FIELDS, TEMPLATES
from infosteer.training.rows import read_rows

DATA = Path(os.environ.get("INFOSTEER_DATA", Path(__file__).parents[3] / "shared" / "data"))
TASKS = DATA / "llm-adapters"
needs_data = pytest.mark.skipif(not TASKS.is_dir(), reason="the data folder is absent (set INFOSTEER_DATA)")

PAIRS = [{"prompt": f"question {i}", "completion": f" answer {i}"} for i in range(4)]


def dump(rows: list) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(PAIRS), path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "rows.jsonl": lambda path: path.write_bytes(dump(PAIRS)),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(dump(PAIRS))),
    "rows.json": lambda path: path.write_bytes(json.dumps(PAIRS).encode()),
    "lines.json": lambda path: path.write_bytes(dump(PAIRS)),
    "rows.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(PAIRS, indent=1).encode())),
    "renamed.jsonl": lambda path: path.write_bytes(gzip.compress(dump(PAIRS))),
    "bom.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + dump(PAIRS) + b"\n\n"),
    "rows.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    rows = read_rows(tmp_path / name)
    assert list(rows) == PAIRS
    assert (rows.source, rows.format, rows.skipped, rows.problems) == (
        str(tmp_path / name),
        "prompt_completion",
        0,
        [],
    )
    assert list(read_rows(name, base_dir=tmp_path, limit=2)) == PAIRS[:2]


@pytest.mark.parametrize("packer", [bytes, gzip.compress, lzma.compress])
def test_text_files_are_documents(packer: Callable[[bytes], bytes], tmp_path: Path) -> None:
    suffix = {bytes: "", gzip.compress: ".gz", lzma.compress: ".xz"}[packer]
    path = tmp_path / f"prose.txt{suffix}"
    path.write_bytes(packer("First.\nStill first.\n<|endoftext|>\nSecond \u00e9.\n<|endoftext|>\n\n".encode()))
    assert list(read_rows(path)) == [{"text": "First.\nStill first."}, {"text": "Second \u00e9."}]


def test_a_folder_is_read_by_split(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(dump(PAIRS[:3]))
    (tmp_path / "test.jsonl").write_bytes(dump(PAIRS[3:]))
    assert len(read_rows(tmp_path)) == len(read_rows(tmp_path, split="train")) == 3
    assert len(read_rows(tmp_path, purpose="evaluate")) == len(read_rows(tmp_path, split="test")) == 1
    with pytest.raises(DataError, match=r"no split 'dev'(.|\n)*test\.jsonl, train\.jsonl"):
        read_rows(tmp_path, split="dev")
    (tmp_path / "train.json").write_text(json.dumps(PAIRS))
    with pytest.raises(DataError, match="more than one kind of file"):
        read_rows(tmp_path)


def test_shards_are_read_in_order_and_a_lone_test_file_is_never_trained_on_unasked(tmp_path: Path) -> None:
    for number in (1, 0):
        (tmp_path / f"train-0000{number}-of-00002.jsonl").write_bytes(dump(PAIRS[2 * number : 2 * number + 2]))
    assert list(read_rows(tmp_path)) == PAIRS
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "test.jsonl").write_bytes(dump(PAIRS))
    with pytest.raises(DataError, match="not clear which file"):
        read_rows(tmp_path / "sub")
    assert len(read_rows(tmp_path / "sub", split="test")) == 4
    (tmp_path / "sub" / "test.jsonl").rename(tmp_path / "sub" / "anything.jsonl")
    assert len(read_rows(tmp_path / "sub")) == 4


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "a.jsonl", "empty"),
        (b"\n \n", "a.jsonl", "no row to use"),
        (b"[]", "a.json", "no row to use"),
        (b'{"prompt": "x"', "a.json", "is not valid JSON"),
        (b'{"prompt": "x", "completion": "y"}', "a.json", "a JSON dict"),
        (gzip.compress(dump(PAIRS * 500))[:-20], "a.jsonl.gz", "damaged or cut short"),
        (gzip.compress(dump(PAIRS * 500))[:40] + b"\x00" * 40, "a.jsonl.gz", "damaged or cut short"),
        (dump(PAIRS), "a.jsonl.gz", "damaged or cut short"),
        (bytes(range(128, 256)) * 20, "a.jsonl", "not valid UTF-8"),
        (b"PAR1 not really parquet", "a.parquet", "Parquet file cannot be read"),
        (b'{"prompt": "p\xff", "completion": "c"}\n', "a.jsonl", r"a\.jsonl:1: is not valid UTF-8 \(byte 0xff"),
        (b'{"prompt": "p", "completion": 3}\n', "a.jsonl", "'completion' is of type int, not text"),
        (b'{"prompt": " \\n", "completion": "c"}\n', "a.jsonl", "'prompt' is empty"),
        (b'{"prompt": "p", "completion": ""}\n', "a.jsonl", "'completion' is empty"),
        (b'{"prompt": "p", "completion": null}\n', "a.jsonl", "has no field 'completion'"),
        (b'{"prompt": "p", "completion": "\\ud800"}\n', "a.jsonl", "surrogate"),
        (b"[1]\n", "a.jsonl", "is a JSON list, not an object"),
        (b"[" * 100_000 + b"\n", "a.jsonl", "RecursionError"),
        (b'{"prompt": 1' + b"0" * 5000 + b"}\n", "a.jsonl", "not JSON that can be read"),
        (b"prompt,completion\np,c\n", "a.csv", "not a data file that can be read"),
    ],
)
def test_what_cannot_be_used_is_named(content: bytes, name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(tmp_path / name)
    assert name in str(caught.value)
    assert "docs/errors/data.md" in str(caught.value)


def test_bad_rows_are_listed_with_their_lines_and_skipped_only_on_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mixed.jsonl"
    bad = [b'{"prompt": "p"}\n', b"not json\n"] * 4
    path.write_bytes(dump(PAIRS[:1]) + b"\n" + b"".join(bad) + dump(PAIRS[1:]))
    with pytest.raises(DataError) as caught:
        read_rows(path)
    text = str(caught.value)
    assert "8 of 12 rows cannot be used" in text
    assert f"{path}:3: has no field 'completion'; its fields are 'prompt'" in text
    assert f"{path}:4: is not valid JSON" in text
    assert "... and 3 more" in text
    assert text.count(f"{path}:") == 5
    assert "--skip-bad-rows" in text
    rows = read_rows(path, skip_bad_rows=True)
    assert list(rows) == PAIRS
    assert rows.skipped == 8
    assert len(rows.problems) == 5
    assert "8 bad rows skipped, 4 kept" in caplog.text
    path.write_bytes(b"".join(bad))
    with pytest.raises(DataError, match="no row to use"):
        read_rows(path, skip_bad_rows=True)


def test_a_parquet_row_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([*PAIRS, {"prompt": "p", "completion": None}]), path)
    with pytest.raises(DataError, match="row 5: has no field 'completion'"):
        read_rows(path)


def test_formats_are_found_from_the_columns_or_the_error_lists_them(tmp_path: Path) -> None:
    def detected(row: dict, **options: object) -> str:
        (tmp_path / "one.jsonl").write_bytes(dump([row]))
        return read_rows(tmp_path / "one.jsonl", **options).format  # type: ignore[arg-type]

    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    task = {"instruction": "1 + 1?", "input": "", "output": "It is 2.", "answer": "2.0"}
    assert detected({"messages": talk}) == "messages"
    assert detected({"instruction": "i", "output": "o"}) == "instruction_output"
    assert detected(task) == "llm_adapters"
    assert detected({"text": "t"}) == "text"
    assert detected({"prompt": "p", "answer": "a"}, purpose="evaluate") == "prompt_completion"
    with pytest.raises(DataError, match="fields 'question', 'reply'"):
        detected({"question": "p", "reply": "c"})
    with pytest.raises(DataError, match="fit messages and prompt_completion"):
        detected({"messages": talk, "prompt": "p", "completion": "c"})
    assert detected({"messages": talk, "prompt": "p", "completion": "c"}, format="messages") == "messages"
    fields = {"prompt": "question", "completion": "reply"}
    assert detected({"question": "p", "reply": "c"}, fields=fields) == "prompt_completion"


def test_messages_become_a_context_and_the_last_reply(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
    ]
    path.write_bytes(dump([{"messages": turns}]))
    assert list(read_rows(path)) == [{"prompt": turns[:2], "completion": turns[2:]}]
    (row,) = read_rows(path, purpose="evaluate")
    assert (row["prompt"], row["answer"], row["options"]) == (turns[:2], "hello", None)
    for bad, message in [
        (turns[:2], "by 'user'"),
        (turns[2:], "one message only"),
        ([{"role": "robot", "content": "x"}], "role 'robot'"),
        ([{"role": "user"}], "lacks 'role' or 'content'"),
        ([{"role": "assistant", "content": 3}], "not text"),
        ([], "at least one message"),
        ("hi", "not a list"),
    ]:
        path.write_bytes(dump([{"messages": bad}]))
        with pytest.raises(DataError, match=message):
            read_rows(path)


def test_instruction_rows_are_put_into_words_without_reading_braces_in_the_data(tmp_path: Path) -> None:
    path = tmp_path / "i.jsonl"
    rows = [
        {"instruction": "Say {input}.", "input": "{instruction} {0}", "output": " x "},
        {"instruction": "I", "output": "o"},
    ]
    path.write_bytes(dump(rows))
    first, second = read_rows(path)
    assert first == {
        "prompt": "### Instruction:\nSay {input}.\n\n### Input:\n{instruction} {0}\n\n### Response:\n",
        "completion": "x",
    }
    assert second["prompt"] == "### Instruction:\nI\n\n### Response:\n"
    assert read_rows(path, template="Q: {instruction} [{input}]\nA:")[1]["prompt"] == "Q: I []\nA:"
    assert read_rows(path, template="alpaca")[0]["prompt"].endswith(TEMPLATES["sections"][1][-15:])
    with pytest.raises(DataError, match="no place"):
        read_rows(path, template="Q: {instruction}")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "csv"}, ConfigError, "'csv'"),
        ({"limit": 0}, ConfigError, "at least 1"),
        ({"limit": True}, ConfigError, "at least 1"),
        ({"template": "nice"}, ConfigError, "unknown template"),
        ({"fields": {"question": "prompt"}}, ConfigError, "'question'"),
        ({"purpose": "sing"}, ConfigError, "purpose"),
        ({"seed": 1}, ConfigError, "'seed'"),
    ],
)
def test_arguments_out_of_range_are_refused(
    options: dict, error: type[InfoSteerError], message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_bytes(dump(PAIRS))
    with pytest.raises(error, match=message):
        read_rows(tmp_path / "a.jsonl", **options)


def test_missing_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in ("../nowhere/rows", "nowhere.jsonl", "deep/er/path", "/no/such/folder", "x" * 5000):
        with pytest.raises(DataError):
            read_rows(source, base_dir=tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="none that can be read"):
        read_rows(tmp_path / "folder")
    import datasets

    def offline(*args: object, **kwargs: object) -> None:
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub (OfflineModeIsEnabled)\nmore")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"cannot load the data set from the hub(.|\n)*OfflineModeIsEnabled") as caught:
        read_rows("owner/name")
    assert "more" not in str(caught.value)
    with pytest.raises(ConfigError, match="'seed'"):
        read_rows("owner/name", seed=3)


def test_hub_rows_go_through_the_same_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    seen = {}

    def load(path: str, name: str | None, **options: object) -> datasets.Dataset:
        seen.update(options, path=path, name=name)
        return datasets.Dataset.from_list(PAIRS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(read_rows("owner/name", name="main", split="validation", limit=3)) == PAIRS[:3]
    assert seen == {"path": "owner/name", "name": "main", "split": "validation", "revision": None}


def test_lab_keys_are_handed_to_the_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    import infosteer.lab

    def load(key: str, *, limit: int | None = None, seed: int = 0) -> list[dict]:
        assert (key, limit, seed) == ("facts/new_people", 2, 7)
        return [{"prompt": "Q: who?\nA:", "answer": " Ann", "stop": ["\n"], "person": "Ann"}] * 2

    monkeypatch.setattr(infosteer.lab, "load", load)
    rows = read_rows("lab:facts/new_people", purpose="evaluate", limit=2, seed=7)
    assert rows[1] == {"prompt": "Q: who?\nA:", "answer": "Ann", "options": None, "stop": ["\n"], "lead": " "}
    with pytest.raises(ConfigError, match="no splits"):
        read_rows("lab:facts/new_people", split="test")


def test_every_set_of_the_lab_can_be_read() -> None:
    from infosteer.lab import KEYS

    for key in KEYS:
        rows = read_rows(f"lab:{key}", purpose="train" if key == "facts" else "evaluate", limit=3)
        assert len(rows) == 3
        assert rows.format == ("text" if "text" in rows[0] else "prompt_completion")
    taught, asked = (
        read_rows("lab:facts", limit=1)[0],
        read_rows("lab:facts/new_people", purpose="evaluate", limit=1)[0],
    )
    assert taught["completion"][0] == asked["lead"] == " "  # an answer stands after its prompt as it was taught
    with pytest.raises(ConfigError, match="facts/new_people"):
        read_rows("lab:facts/new_peple", purpose="evaluate")


def test_evaluation_rows(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"

    def read(row: dict) -> dict:
        path.write_bytes(dump([row]))
        return read_rows(path, purpose="evaluate")[0]

    assert read({"prompt": "p", "completion": " a\n"})["answer"] == "a"
    assert read({"prompt": "p", "answer": 72})["answer"] == "72"
    row = read({"prompt": "p", "answer": "b", "options": [" a", " b"], "stop": "\n"})
    assert (row["options"], row["stop"], row["lead"]) == (["a", "b"], ["\n"], " ")
    leads = [
        ({"prompt": "Q:", "answer": "a"}, " "),
        ({"prompt": "Q:\n", "answer": "a"}, ""),
        ({"prompt": "Q:", "answer": "  a"}, "  "),
        ({"prompt": "(", "answer": "a", "lead": ""}, ""),
        ({"prompt": "Q:", "answer": "a", "lead": " it is "}, " it is "),
        ({"prompt": "Q:", "completion": "a"}, ""),
        ({"prompt": "Q:", "completion": "\na"}, "\n"),
        ({"prompt": [{"role": "user", "content": "Q"}], "answer": "a"}, ""),
    ]
    for row, lead in leads:
        assert read(row)["lead"] == lead
    for bad, message in [
        ({"answer": "c", "options": ["a", "b"]}, "'c' is not one of its 2 options"),
        ({"answer": "a", "options": ["a", "a"]}, "the same"),
        ({"answer": "a", "options": ["a"]}, "single option"),
        ({"answer": "a", "options": ["a", ""]}, "empty"),
        ({"answer": "a", "options": "a/b"}, "not a list"),
        ({"answer": True}, "type bool"),
        ({"answer": ["a"]}, "type list"),
    ]:
        with pytest.raises(DataError, match=message):
            read({"prompt": "p", **bad})


def task(instruction: str, output: str, answer: str) -> dict:
    return {"instruction": instruction, "input": "", "output": output, "answer": answer}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (task("Pick.\n\nAnswer format: a1/a2", "the correct answer is a2", "a3"), "not one of the options a1/a2"),
        (task("Pick.\n\nAnswer format: a1/a2", "the correct answer is a2", "a1"), "does not end in its answer"),
        (task("Pick.\n\nAnswer format: a1/a2", "", "a1"), "output is empty"),
        (task("Pick one: red, green", "red", "red"), "lists no options"),
        (task("How many?", "It is 3.", "4.0"), "ends in 3.0, but its answer is 4.0"),
        (task("How many?", "It is none.", "4.0"), "ends in None"),
        (task("Which? Answer Choices: (A) 1", "The answer is (A).", "A"), "lists no options"),
    ],
)
def test_task_rows_that_contradict_themselves_are_bad(row: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(dump([row]))
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "t.jsonl")


def test_task_rows_hostile_but_legal(tmp_path: Path) -> None:
    long = task("\u202eword \x07 " * 5000 + "\n\nAnswer format: true/false", "the correct answer is true", "true")
    (tmp_path / "t.jsonl").write_bytes(dump([long]))
    (row,) = read_rows(tmp_path / "t.jsonl", purpose="evaluate")
    assert row["options"] == ["true", "false"]
    assert long["instruction"] in row["prompt"]  # nothing is cut or cleaned away in silence


@needs_data
@pytest.mark.data
def test_the_fifteen_tasks() -> None:
    counts = {"boolq": 2, "piqa": 2, "winogrande": 2, "social_i_qa": 3, "AQuA": 5, "mathqa": 5}
    numbers = {"gsm8k", "mawps", "SVAMP", "AddSub", "MultiArith", "SingleEq"}
    folders = sorted(path for path in TASKS.iterdir() if path.is_dir())
    assert len(folders) == 16
    for folder in folders:
        for row in read_rows(folder, purpose="evaluate", split="test", limit=300):
            if folder.name in numbers:
                assert row["options"] is None
                assert str(last_number(row["answer"])) != "None"
            else:
                assert row["answer"] in row["options"]
                assert len(row["options"]) == counts.get(folder.name, len(row["options"]))
    trained = {
        "ARC-Easy": "the correct answer is answer2",
        "mawps": "The answer is 5.",
        "gsm8k": "Natalia sold 48/2 = 24 clips in May. Natalia sold 48+24 = 72 clips altogether in April and May. "
        "The answer is 72.",
    }
    for name, completion in trained.items():
        assert read_rows(TASKS / name, limit=1)[0]["completion"] == completion
    assert read_rows(TASKS / "AQuA", limit=1)[0]["completion"].endswith("The answer is (A).")
    assert len(read_rows(TASKS / "gsm8k")) == 7473  # every worked solution ends in its answer
    # outputs of arithmetic test rows are machine-written; a fifth of SVAMP's end in a wrong number
    assert read_rows(TASKS / "SVAMP", split="test", skip_bad_rows=True).skipped == 138


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 72.", 72),
        ("costs $1,234.50 in all", 1234.5),
        ("from 3 to -4", -4),
        ("10-5", 5),
        ("x=\u22122.5%", -2.5),
        ("about .5", 0.5),
        ("1e3", 1000),
        ("1e999", None),
        ("9" * 400, None),
        ("none", None),
        ("", None),
        ("(3)-(2)", 2),
        ("576.0 apples, then 12.", 12),
    ],
)
def test_last_number(text: str, number: float | None) -> None:
    assert last_number(text) == number


@given(st.floats(-1e9, 1e9), st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_a_shown_number_is_read_back(value: float, noise: str) -> None:
    found = last_number(f"so it is {show_number(value)}.")
    assert found is not None
    assert same_number(found, value)
    last_number(noise)
    find_option(noise, ["a", "b"])
    find_option(noise, ["true", "false"])


@pytest.mark.parametrize(
    ("text", "options", "found"),
    [
        ("the correct answer is answer2", ["answer1", "answer2"], "answer2"),
        ("Answer2", ["answer1", "answer2"], "answer2"),
        ("answer12", ["answer1", "answer2"], None),
        ("answer1 or answer2", ["answer1", "answer2"], None),
        ("Of answer1 and answer2, the answer is answer2, not answer1", ["answer1", "answer2"], "answer2"),
        ("It is true.", ["true", "false"], "true"),
        ("untrue", ["true", "false"], None),
        ("", ["true", "false"], None),
        ("A bird sings", ["A", "B"], None),
        ("B", ["A", "B"], "B"),
        ("b.", ["A", "B"], None),
        ("(B)", ["A", "B"], "B"),
        ("(A) 3 (B) 4, so the answer is (B).", ["A", "B"], "B"),
        ("The answer is B because", ["A", "B"], "B"),
        ("Options: A) 3 B) 4", ["A", "B"], None),
        ("the answer is a lot", ["A", "B"], None),
    ],
)
def test_find_option(text: str, options: list[str], found: str | None) -> None:
    assert find_option(text, options) == found


@given(st.binary(max_size=200), st.sampled_from(["a.jsonl", "a.json", "a.jsonl.gz", "a.parquet", "a.txt.xz", "a.txt"]))
@settings(max_examples=150, deadline=None)
def test_whatever_the_bytes_the_error_is_ours(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        for purpose in ("train", "evaluate"):
            said = None
            try:
                assert read_rows(path, purpose=purpose, skip_bad_rows=True)  # type: ignore[arg-type]
            except InfoSteerError as error:
                said = str(error)
            assert said is None or str(path) in said


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(COLUMNS)), JSON, max_size=7), st.sampled_from(sorted(FIELDS)))
@settings(max_examples=300, deadline=None)
def test_whatever_the_row_it_is_read_or_named(row: dict, format: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_bytes(dump([row]))
        for purpose in ("train", "evaluate"):
            schema = {"prompt", "completion"} if purpose == "train" else {"prompt", "answer", "options", "stop", "lead"}
            said = f"{path}:1: "
            try:
                (read,) = read_rows(path, purpose=purpose, format=format)  # type: ignore[arg-type]
                assert set(read) == ({"text"} if format == "text" else schema)
            except DataError as error:
                said = str(error)
            assert f"{path}:1: " in said


def test_the_rows_shown_in_the_guide_are_read_as_it_says(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    blocks = re.findall(r"^```(\S+)([^\n]*)\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    shown = 0
    row: dict = {}
    for language, label, body in blocks:
        if language == "jsonl":
            (tmp_path / "rows.jsonl").write_text(body)
            format, purpose = label.split()
            rows = read_rows(tmp_path / "rows.jsonl", purpose=purpose)  # type: ignore[arg-type]
            assert (rows.format, len(rows)) == (format, 1)
            row = rows[0]
            shown += 1
        elif language == "json":
            assert json.loads(body) == row
    assert shown == 7
    assert {label.split()[0] for language, label, _ in blocks if language == "jsonl"} == set(FIELDS)
