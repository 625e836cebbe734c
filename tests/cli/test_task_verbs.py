"""``infosteer ls tasks`` and ``infosteer show TASK``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from infosteer.evaluation.tasks import list_groups, list_tasks, task_info

Call = Callable[..., tuple[int, str, str]]


def test_ls_tasks_lists_tasks_groups_and_the_lab(infosteer: Call) -> None:
    code, out, _ = infosteer("ls", "tasks", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert list(rows)[: len(list_tasks())] == list_tasks()
    assert set(list_groups()) <= set(rows)
    assert "lab:facts/new_people" in rows
    assert all(list(row) == ["name", "group", "rows", "chance", "wording", "source"] for row in rows.values())
    boolq = rows["boolq"]
    assert (boolq["group"], boolq["rows"], boolq["chance"], boolq["wording"]) == (
        "commonsense",
        3270,
        "1/2",
        "llm-adapters",
    )
    assert rows["arc_easy"]["chance"] == "1/5 to 1/3"
    assert rows["gsm8k"]["chance"] == "0"
    assert rows["wsc"]["wording"] == "infosteer"
    assert (rows["all15"]["group"], rows["all15"]["rows"]) == ("(group)", 15)
    code, out, _ = infosteer("ls", "tasks")
    assert code == 0
    assert "hellaswag" in out


@pytest.mark.parametrize("name", ["boolq", "ARC-Easy", "infosteer_aqua"])
def test_show_prints_a_tasks_card(name: str, infosteer: Call) -> None:
    info = task_info(name)
    code, out, _ = infosteer("show", name)
    assert code == 0
    assert info.licence in out
    assert "Pitfalls" in out
    code, out, _ = infosteer("show", name, "--json")
    facts = json.loads(out)
    assert (facts["task"], facts["rows"], facts["under lm-eval"]) == (info.name, info.rows, info.lm_eval_name)


def test_show_knows_neither(infosteer: Call) -> None:
    code, _, err = infosteer("show", "bolq")
    assert code == 1
    assert "bolq" in err
    assert infosteer("show", "boolq", "--recipe")[0] == 1


def test_listing_tasks_needs_no_torch() -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\nfrom infosteer.cli.main import app\n"
            "app(['ls', 'tasks', '--json'], standalone_mode=False)\n"
            "assert not {'torch', 'transformers', 'datasets', 'lm_eval'} & set(sys.modules)",
        ],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
