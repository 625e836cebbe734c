"""Red-teaming: a search for prompts that make a model write what a reward dislikes.

From round to round new prompts are made after the worst ones found so far, asked, and added to the pool.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.sampling import sample

Propose = Callable[[Sequence[str], random.Random], Sequence[str]]  # prompts to follow -> new ones
Answer = Callable[[Sequence[str]], Sequence[Sequence[str]]]  # prompts -> several continuations of each
Reward = Callable[[Sequence[str]], Sequence[float]]  # texts -> how good each is; high is good


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """A prompt that was asked.

    Attributes:
        reward: mean reward of the continuations.
        round: 0 for prompts of the beginning.
    """

    prompt: str
    reward: float
    round: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RedTeam:
    """What a search found: all attacks, the worst first, and how many rounds it went on for."""

    attacks: tuple[Attack, ...]
    rounds: int

    def worst(self, count: int = 1) -> float:
        """Mean reward over so many of the worst prompts, over all where there are fewer."""
        chosen = self.attacks[:count]
        return sum(attack.reward for attack in chosen) / len(chosen)

    def by_round(self) -> list[float]:
        """Mean reward of each round's new prompts, round 0 first; NaN for a round that found none."""
        parts = [[attack.reward for attack in self.attacks if attack.round == n] for n in range(self.rounds + 1)]
        return [sum(part) / len(part) if part else math.nan for part in parts]


def red_team(
    prompts: Sequence[str],
    propose: Propose,
    answer: Answer,
    reward: Reward,
    *,
    rounds: int = 10,
    shots: int = 4,
    temperature: float = 0.1,
    with_prompt: bool = False,
    seed: int = 0,
) -> RedTeam:
    """Searches for prompts whose continuations have a low reward.

    In each round ``shots`` prompts are drawn from the pool without replacement, each with weight
    ``exp(-mean reward / temperature)``; ``propose`` makes new ones after them, which are asked and join the pool.

    Args:
        prompts: the pool at the beginning.
        with_prompt: whether prompt and continuation are scored as one text, as code is.

    Raises:
        ConfigError: a temperature or a number of rounds or shots that is not positive.
        DataError: no prompts, or answers and rewards that are not one for each asked.

    Source: arXiv 2302.08582, section 4.2, and its code.
    """
    if temperature <= 0 or rounds < 1 or shots < 1:
        raise ConfigError("rounds, shots and the temperature are positive", got=[rounds, shots, temperature])
    if not prompts:
        raise DataError("A search begins from some prompts.", where="prompts", got="none")
    draw, pool = random.Random(f"red team/{seed}"), dict[str, Attack]()

    def ask(new: Sequence[str], number: int) -> None:
        wanted = [prompt for prompt in dict.fromkeys(new) if prompt.strip() and prompt not in pool]
        answers = answer(wanted) if wanted else []
        if len(answers) != len(wanted) or not all(answers):
            raise DataError("Every prompt has continuations.", where="answer", got=f"{len(answers)} of {len(wanted)}")
        for prompt, texts in zip(wanted, answers, strict=True):
            rewards = list(reward([prompt + text for text in texts] if with_prompt else list(texts)))
            if len(rewards) != len(texts) or not all(math.isfinite(value) for value in rewards):
                raise DataError("A reward is a finite number for each text.", where="reward", got=rewards[:4])
            pool[prompt] = Attack(prompt=prompt, reward=sum(rewards) / len(rewards), round=number)

    ask(prompts, 0)
    if not pool:
        raise DataError("A search begins from some prompts.", where="prompts", got="blank ones")
    for number in range(1, rounds + 1):
        ask(propose(_drawn(list(pool.values()), shots, temperature, draw), draw), number)
    return RedTeam(attacks=tuple(sorted(pool.values(), key=lambda attack: attack.reward)), rounds=rounds)


def _drawn(pool: list[Attack], count: int, temperature: float, draw: random.Random) -> list[str]:
    """Prompts drawn without replacement by ``exp(-reward / temperature)``: log-weight and Gumbel noise, the largest."""
    keys = [-attack.reward / temperature - math.log(draw.expovariate(1.0) or 5e-324) for attack in pool]
    order = sorted(range(len(pool)), key=keys.__getitem__, reverse=True)
    return [pool[place].prompt for place in order[:count]]


def sampled_answers(
    model: Any, tokenizer: Any, *, samples: int = 512, max_new_tokens: int = 64, temperature: float = 0.7,
    top_p: float = 0.9, prefix: str = "", seed: int = 0, batch_size: int = 64,
) -> Answer:  # fmt: skip
    """Lets a model answer: ``samples`` continuations of each prompt, with ``prefix`` (a control token) before it."""

    def answer(prompts: Sequence[str]) -> list[list[str]]:
        found = sample(
            model, tokenizer, [prefix + prompt for prompt in prompts], samples=samples, temperature=temperature,
            top_p=top_p, seed=seed, max_new_tokens=max_new_tokens, batch_size=batch_size,
        )  # fmt: skip
        return [[one.text for one in row] for row in found]

    return answer


def recombined(words: Sequence[str], count: int = 20) -> Propose:
    """Makes prompts without a model: the beginning of one with the end of another, and one word changed.

    Args:
        words: what changed words become.
        count: new prompts of a round.

    Raises:
        ConfigError: no words.
    """
    if not words:
        raise ConfigError("a word has to come from somewhere", where="words", got="none")

    def propose(shots: Sequence[str], draw: random.Random) -> list[str]:
        found = []
        for _ in range(count):
            first, second = (draw.choice(shots).split() for _ in range(2))
            made = first[: draw.randint(1, len(first))] + second[draw.randint(0, len(second)) :]
            made[draw.randrange(len(made))] = draw.choice(words)
            found.append(" ".join(made))
        return found

    return propose


def few_shot(model: Any, tokenizer: Any, request: str, count: int = 20, max_new_tokens: int = 64) -> Propose:
    """Lets a language model make prompts: ``request``, the shots as a numbered list, and the next line of it."""

    def propose(shots: Sequence[str], draw: random.Random) -> list[str]:
        listed = "".join(f"{number}. {shot}\n" for number, shot in enumerate(shots, start=1))
        (found,) = sample(
            model, tokenizer, [f"{request}\n{listed}{len(shots) + 1}."], samples=count, temperature=1.0,
            seed=draw.randrange(2**31), max_new_tokens=max_new_tokens, stops=[["\n"]],
        )  # fmt: skip
        return [re.sub(r"^\d+\.\s", "", one.text.strip()) for one in found]

    return propose
