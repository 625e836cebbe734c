"""When the rows of a batch stop being written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

PATIENCE = 8  # tokens: to go on in a smaller batch costs about as much as one or two of them


class StopTexts(StoppingCriteria):
    """Ends a row when one of its stop texts stands in what was decoded since its prompt.

    Args:
        start: where in the rows the prompts end.
        ends: tokens that end a row by themselves.
        enough: end all rows, for now, when no more than so many are left after ``PATIENCE`` tokens.

    Attributes:
        running: the rows that have not ended.
        ended: how many tokens each row has written so far, what ended it included.
    """

    def __init__(
        self, tokenizer: Any, stops: Sequence[Sequence[str]], start: int, ends: Sequence[int], enough: int
    ) -> None:
        self.tokenizer, self.stops, self.start, self.ends, self.enough = tokenizer, stops, start, ends, enough
        self.running = list(range(len(stops)))
        self.ended = [0] * len(stops)
        self.steps = 0
        # A token holds at least one byte, so a stop text spans at most its bytes in tokens; some show no text at all.
        self.windows = [max((len(stop.encode()) for stop in row), default=0) + 8 for row in stops]

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        for row in self.running:
            self.ended[row] = input_ids.shape[1] - self.start
        last = input_ids[:, -1].tolist()
        self.running = [row for row in self.running if last[row] not in self.ends]
        texts = [row for row in self.running if self.stops[row]]
        done = torch.zeros(len(input_ids), dtype=torch.bool)
        if texts:
            width = max(self.windows[row] for row in texts)
            tails = input_ids[texts, max(self.start, input_ids.shape[1] - width) :].tolist()
            for row, tail in zip(texts, tails, strict=True):
                text = self.tokenizer.decode(tail, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                done[row] = any(stop in text for stop in self.stops[row])
            self.running = [row for row in self.running if not done[row]]
        self.steps += 1
        if not self.running or (self.steps >= PATIENCE and len(self.running) <= self.enough):
            done[:] = True
        return done.to(input_ids.device)  # type: ignore[return-value]
