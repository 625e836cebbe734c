"""The reasoning half of the lab: word problems from dependency graphs, and checks of every step of a solution.

After "On the Interplay of Pre-Training, Mid-Training, and RL on Reasoning Language Models" (arXiv 2512.07783).
"""

from __future__ import annotations

from infosteer.lab.reasoning.parse import Solution, Step, parse_solution
from infosteer.lab.reasoning.passk import pass_at_k
from infosteer.lab.reasoning.problems import Settings, draw_problem, problem_at, problem_hash, problems, split_of
from infosteer.lab.reasoning.render import Problem
from infosteer.lab.reasoning.rewards import reward, reward_function
from infosteer.lab.reasoning.score import Score, process_accuracy, score, verified_correct

__all__ = [
    "Problem",
    "Score",
    "Settings",
    "Solution",
    "Step",
    "draw_problem",
    "parse_solution",
    "pass_at_k",
    "problem_at",
    "problem_hash",
    "problems",
    "process_accuracy",
    "reward",
    "reward_function",
    "score",
    "split_of",
    "verified_correct",
]
