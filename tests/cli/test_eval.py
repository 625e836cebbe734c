"""``infosteer eval`` as people and programs call it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation"))  # for the small data folder

from suite_inputs import write_data

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def arguments(inputs: Path, tmp_path: Path) -> list[object]:
    data = write_data(tmp_path / "data", boolq=4, gsm8k=3)
    return ["eval", "--model", inputs / "model", "--data", data, "--max-new-tokens", 3, "--device", "cpu"]


def test_it_prints_a_table_and_where_things_lie(infosteer: Call, arguments: list[object], tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed, told = infosteer(*arguments, "--tasks", "boolq,gsm8k", "--output", out)
    assert code == 0, told
    lines = {line.split()[0]: line.split() for line in printed.splitlines() if line.strip()}
    assert lines["boolq"][1:3] == ["4", "50.0"]
    assert lines["gsm8k"][1:3] == ["3", "0.0"]
    assert "mean of all" in printed
    assert "one seed (every model)" in printed
    assert f"results: {out / 'results.json'}" in printed
    assert f"report: {out / 'report.html'}" in printed
    assert f"evaluation in {out}: 1 models, 0 finished before; 2 tasks" in told
    assert "  [1/2] boolq: 4 rows, exact_match" in told
    assert "\x1b" not in printed + told, "plain text where nobody watches"
    code, again, told = infosteer(*arguments, "--tasks", "boolq,gsm8k", "--output", out)
    assert (code, again) == (0, printed)
    assert "1 finished before" in told


def test_json_is_the_results(infosteer: Call, arguments: list[object], tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed, _ = infosteer(*arguments, "--tasks", "gsm8k", "--limit", 2, "--json", "--output", out)
    assert code == 0
    assert json.loads(printed) == json.loads((out / "results.json").read_text())


def test_options_reach_the_settings(infosteer: Call, arguments: list[object], tmp_path: Path) -> None:
    more = ["--batch-size", 3, "--dtype", "bfloat16", "--template", "alpaca", "--seed", 5, "--no-options", "--limit", 2,
            "--check-batch-size", 1, "--cache", tmp_path / "kept", "--skip-bad-rows"]  # fmt: skip
    code, printed, told = infosteer(*arguments, *more, "--tasks", "boolq", "--output", tmp_path / "out", "--json")
    assert code == 0, told
    results = json.loads(printed)
    assert results["evaluation"] == {
        "limit": 2, "batch_size": 3, "dtype": "bfloat16", "device": "cpu", "engine": "transformers",
        "template": "alpaca", "shots": 0, "seed": 5, "max_new_tokens": 3, "decode": True, "options": False,
        "check_batch_size": 1, "skip_bad_rows": True, "against": [],
    }  # fmt: skip
    assert results["batch_effect"][0]["rows"] == 1
    assert len(list((tmp_path / "kept").iterdir())) == 1


@pytest.mark.parametrize("bad", [("--limit", 0), ("--batch-size", "x"), ("--shots", -1), ("--no-such-option",)])
def test_bad_usage_exits_with_2(infosteer: Call, arguments: list[object], bad: tuple[object, ...]) -> None:
    code, printed, told = infosteer(*arguments, *bad)
    assert (code, printed) == (2, "")
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (("--tasks", "boolk"), "unknown task"),
        (("--dtype", "int3"), "unknown dtype"),
        (("--engine", "vllm"), "decodes only"),
        (("--model", "nowhere/at/all"), "no such model"),
        (("--tasks", "piqa"), "no rows of PIQA"),
        (("--against", "nothing.jsonl", "--tasks", "boolq"), "no such data file"),
    ],
)
def test_errors_exit_with_1_and_say_what_to_do(
    infosteer: Call, arguments: list[object], tmp_path: Path, bad: tuple[object, ...], words: str
) -> None:
    code, printed, told = infosteer(*arguments, *bad, "--output", tmp_path / "out")
    assert (code, printed) == (1, "")
    assert words in told
    assert "see: docs/errors/" in told
    assert "Traceback" not in told


def test_another_limit_is_refused_and_update_goes_on(infosteer: Call, arguments: list[object], tmp_path: Path) -> None:
    call = [*arguments, "--tasks", "boolq", "--output", tmp_path / "out", "--limit"]
    assert infosteer(*call, 2)[0] == 0
    code, _, told = infosteer(*call, 3)
    assert code == 1
    assert "settings.limit: 2 -> 3" in told
    code, printed, _ = infosteer(*call, 3, "--update")
    assert code == 0
    assert next(line.split()[1] for line in printed.splitlines() if line.split()[:1] == ["boolq"]) == "3"


def test_a_failed_model_leaves_the_others_and_exit_code_1(
    infosteer: Call, arguments: list[object], inputs: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    code, printed, told = infosteer(*arguments, "--model", broken, "--tasks", "boolq", "--output", tmp_path / "out")
    assert code == 1
    assert "boolq" in printed
    assert "failed: broken" in printed
    assert "1 of 2 models could not be evaluated" in told


def test_lm_eval_tasks(infosteer: Call, arguments: list[object], inputs: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    (tmp_path / "rows.jsonl").write_text('{"q": "2 + 2 =", "a": "4"}\n{"q": "1 + 2 =", "a": "3"}\n')
    task = tmp_path / "sums.yaml"
    task.write_text(
        f"task: sums\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: q\n"
        'doc_to_target: "{{[\'4\', \'3\'].index(a)}}"\ndoc_to_choice: ["4", "3"]\nmetric_list: [{metric: acc}]\n'
    )
    call = [*arguments, "--tasks", f"boolq,lm_eval:{task}", "--output", tmp_path / "out", "--json"]
    code, printed, told = infosteer(*call)
    assert code == 0, told
    tasks = {row["task"]: row for row in json.loads(printed)["tasks"]}
    name = next(name for name in tasks if name != "boolq")
    assert name.startswith("lm_eval:")
    assert tasks[name]["n"] == 2
    assert tasks[name]["measures"]["acc"]["mean"] in (0, 0.5, 1)


def test_an_interrupt_is_said_in_one_line(
    infosteer: Call, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infosteer.evaluation.engines import TransformersEngine

    def interrupted(*args: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TransformersEngine, "decode", interrupted)
    code, printed, told = infosteer(*arguments, "--tasks", "boolq", "--output", tmp_path / "out")
    assert (code, printed) == (130, "")
    assert "Interrupted. Answers so far are kept" in told
    assert len(list((tmp_path / "out" / "cache").iterdir())) == 1, "the likelihoods came first"


def test_bars_on_a_terminal() -> None:
    import io

    from rich.console import Console

    from infosteer.cli.eval_progress import SuiteBars

    console = Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False)
    bars = SuiteBars(console)
    bars.started(path=Path("out"), models=2, finished=0, tasks=1)
    for arm in ("plain", "lift"):
        bars.model_started(arm=arm, seed=1)
        bars.progress("boolq: decoding", 3, 10)
        assert [task.description for task in bars.bars.tasks] == [f"{arm}, seed 1: tasks", "boolq: decoding"]
        assert [task.completed for task in bars.bars.tasks] == [0, 3]
        facts = {"n": 10, "measures": {"exact_match": 0.5}, "failures": {}, "seconds": 2.0}
        bars.task_finished(arm=arm, seed=1, task="boolq", facts=facts)
        assert bars.bars.tasks[0].completed == 1
        if arm == "plain":
            bars.model_finished(arm=arm, seed=1, seconds=3.0)
        else:
            bars.model_failed(arm=arm, seed=1, error=ValueError("broken"))
        assert bars.bars.tasks == []
    bars.close()
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "boolq: 10 rows, exact_match 0.500; 2 s" in printed
    assert "FAILED: broken" in printed
