"""Runs against each other: the numbers of the statistics they rest on, what is shared, and what is not."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import make_run, rotated, scores

from infosteer.errors import ConfigError, RunError
from infosteer.evaluation.power import detectable_of
from infosteer.evaluation.statistics import compare, compare_macro
from infosteer.inspection.comparison.compare import ALL, compare_runs
from infosteer.inspection.comparison.formats import CSV_COLUMNS, to_csv, to_latex, to_markdown
from infosteer.inspection.comparison.read import is_run, read_run
from infosteer.inspection.comparison.sheet import legend, sheets, verdict

ROOT = Path(__file__).parents[2]


def test_paired_by_seed_and_example(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 0), make_run(tmp_path / "b", 1, seeds=(2, 3, 4), rate=2e-3)
    found = compare_runs([a, b], resamples=500)
    assert [(row["arm"], row["n"], row["paired_by"]) for row in found["comparisons"]] == [
        ("plain", 2, "seed and example"),
        ("lift", 2, "seed and example"),
    ]
    left, right = ({s: [*scores(n, "plain", s)[:-1], float("nan")] for s in (2, 3)} for n in (1, 0))
    wanted = compare(left, right, resamples=500)
    row = found["comparisons"][0]
    assert (row["difference"], row["low"], row["high"], row["p_value"]) == (
        wanted.difference, wanted.low, wanted.high, wanted.p_value,
    )  # fmt: skip
    assert row["difference"] > 0
    values = sorted(r["p_value"] for r in found["comparisons"])
    assert min(r["p_holm"] for r in found["comparisons"]) == pytest.approx(min(1, 2 * values[0]))
    assert max(r["p_bh"] for r in found["comparisons"]) == pytest.approx(values[1])
    (settings,) = found["settings"]
    assert "train.learning_rate: 0.001 -> 0.002" in settings["differences"]
    assert "packages.torch: 2.0 -> 2.1" in settings["differences"]
    assert found["runs"][1]["seeds"] == [2, 3, 4]


def test_a_run_against_itself(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 0)
    found = compare_runs([a, a / "results.json"], resamples=200)
    assert all(row["difference"] == row["low"] == row["high"] == 0 for row in found["comparisons"])
    assert found["settings"][0]["differences"] == []
    assert len({run["path"] for run in found["runs"]}) == 1


def test_without_examples_on_a_side_seeds_are_paired(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 0), make_run(tmp_path / "b", 1, outcomes=False)
    found = compare_runs([a, b], resamples=500)
    row = found["comparisons"][0]
    wanted = np.mean([np.mean(scores(1, "plain", s)) - np.mean(scores(0, "plain", s)) for s in (1, 2, 3)])
    assert row["paired_by"] == "seed"
    assert row["difference"] == pytest.approx(wanted)
    assert row["low"] < row["difference"] < row["high"]
    assert any("seeds alone" in note for note in found["notes"])


def test_one_seed_without_examples_has_no_interval(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / str(n), n, outcomes=False, seeds=(1,)) for n in (0, 1))
    row = compare_runs([a, b])["comparisons"][0]
    assert row["difference"] == pytest.approx(np.mean(scores(1, "plain", 1)) - np.mean(scores(0, "plain", 1)))
    assert row["low"] is row["high"] is row["p_value"] is row["p_holm"] is None


def test_single_arms_are_compared_whatever_their_names_and_several_runs_with_the_first(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 0, arms=("plain",)), make_run(tmp_path / "b", 1, arms=("lift",))
    c = make_run(tmp_path / "c", 1, arms=("plain", "other"))
    found = compare_runs([a, b, c], resamples=200)
    assert [(r["run"], r["arm"], r["reference_arm"]) for r in found["comparisons"]] == [
        ("b", "lift", "plain"),
        ("c", "plain", "plain"),
    ]
    assert len(found["settings"]) == 2


def test_hostile_runs(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 0)
    with pytest.raises(RunError, match="needs a run"):
        compare_runs([])
    with pytest.raises(ConfigError, match="no such correction"):
        compare_runs([a], correction="none")  # type: ignore[arg-type]
    with pytest.raises(RunError, match="no such run"):
        compare_runs([a, tmp_path / "nowhere"])
    with pytest.raises(RunError, match="nothing in common"):
        compare_runs([a, make_run(tmp_path / "b", 1, arms=("x", "y"))])
    with pytest.raises(RunError, match="nothing in common"):
        compare_runs([a, make_run(tmp_path / "c", 1, seeds=(8, 9))])
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "recipe.yaml").write_text("arms: {plain: []}\n")
    with pytest.raises(RunError, match="no results"):
        compare_runs([a, tmp_path / "d"])
    broken = make_run(tmp_path / "e", 1)
    (broken / "outcomes" / "plain" / "seed-1.json").write_text('{"examples": {"id": {"exact_match": 3}}}')
    assert compare_runs([a, broken], resamples=100)["comparisons"][0]["paired_by"] == "seed"
    (broken / "results.json").write_text('{"schema": 9}')
    with pytest.raises(RunError, match="version"):
        compare_runs([a, broken])


def test_what_is_a_run(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 0)
    assert is_run(a)
    assert is_run(a / "results.json")
    assert not is_run(a / "recipe.yaml")
    assert not is_run(tmp_path)
    assert not is_run(tmp_path / "nowhere")


def test_a_single_run_is_its_arms_against_its_baseline(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 0, arms=("plain", "lift", "damp"), sets=("x", "y"))
    found = compare_runs([a], resamples=500)
    assert {(row["arm"], row["reference_arm"]) for row in found["comparisons"]} == {
        ("lift", "plain"),
        ("damp", "plain"),
    }
    row = found["comparisons"][0]
    left, right = ({s: [*scores(0, arm, s)[:-1], float("nan")] for s in (1, 2, 3)} for arm in ("lift", "plain"))
    wanted = compare(left, right, resamples=500)
    assert (row["difference"], row["p_value"], row["test"]) == (wanted.difference, wanted.p_value, "two_way_t")
    assert row["detectable"] == wanted.detectable
    assert found["families"] == {"exact_match": 4, "mean, exact_match": 2}
    other = compare_runs([a], baseline="damp", resamples=100)
    assert {row["reference_arm"] for row in other["comparisons"]} == {"damp"}
    with pytest.raises(ConfigError, match="not one of the arms"):
        compare_runs([a], baseline="plian")
    with pytest.raises(ConfigError, match="single run"):
        compare_runs([a, a], baseline="plain")
    with pytest.raises(RunError, match="one arm"):
        compare_runs([make_run(tmp_path / "b", 0, arms=("plain",))])


def test_macro_averages_over_groups(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / str(n), n, arms=("plain",), sets=("x", "y", "z")) for n in (0, 1))
    found = compare_runs([a, b], resamples=500)
    (row,) = found["macro"]
    assert (row["group"], row["tasks"], row["measure"]) == (ALL, ["x", "y", "z"], "exact_match")
    tables = [
        {
            name: {s: [*rotated(scores(n, "plain", s), i)[:-1], float("nan")] for s in (1, 2, 3)}
            for i, name in enumerate("xyz")
        }
        for n in (1, 0)
    ]
    wanted = compare_macro(tables[0], tables[1], resamples=500)
    assert (row["difference"], row["p_value"]) == (pytest.approx(wanted.difference), pytest.approx(wanted.p_value))
    named = compare_runs([a, b], groups={"pair": ["x", "z"]}, resamples=100)["macro"]
    assert [(row["group"], row["tasks"]) for row in named] == [("pair", ["x", "z"])]
    with pytest.raises(ConfigError, match="not there"):
        compare_runs([a, b], groups={"pair": ["x", "w"]}, resamples=100)


def test_what_could_have_been_found_is_at_the_corrected_level(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 0, arms=("plain", "lift"), seeds=(1,), sets=("x", "y"))
    found = compare_runs([a], resamples=200)
    row = found["comparisons"][0]
    assert (row["test"], row["significant"]) == ("mcnemar", row["p_holm"] < 0.05)
    changes = np.array(scores(0, "lift", 1)[:-1]) - np.array(scores(0, "plain", 1)[:-1])
    assert row["detectable"] == detectable_of([changes[None]])
    assert row["detectable_corrected"] == detectable_of([changes[None]], alpha=0.05 / 2)
    assert row["detectable_corrected"] >= row["detectable"]
    assert compare_runs([a], correction="bh", resamples=200)["comparisons"][0]["p_bh"] <= row["p_holm"]


@pytest.mark.parametrize(
    ("left", "right", "size", "why"),
    [
        ({"rows_sha256": "a"}, {"rows_sha256": "b"}, 40, "other rows"),
        ({"rows_sha256": "a"}, {"rows_sha256": "b"}, 30, "rows 40 / 30"),
        ({"template": "sections"}, {"template": "alpaca"}, 40, "template sections / alpaca"),
        ({"max_new_tokens": 8}, {"max_new_tokens": 32}, 40, "max_new_tokens 8 / 32"),
        ({"scoring": "number"}, {"scoring": "exact_match"}, 40, "scoring number / exact_match"),
        ({}, {}, 30, "rows 40 / 30"),
    ],
)
def test_sets_that_differ_are_named_and_not_paired(
    tmp_path: Path, left: dict[str, Any], right: dict[str, Any], size: int, why: str
) -> None:
    a, b = make_run(tmp_path / "a", 0, settings=left), make_run(tmp_path / "b", 1, settings=right, size=size)
    row = compare_runs([a, b], resamples=100)["comparisons"][0]
    assert row["why"] == why
    assert (row["difference"], row["p_value"], row["p_holm"], row["significant"]) == (None, None, None, None)
    assert row["mean"] == pytest.approx(np.mean([scores(1, "plain", s, size)[:-1] for s in (1, 2, 3)]))


def test_recipes_that_say_otherwise_are_not_paired_unless_the_rows_are_the_same(tmp_path: Path) -> None:
    for number, settings in enumerate(({}, {"rows_sha256": "a"})):
        runs = [make_run(tmp_path / f"{name}{number}", i, settings=settings) for i, name in enumerate("ab")]
        for run, source in zip(runs, ("here.jsonl", "there.jsonl"), strict=True):
            recipe = json.loads((run / "recipe.yaml").read_text())
            (run / "recipe.yaml").write_text(json.dumps({**recipe, "evaluate": {"id": {"source": source}}}))
        row = compare_runs(runs, resamples=100)["comparisons"][0]
        if settings:
            assert (row["why"], row["paired_by"]) == (None, "seed and example")
        else:
            assert row["why"] == "id.source: here.jsonl / there.jsonl"


def test_number_types_are_told_and_paired_all_the_same(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 0, settings={"dtype": "float32"})
    found = compare_runs([a, make_run(tmp_path / "b", 1, settings={"dtype": "bfloat16"})], resamples=100)
    assert found["comparisons"][0]["paired_by"] == "seed and example"
    assert any("dtype float32 / bfloat16" in note for note in found["notes"])


def test_an_evaluated_model_meets_every_seed_of_a_run(tmp_path: Path) -> None:
    model = make_run(tmp_path / "model", 0, arms=("embedded",), seeds=(0,), kind="evaluation")
    trained = make_run(tmp_path / "trained", 1)
    found = compare_runs([model, trained], resamples=300)
    assert [(row["arm"], row["reference_arm"], row["n"]) for row in found["comparisons"]] == [
        ("plain", "embedded", 3),
        ("lift", "embedded", 3),
    ]
    one = [*scores(0, "embedded", 0)[:-1], float("nan")]
    left = {s: [*scores(1, "plain", s)[:-1], float("nan")] for s in (1, 2, 3)}
    wanted = compare(left, dict.fromkeys((1, 2, 3), one), resamples=300)
    assert found["comparisons"][0]["difference"] == pytest.approx(wanted.difference)
    assert found["comparisons"][0]["p_value"] == pytest.approx(wanted.p_value)
    assert any("is one model" in note for note in found["notes"])
    back = compare_runs([trained, model], resamples=300)["comparisons"][0]
    assert back["difference"] == pytest.approx(-wanted.difference)
    again = make_run(tmp_path / "again", 1, arms=("other",), seeds=(0,), kind="evaluation")
    assert compare_runs([model, again], resamples=100)["comparisons"][0]["test"] == "mcnemar"


def test_a_sweep_is_as_its_results_have_it() -> None:
    study = ROOT / "docs/evidence/main"
    found = compare_runs([study])
    results = json.loads((study / "results.json").read_text())
    assert len(found["comparisons"]) == len(results["comparisons"])
    for row, kept in zip(found["comparisons"], results["comparisons"], strict=True):
        assert (row["metric"], row["difference"], row["p_value"]) == (
            kept["metric"], kept["difference"], kept["p_value"],
        )  # fmt: skip
        if kept["ranked"]:
            assert (row["p_holm"], row["detectable"]) == (kept["p_holm"], kept["detectable"])
        else:
            assert (row["why"], row["significant"]) == (kept["reason"], None)


def test_committed_studies() -> None:
    demo = ROOT / "docs/evidence/demo"
    found = compare_runs([demo, demo / "results.json"], resamples=100)
    assert {row["arm"] for row in found["comparisons"]} == set(read_run(demo).arms)
    with pytest.raises(RunError, match="nothing in common"):  # no seed in common
        compare_runs([demo, ROOT / "docs/evidence/lab-check"])


NASTY = [
    "=1+1", "+cmd|' /C calc'!A0", 'a|b,c\n"d"', "$x_1^2$ {50%} & #1 ~ \\end{table}", "\x07bell\u202egnp.exe", "*[x]",
    "\u4f60\u597d",
]  # fmt: skip


def nasty_run(tmp_path: Path) -> Path:
    """Arms and sets of names that mean something to every format."""
    run = make_run(tmp_path / "plain run", 0, arms=("plain", "lift"), sets=("s0", "s1"), outcomes=False)
    results = json.loads((run / "results.json").read_text())
    renamed = {"plain": NASTY[0], "lift": NASTY[1]}
    for row in results["arms"]:
        row["arm"] = renamed.get(row["arm"], row["arm"])
        row["metrics"] |= {f"{name}/exact_match": 0.2 + 0.01 * i * row["seed"] for i, name in enumerate(NASTY[2:])}
    results["summary"] = [{**row, "arm": renamed[row["arm"]]} for row in results["summary"]]
    (run / "results.json").write_text(json.dumps(results))
    (run / "recipe.yaml").write_text(json.dumps({"name": NASTY[3], "arms": {arm: [] for arm in renamed.values()}}))
    return run


def test_no_name_breaks_a_table(tmp_path: Path) -> None:
    found = compare_runs([nasty_run(tmp_path)], resamples=100)
    lines = to_markdown(found).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 7
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert not any(set(line) & set("\x07\u202e") for line in lines)
    text = to_csv(found)
    assert "[U+202E]" in text
    rows = list(csv.reader(io.StringIO(text)))
    assert {len(row) for row in rows} == {len(CSV_COLUMNS)}
    assert len(rows) == 1 + len(found["comparisons"]) + len(found["macro"])
    numeric = ("difference", "low", "high", "mean_low", "reference_mean_low")
    for row in rows[1:]:
        for column, cell in zip(CSV_COLUMNS, row, strict=True):
            assert column in numeric or not cell.startswith(("=", "+", "-", "@")), (column, cell)
    assert float(rows[1][CSV_COLUMNS.index("difference")]) == found["comparisons"][0]["difference"]


def test_latex_is_well_formed(tmp_path: Path) -> None:
    """No TeX is needed: braces and environments close, rows have their columns, and nothing special stands bare."""
    text = to_latex(compare_runs([nasty_run(tmp_path)], resamples=100))
    assert text.isascii()
    body = re.sub(r"^%.*$", "", text, flags=re.MULTILINE)
    assert re.findall(r"\\begin\{(\w+)\}", body) == ["table", "tabular", "itemize"]
    assert re.findall(r"\\end\{(\w+)\}", body) == ["tabular", "table", "itemize"]
    bare = re.sub(r"\\[{}$&#_%\\]", "", body)
    assert bare.count("{") == bare.count("}")
    assert bare.replace("$-$", "").count("$") == 0
    assert not set('#^_%~<>|"') & set(re.sub(r"\\[a-zA-Z]+", "", bare))
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", body)
    assert columns is not None
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + 7
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns[1]) - 1}
    assert not any(re.match(r"\s*[\[*]", row) for row in rows), "would be an option of the line break before it"
    known = {"begin", "end", "centering", "footnotesize", "caption", "toprule", "midrule", "bottomrule", "item"}
    known |= {"textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar"}
    known |= {"textquotedbl", "textasciigrave", "textquotesingle"}
    assert set(re.findall(r"\\([a-zA-Z]+)", body)) <= known
    if shutil.which("pdflatex"):
        head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{textcomp,booktabs}\begin{document}"
        (tmp_path / "t.tex").write_text(f"{head}{text}\\end{{document}}")
        command = ["pdflatex", "-interaction=batchmode", "-halt-on-error", "t.tex"]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=120)


def test_sheets_say_what_is_significant_and_what_could_have_been_found(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / f"r{n}", n, arms=("plain",), sets=("x", "y")) for n in (0, 1))
    found = compare_runs([a, b], resamples=300)
    (sheet,) = sheets(found)
    assert sheet.title == "right answers, %: r1 against r0"
    assert [row[1] for row in sheet.rows] == ["x", "y", "mean of all sets (2)"]
    for row, said in zip([*found["comparisons"], *found["macro"]], sheet.rows, strict=True):
        if row["significant"]:
            assert said[-1] == ("better" if row["difference"] > 0 else "worse")
        else:
            assert said[-1] == f"n.s.; could have found {100 * row['detectable_corrected']:.1f}"
    told = "\n".join(legend(found))
    for words in ("t test over seeds and examples", "Holm", "exact_match 2", "unweighted mean"):
        assert words in told
    weak = compare_runs([make_run(tmp_path / "w", 0, seeds=(1,))], resamples=100)
    assert "80 of 100" in "\n".join(legend(weak))
    assert sheets(weak)[0].rows[0][-1].startswith("n.s.; could have found ")
    hopeless = {**weak["comparisons"][0], "significant": False, "detectable_corrected": 1.2}
    assert verdict(hopeless) == "n.s.; too small a study to find anything"
    assert verdict({**hopeless, "metric": "id/answer_nll"}) == "n.s.; could have found 1.200"
    same = compare_runs([a, a / "results.json"], resamples=100)
    assert {row[-1].partition(";")[0] for row in sheets(same)[0].rows} == {"n.s."}
