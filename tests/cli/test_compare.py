"""``infosteer compare``: models and runs, for people and programs, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from infosteer.training.loading import load_model, load_tokenizer

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "docs" / "evidence" / "demo"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def sibling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded base with the values of its second layer moved."""
    folder = tmp_path_factory.mktemp("sibling")
    model = load_model("embedded")
    torch.manual_seed(0)
    with torch.no_grad():
        weight = model.model.layers[1].mlp.down_proj.weight
        weight += 0.1 * weight.std() * torch.randn(weight.shape)
    model.save_pretrained(folder)
    load_tokenizer("embedded").save_pretrained(folder)
    return folder


def test_models_with_directions(infosteer: Call, sibling: Path, tmp_path: Path) -> None:
    statements = tmp_path / "statements.jsonl"
    rows = [
        {"statement": f"The {noun} is {'true' if label else 'false'} {i}.", "label": label, "set": noun}
        for noun in ("sky", "sea") for i in range(15) for label in (0, 1)
    ]  # fmt: skip
    statements.write_text("".join(json.dumps(row) + "\n" for row in rows))
    harmful, harmless = tmp_path / "bad.jsonl", tmp_path / "good.txt"
    harmful.write_text("".join(json.dumps({"instruction": f"Break thing {i}"}) + "\n" for i in range(12)))
    harmless.write_text("\n<|endoftext|>\n".join(f"Mend thing {i}" for i in range(12)))
    texts = tmp_path / "texts.txt"
    texts.write_text("A short text to read.\n<|endoftext|>\nAnother one.\n")
    out = tmp_path / "out"
    code, printed, error = infosteer(
        "compare", "embedded", sibling, "--texts", texts, "--statements", statements, "--harmful", harmful,
        "--harmless", harmless, "--output", out,
    )  # fmt: skip
    assert code == 0, error
    for words in (
        "values",
        "information_flux",
        "Concepts",
        "Direction of truth",
        "Direction of refusal",
        "compare.json",
    ):
        assert words in printed
    found = json.loads((out / "compare.json").read_text())
    moved = [(row["part"], row["layer"]) for row in found["drift"] if row["changed"]]
    assert moved == [("values", 1)]
    truth = found["directions"]["truth"]
    assert truth["own_a"][0]["accuracy"] == truth["own_b"][0]["accuracy"], "layer 0 lies before the change"
    assert truth["own_a"][5]["n"] == 60


def test_runs(infosteer: Call, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(DEMO, other)
    recipe = (other / "recipe.yaml").read_text().replace("name: demo", "name: other").replace("0.0004", "0.0005")
    (other / "recipe.yaml").write_text(recipe)
    code, printed, _ = infosteer("compare", DEMO, other)
    assert code == 0
    assert "train.learning_rate: 0.0004 -> 0.0005" in printed
    assert "other against demo" in printed
    code, printed, _ = infosteer("compare", DEMO / "results.json", other, "--json")
    found = json.loads(printed)
    assert code == 0
    assert all(row["difference"] == 0 for row in found["comparisons"])
    assert {row["arm"] for row in found["comparisons"]} == {"plain", "intervention", "regularisation", "protection"}


def test_a_single_run_and_every_format(infosteer: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed, error = infosteer("compare", DEMO, "--output", out)
    assert code == 0, error
    assert "arms of demo" in printed
    assert "n.s." in printed
    assert {path.name for path in out.iterdir()} == {f"compare.{s}" for s in ("json", "md", "csv", "tex")}
    for name, suffix in (("markdown", "md"), ("csv", "csv"), ("latex", "tex")):
        code, printed, _ = infosteer("compare", DEMO, "--format", name)
        assert (code, printed) == (0, (out / f"compare.{suffix}").read_text())
    code, printed, _ = infosteer("compare", DEMO, "--json", "--correction", "bh")
    assert json.loads(printed)["correction"] == "bh"
    blocked = tmp_path / "file"
    blocked.write_text("")
    code, _, error = infosteer("compare", DEMO, "--output", blocked)
    assert code == 1
    assert "cannot be written" in error


def test_comparing_runs_loads_no_torch() -> None:
    code = """
import sys
from infosteer.cli.main import main
sys.argv = ["infosteer", "compare", sys.argv[1], "--json"]
try:
    main()
except SystemExit as end:
    assert not end.code
assert not {"torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(DEMO)], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["embedded"], 2, "two models"),
        ([str(DEMO), "--baseline", "plian"], 1, "not one of the arms"),
        ([str(DEMO), str(DEMO), "--baseline", "plain"], 1, "single run"),
        ([str(DEMO), "--group", "all"], 2, "NAME=SET,SET"),
        ([str(DEMO), "--format", "xml"], 2, "xml"),
        ([str(DEMO), "--format", "csv", "--json"], 2, "one of"),
        (["embedded", "embedded", "--format", "csv"], 2, "for runs"),
        (["embedded", str(DEMO)], 2, "runs are compared with runs"),
        ([str(DEMO), str(DEMO), "--texts", "x.txt"], 2, "for models"),
        (["embedded", "embedded", "embedded"], 2, "two at a time"),
        (["embedded", "embedded", "--harmful", "x.jsonl"], 2, "go together"),
        (["embedded", "./nowhere"], 1, "no such model folder"),
        (["embedded", "embedded", "--texts", "./nowhere.txt"], 1, "cannot read the data file"),
        ([str(DEMO), str(ROOT / "docs/evidence/lab-check")], 1, "nothing in common"),
    ],
)
def test_refusals(infosteer: Call, arguments: list[str], code: int, words: str) -> None:
    got, _, error = infosteer("compare", *arguments)
    assert got == code
    assert words in " ".join(error.replace("│", " ").split())


def test_another_vocabulary_is_refused(infosteer: Call, sibling: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(sibling, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    last = max(vocab, key=lambda token: vocab[token])
    tokenizer["model"]["vocab"] = {(token + "x" if token == last else token): i for token, i in vocab.items()}
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    code, _, error = infosteer("compare", "embedded", other)
    assert code == 1
    assert "other vocabularies" in error


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"statement": "x."}], "no label"),
        ([{"statement": "x.", "label": 2}], "no label"),
        ([{"words": "x."}], "no text"),
        ([], "empty"),
        ([{"statement": "x.", "label": 1, "set": "a"}, {"statement": "y.", "label": 1, "set": "b"}], "one class"),
    ],
)
def test_hostile_statements(infosteer: Call, tmp_path: Path, rows: list[dict[str, object]], words: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, error = infosteer("compare", "embedded", "embedded", "--statements", file)
    assert code == 1
    assert words in error
    assert "Traceback" not in error
