"""How far a model is from a reference model, by what the reference writes: a measure of what a training has cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from infosteer.errors import DataError
from infosteer.evaluation.decode import silent_ids
from infosteer.evaluation.loglik import score_options
from infosteer.evaluation.model_state import unwrapped
from infosteer.evaluation.sampling import sample


def reference_samples(
    reference: Any,
    tokenizer: Any,
    openings: Sequence[str],
    *,
    samples: int = 1,
    max_new_tokens: int = 64,
    seed: int = 0,
    batch_size: int = 64,
) -> list[tuple[str, str]]:
    """(opening, continuation): draws of the reference at temperature 1; empty continuations are left out.

    Raises:
        DataError: it wrote nothing.
    """
    found = sample(
        reference, tokenizer, openings, samples=samples, temperature=1.0, seed=seed, max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )  # fmt: skip
    pairs = [(opening, one.text) for opening, row in zip(openings, found, strict=True) for one in row if one.text]
    if not pairs:
        raise DataError("The reference wrote nothing.", where="openings", got=f"{len(openings)} openings")
    return pairs


def divergence_from(
    reference: Any,
    reference_tokenizer: Any,
    model: Any,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]],
    *,
    prefix: str = "",
    batch_size: int = 64,
) -> list[float]:
    """``ln q(y | x) - ln p(y | x)`` of every text y that the reference q wrote behind x, in nats; p is the model.

    The mean over draws of q estimates ``KL(q || p)``. Single values may be negative. Of texts that do not fit one of
    the two contexts it is NaN. Ends of texts are not scored, so tokenizers may differ. Control tokens that a model's
    generation settings suppress have no probability: p is what is drawn from.

    Args:
        prefix: stands before x when the model reads it: a control token.

    Source: arXiv 2302.08582, section 4.1, where q is GPT-3.
    """
    totals = []
    for one, its, before in ((reference, reference_tokenizer, ""), (model, tokenizer, prefix)):
        asked, texts = [before + opening for opening, _ in pairs], [[text] for _, text in pairs]
        with _silent(one, its):
            found = score_options(one, its, asked, texts, batch_size=batch_size)
        totals.append(np.array([score.total[0] for score in found]))
    return [float(value) for value in totals[0] - totals[1]]


@contextmanager
def _silent(model: Any, tokenizer: Any) -> Iterator[None]:
    """Takes the tokens that the model is not to write out of its predictions."""
    ids = silent_ids(unwrapped(model).generation_config, tokenizer)
    if not ids:
        yield
        return
    gone = torch.tensor(ids)
    hook = unwrapped(model).get_output_embeddings().register_forward_hook(
        lambda module, args, logits: logits.index_fill(-1, gone.to(logits.device), float("-inf"))
    )  # fmt: skip
    try:
        yield
    finally:
        hook.remove()
