"""Do small good subsets and replay lessen what continued pretraining forgets, at equal numbers of documents?

``python benchmarks/sanity_stability_gap.py`` writes ``docs/evidence/methods/stability_gap``. A tiny Llama is pretrained
on mixture A: three sources of made-up word chains. The pool B is a fourth source, four tenths of it noise. All arms
start from the same weights and read as many documents: all of B once; a random tenth ten times (I); the best tenth
(I+II); the best tenth among 18 % of A (I+II+III). Losses are nats a token on fresh documents; depth and length of the
gap are of the loss on A.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from typing import Any

import sanity

SHAPE = {"hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
WORDS, LONG, BATCH, RATE, EVERY = 64, 24, 32, 4e-3, 10
NOISE, SHARE, EPOCHS = 0.4, 0.1, 10
A = ("A1", "A2", "A3")
SUBSET = {"method": "stability_gap", "share": SHARE, "epochs": EPOCHS, "shortest": 2}
BEST = {**SUBSET, "reference": "B"}
ARMS: dict[str, list[dict[str, Any]]] = {
    "all, once": [],
    "I": [{**SUBSET, "select": "random"}],
    "I+II": [BEST],
    "I+II+III": [{**BEST, "mixture": {"A1": 0.06, "A2": 0.06, "A3": 0.06}}],
    "I+II+III, fixed": [{**BEST, "resample": "fixed", "mixture": {"A1": 0.06, "A2": 0.06, "A3": 0.06}}],
}


def chain(name: str) -> dict[str, list[str]]:
    """Word -> the three words that may follow it in a source."""
    draw, words = random.Random(f"chain/{name}"), [f"w{i}" for i in range(WORDS)]
    return {word: draw.sample(words, 3) for word in words}


def documents(name: str, count: int, draw: random.Random) -> list[dict[str, str]]:
    """Documents of a source; those of ``noise`` follow no chain."""
    follows, words, found = chain(name), [f"w{i}" for i in range(WORDS)], []
    for _ in range(count):
        text = [draw.choice(words)]
        while len(text) < LONG:
            text.append(draw.choice(words if name == "noise" else follows[text[-1]]))
        found.append({"text": " ".join(text)})
    return found


def tensor(rows: list[dict[str, str]]) -> Any:
    """Words as numbers (B, T)."""
    import torch

    return torch.tensor([[int(word[1:]) for word in row["text"].split()] for row in rows])


def loss(model: Any, ids: Any) -> list[float]:
    """Mean loss of each document."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(1)
    return [float(value) for value in each]


def train(model: Any, rows: list[dict[str, str]], rate: float, seen: Any = None) -> None:
    """One pass over the rows in their order, with one cosine; ``seen(documents)`` every few steps."""
    import torch

    steps = len(rows) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.95))
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / warm, 0.5 * (1 + math.cos(math.pi * t / steps)))
    )
    for step in range(steps):
        if seen is not None and step % EVERY == 0:
            seen(step * BATCH)
        ids = tensor(rows[step * BATCH : (step + 1) * BATCH])
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    if seen is not None:
        seen(steps * BATCH)


def one_seed(seed: int, steps: int) -> dict[str, Any]:
    """Arm -> metric -> scores; pretrains once, then goes on in every arm."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from infosteer.core.data import DataContext
    from infosteer.core.registry import build_method
    from infosteer.methods.data.stability_gap import GapRecord

    torch.set_num_threads(1)
    count, draw = steps * BATCH, random.Random("stability gap/test")
    test_a = tensor([row for name in A for row in documents(name, 24, draw)])
    test_b = tensor(documents("B", 72, draw))
    draw, scores = random.Random(f"stability gap/{seed}"), {}
    before = [row for name in A for row in documents(name, 2 * count // 3, draw)]
    draw.shuffle(before)
    torch.manual_seed(seed)
    base = LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, **SHAPE))
    train(base, before, RATE)
    pool = documents("B", round((1 - NOISE) * count), draw) + documents("noise", round(NOISE * count), draw)
    draw.shuffle(pool)
    known = {"B": documents("B", 300, draw), **{name: documents(name, 400, draw) for name in A}}
    context = DataContext(seed=seed, strength=1.0, read=lambda name, **_: known[name])
    for arm, methods in ARMS.items():
        begun, model, rows, record = time.process_time(), copy.deepcopy(base), pool, GapRecord()
        for settings in methods:
            rows = build_method(settings).transform(rows, context)

        def seen(documents: int, record: Any = record, model: Any = model) -> None:
            a = loss(model, test_a)
            record.see(documents * LONG, model, a=sum(a) / len(a))

        train(model, rows, RATE / 2, seen)
        gap = record.gap("a", higher_is_better=False)
        scores[arm] = {
            "loss on A at the end": loss(model, test_a),
            "gap depth on A, nats": [gap.depth],
            "came back": [float(math.isfinite(gap.length))],
            "loss on B at the end": loss(model, test_b),
            "update ratio, bottom to top, early": [record.updates[min(2, len(record.updates) - 1)]["ratio"]],
            "update ratio, bottom to top, end": [record.updates[-1]["ratio"]],
            "documents read": [float(len(rows) // BATCH * BATCH)],
        }
        said = {name: round(sum(v) / len(v), 3) for name, v in scores[arm].items()}
        print(f"seed {seed}  {arm}  {said}  {time.process_time() - begun:.0f} s of CPU", flush=True)
    return scores


def main() -> None:
    """Runs every seed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=80, help="of each arm; pretraining makes twice as many")
    options.add_argument("--workers", type=int, default=1, help="seeds at a time")
    arguments, started = options.parse_args(), time.monotonic()
    scores = sanity.each_seed(one_seed, range(1, arguments.seeds + 1), arguments.workers, arguments.steps)
    about = {"command": "python benchmarks/sanity_stability_gap.py", "shape": SHAPE, "steps": arguments.steps,
             "batch": [BATCH, LONG], "learning_rate": RATE / 2, "noise": NOISE}  # fmt: skip
    print(sanity.write("stability_gap", {"a tiny Llama, sources of word chains": scores}, about, started))


if __name__ == "__main__":
    main()
