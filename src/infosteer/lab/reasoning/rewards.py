"""Rewards for reinforcement learning on worked solutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from infosteer.errors import ConfigError
from infosteer.lab.reasoning.parse import Solution
from infosteer.lab.reasoning.score import score

Kind = Literal["outcome", "process", "mixed", "strict"]


def reward(
    prediction: str | Solution,
    gold: str | Solution,
    *,
    kind: Kind = "mixed",
    a: float = 0.2,
    gated: bool = False,
) -> float:
    """Reward in [0, 1] of one completion.

    ``outcome``: R_out = 1[answers equal]. ``process``: R_pv = ProcessAcc. ``mixed``: ``a R_out + (1 - a) R_pv``.
    ``strict``: R_out where ProcessAcc = 1, else 0. With ``gated`` the mixed reward is that of the authors' released
    code, ``R_out (a + (1 - a) max(0, 1 - errors / |V|))``, where extra quantities are errors too.

    Source: Interplay of pre-training, mid-training and RL, arXiv 2512.07783, rewards.

    Raises:
        ConfigError: an unknown kind, ``a`` outside [0, 1], or ``gated`` with another kind than mixed.
        DataError: the gold text is no solution.
    """
    _check(kind, a, gated)
    found = score(prediction, gold)
    if gated:
        errors = found.wrong + found.extra
        return found.answer * (a + (1 - a) * max(0.0, 1 - errors / found.size))
    return {
        "outcome": float(found.answer),
        "process": found.process,
        "mixed": a * found.answer + (1 - a) * found.process,
        "strict": float(found.verified),
    }[kind]


def reward_function(*, kind: Kind = "mixed", a: float = 0.2, gated: bool = False) -> Callable[..., list[float]]:
    """A reward function as TRL's GRPO trainer calls it; the gold completions come from the column ``answer``.

    Raises: ConfigError as ``reward``.
    """
    _check(kind, a, gated)

    def reasoning_reward(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
        texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
        return [reward(text, gold, kind=kind, a=a, gated=gated) for text, gold in zip(texts, answer, strict=True)]

    return reasoning_reward


def _check(kind: str, a: float, gated: bool) -> None:
    if kind not in get_args(Kind):
        raise ConfigError("Unknown reward.", where="kind", got=repr(kind), expected=", ".join(get_args(Kind)))
    if not 0 <= a <= 1:
        raise ConfigError("a is a share.", where="a", got=a, expected="0 to 1")
    if gated and kind != "mixed":
        raise ConfigError("Only the mixed reward has a gated variant.", where="gated", got=kind, expected="mixed")
