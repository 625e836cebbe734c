"""Reading rows: every kind of source, every format, and what happens to rows that cannot be used."""

from __future__ import annotations

import gzip
import json
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infosteer.errors import ConfigError, DataError, InfoSteerError
from infosteer.training.rows import read_rows

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
        (gzip.compress(dump(PAIRS * 500), mtime=0)[:-20], "a.jsonl.gz", "damaged or cut short"),
        (gzip.compress(dump(PAIRS * 500), mtime=0)[:40] + b"\x00" * 40, "a.jsonl.gz", "damaged or cut short"),
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
