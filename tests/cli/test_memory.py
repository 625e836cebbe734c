"""``infosteer memory``: memory vectors in words, by layer, index and word, with their contexts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from infosteer.inspection.memories import read_memories, search
from infosteer.models import locate
from infosteer.training.loading import load_model, load_tokenizer

Call = Callable[..., tuple[int, str, str]]


def test_the_most_specific_memories_of_a_layer(infosteer: Call, inputs: Path) -> None:
    folder = str(inputs / "model")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    for raw in (False, True):
        code, out, _ = infosteer(
            "memory", folder, "--layer", 1, "--top", 3, "--words", 4, "--json", *(["--raw"] if raw else [])
        )
        assert code == 0
        found = json.loads(out)
        assert found["final_norm"] is not raw
        wanted = read_memories(model, locate(model)[1], top=4, use_final_norm=not raw)
        best = wanted.specificity.topk(3)
        assert [row["index"] for row in found["memories"]] == best.indices.tolist()
        assert [row["specificity"] for row in found["memories"]] == pytest.approx(best.values.tolist())
        first = found["memories"][0]
        ids = tokenizer.convert_tokens_to_ids([word["token"] for word in first["words"]])
        assert len(ids) == 4
    code, out, _ = infosteer("memory", folder, "-l", 0, "--top", 2)
    assert code == 0
    assert len(out.splitlines()) == 3


def test_one_memory_and_its_contexts(infosteer: Call, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("abc\n\nde [bold]\n")
    code, out, _ = infosteer(
        "memory", inputs / "model", "-l", 1, "-i", 7, "--contexts", tmp_path / "texts.txt", "--top", 2, "--json"
    )
    assert code == 0
    (row,) = json.loads(out)["memories"]
    assert row["index"] == 7
    assert len(row["contexts"]) == 2
    first, second = row["contexts"]
    assert abs(first["coefficient"]) >= abs(second["coefficient"])
    text = ["abc", "de [bold]"][first["text"]]
    assert "".join([*first["before"], first["token"]]) == text[: first["position"] + 1]
    code, out, _ = infosteer("memory", inputs / "model", "-l", 1, "-i", 7, "--contexts", inputs / "test.jsonl")
    assert code == 0
    assert "with a negative coefficient:" in out


def test_who_writes_a_word(infosteer: Call, inputs: Path) -> None:
    folder = str(inputs / "model")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    code, out, _ = infosteer("memory", folder, "--search", "q", "--top", 3, "--json")
    assert code == 0
    wanted = search(model, locate(model), [tokenizer.convert_tokens_to_ids("q")], top=3)
    found = json.loads(out)["memories"]
    assert [(row["layer"], row["index"], row["rank"]) for row in found] == [(h.layer, h.index, h.rank) for h in wanted]
    code, out, _ = infosteer("memory", folder, "--search", "q", "-l", 1)
    assert code == 0
    assert all(line.split()[0] == "1" for line in out.splitlines()[1:] if line.split()[0].isdigit())


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "a layer is needed"),
        (("-l", "0", "-i", "1", "-s", "a"), 2, "not both"),
        (("-l", "9"), 1, "layers that do not exist: [9]"),
        (("-l", "-1"), 1, "layers that do not exist: [-1]"),
        (("-l", "0", "-i", "64"), 1, "whole numbers from 0 to 63"),
        (("-s", "word"), 1, "not one token"),
        (("-s", " "), 1, "no word to search for"),
        (("-l", "0", "--top", "0"), 2, "top"),
        (("-s", "a", "--contexts", "x.txt"), 2, "looked for in one"),
        (("-l", "0", "-i", "1", "--contexts", "nowhere.txt"), 1, "cannot be read"),
    ],
)
def test_refusals(infosteer: Call, inputs: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    got, _, err = infosteer("memory", inputs / "model", *arguments)
    assert got == code
    assert says in " ".join(err.split())
    assert "Traceback" not in err


def test_texts_without_a_token(infosteer: Call, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    code, _, err = infosteer("memory", inputs / "model", "-l", 0, "-i", 1, "--contexts", tmp_path / "empty.txt")
    assert (code, "no text to read" in err) == (1, True)
