"""What the reasoning base is measured by right after its pretraining: greedy solutions by number of operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from infosteer.lab.reasoning.problems import Settings, problems
from infosteer.lab.reasoning.score import score

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ROWS: dict[str, Settings] = {  # what the report measures, each on problems of its own
    **{f"operations_{n}": Settings(operations=(n, n)) for n in range(1, 9)},
    "rare_context": Settings(operations=(1, 4), contexts="C"),
    "reverse": Settings(operations=(2, 4), reverse=1.0),
}


@torch.no_grad()
def solve(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    *,
    new_tokens: int = 320,
    batch_size: int = 64,
) -> list[str]:
    """Greedy completions up to the end token or ``new_tokens``, more than any gold solution of the report takes."""
    encoded = [tokenizer(prompt).input_ids for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    texts = [""] * len(prompts)
    was_training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        widest = max(len(encoded[i]) for i in batch)
        pad = [[int(tokenizer.pad_token_id)] * (widest - len(encoded[i])) + encoded[i] for i in batch]
        mask = [[0] * (widest - len(encoded[i])) + [1] * len(encoded[i]) for i in batch]
        out = model.generate(  # type: ignore[operator]
            input_ids=torch.tensor(pad), attention_mask=torch.tensor(mask), do_sample=False, max_new_tokens=new_tokens
        )
        for i, row in zip(batch, out[:, widest:], strict=True):
            texts[i] = str(tokenizer.decode(row, skip_special_tokens=True))
    model.train(was_training)
    return texts


def reasoning_report(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, problems_each: int
) -> dict[str, Any]:
    """Shares of greedy solutions that are right in every step, in the answer, and of steps that are right."""
    shares: dict[str, dict[str, float]] = {"verified": {}, "answer": {}, "process": {}}
    for name, settings in ROWS.items():
        stream = problems(settings, seed=0, split="evaluation")
        rows = [next(stream) for _ in range(problems_each)]
        texts = solve(model, tokenizer, [row.prompt for row in rows])
        found = [score(text, row.completion) for text, row in zip(texts, rows, strict=True)]
        shares["verified"][name] = sum(one.verified for one in found) / problems_each
        shares["answer"][name] = sum(one.answer for one in found) / problems_each
        shares["process"][name] = sum(one.process for one in found) / problems_each
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "greedy": shares,
        "problems_each": problems_each,
    }
