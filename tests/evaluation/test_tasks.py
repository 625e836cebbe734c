"""Tasks as files: the facts, the card, the names and the groups of every one of them."""

from __future__ import annotations

import re

import pytest

from infosteer.errors import ConfigError
from infosteer.evaluation.tasks import FOLDER, expand, group_info, list_groups, list_tasks, task_info
from infosteer.evaluation.tasks.facts import SCORINGS, read_task_file
from infosteer.evaluation.tasks.load import _CONVERTERS

from .task_rows import SUITE_TASKS

HEADINGS = ["Wording", "Answer", "Pitfalls", "Not comparable with"]


def test_the_fifteen_tasks_come_first() -> None:
    assert list_tasks()[:15] == SUITE_TASKS
    assert len(expand("commonsense")) == 8
    assert len(expand("arithmetic")) == 7
    assert list_tasks("arc_*") == ["arc_easy", "arc_challenge"]
    assert list_tasks("arithmetic") == expand("arithmetic")
    assert set(expand(list_groups())) == set(list_tasks()), "every task is in a group"


@pytest.mark.parametrize("name", list_tasks())
def test_the_facts_of_every_task_are_whole(name: str) -> None:
    info = task_info(name)
    assert re.fullmatch(r"[a-z0-9_]+", name)
    assert info.lm_eval_name == f"infosteer_{name}" == read_task_file(info.file)["task"]
    assert info.scoring in SCORINGS
    assert info.convert in _CONVERTERS
    assert info.rows > 100
    assert info.of_suite == (name in SUITE_TASKS)
    assert set(info.hub) <= {"path", "name", "test", "train"}
    assert ("path" in info.hub) == ("test" in info.hub)
    assert all(info.stop)
    assert info.max_new_tokens in (32, 256)
    assert info.chance == "0" or all(part.startswith("1/") for part in info.chance.split(" to "))
    for fact in (info.title, info.about, info.source, info.licence):
        assert fact == fact.strip() != ""


@pytest.mark.parametrize("name", list_tasks())
def test_every_card_says_what_a_reader_must_know(name: str) -> None:
    info = task_info(name)
    text = info.card.read_text(encoding="utf-8")
    assert text.startswith(f"# {info.title}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    parts = re.split(r"^#.*$", text, flags=re.MULTILINE)
    assert all(part.strip() for part in parts[1:])
    assert max(map(len, text.splitlines())) <= 120
    asked = {"number": "number", "phrase": "word", "option": "option's"}[info.scoring]
    assert asked in text.partition("## Answer")[2].partition("##")[0]
    if name in ("addsub", "singleeq", "multiarith"):
        assert "math_10k" in text
    if "3" in info.tables and name not in ("openbookqa", "gsm8k"):
        assert "not known" in text


def test_the_page_lists_what_there_is() -> None:
    text = (FOLDER.parents[3] / "docs" / "tasks.md").read_text(encoding="utf-8")
    for name in list_tasks():
        info = task_info(name)
        card = f"[{info.title}](../src/infosteer/evaluation/tasks/{info.folder}/{name}.md)"
        assert f"| `{name}` | {info.folder} | {info.rows:,} | {info.chance} | {info.wording} | {card} |" in text
    for name in list_groups():
        group = group_info(name)
        assert f"| `{name}` | {', '.join(f'`{one}`' for one in group.members)} | {group.about} |" in text


def test_no_file_is_left_over() -> None:
    known = {task_info(name).file for name in list_tasks()} | {task_info(name).card for name in list_tasks()}
    known |= {group_info(name).file for name in list_groups()}
    found = {path for path in FOLDER.rglob("*") if path.suffix in (".yaml", ".md")}
    assert found == known


def test_names_aliases_and_groups() -> None:
    assert expand("commonsense,gsm8k,ARC-Easy") == [*expand("commonsense"), "gsm8k"]
    assert expand(["OBQA", "infosteer_boolq", " social_i_qa "]) == ["openbookqa", "boolq", "siqa"]
    assert expand(["paper"])[:8] == expand("commonsense")
    assert "aqua" not in expand("paper")
    assert task_info("ARC-Challenge").name == "arc_challenge"
    assert group_info("all15").title
    for wrong, near in (("bolq", "boolq"), ("comonsense", "commonsense"), ("arc-eazy", "arc_easy")):
        with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
            expand(["gsm8k", wrong])
    for wrong in ("", ",", [], ["  "]):
        with pytest.raises(ConfigError, match="no task is named"):
            expand(wrong)
    for wrong in (["x" * 9000], [None], ["../boolq"], ["boolq/../../x"]):
        with pytest.raises(ConfigError, match="unknown task"):
            expand(wrong)
    with pytest.raises(ConfigError, match="a group of tasks"):
        task_info("commonsense")
    with pytest.raises(ConfigError, match="unknown group"):
        group_info("boolq")
