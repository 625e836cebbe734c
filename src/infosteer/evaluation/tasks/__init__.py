"""Tasks: public benchmarks as evaluation sets, one file a task, which lm-eval reads too."""

from infosteer.evaluation.tasks.facts import FOLDER, GroupInfo, TaskInfo
from infosteer.evaluation.tasks.load import load_task, training_rows
from infosteer.evaluation.tasks.names import expand, group_info, list_groups, list_tasks, task_info

__all__ = [
    "FOLDER",
    "GroupInfo",
    "TaskInfo",
    "expand",
    "group_info",
    "list_groups",
    "list_tasks",
    "load_task",
    "task_info",
    "training_rows",
]
