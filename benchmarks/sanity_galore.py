"""Does training in a low-rank projection come near AdamW, and how does that depend on rank and on new bases?

``python benchmarks/sanity_galore.py`` writes ``docs/evidence/methods/galore``. A small Llama learns the lab's
biographies from scratch, letter by letter; all arms see the same rows in the same order. "factorised" trains W = B A in
place of each matrix of attention and FFN, at GaLore's rank. Each arm's rate is chosen from three on a seed of its own.
Optimizer states are measured.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import time
from typing import Any

import sanity

SHAPE = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
LENGTH, BATCH = 64, 8
# Of the matrices, GaLore's scale included; a seed of its own chooses.
RATES, GALORE_RATES, TUNED_ON = (8e-4, 2e-3, 5e-3), (2e-3, 5e-3, 1.2e-2), 11
LOSS = "held-out loss, nats a letter"
OTHERS = 5e-3  # rate of embeddings, head and norms, in every arm
GALORE = {"method": "galore", "update_proj_gap": 50, "scale": 0.25}
ARMS: dict[str, list[dict[str, Any]]] = {
    "AdamW": [],
    "GaLore d/4": [{**GALORE, "rank": 24}],
    "GaLore d/2": [{**GALORE, "rank": 48}],
    "GaLore d/16": [{**GALORE, "rank": 6}],
    "d/16, first basis for good": [{**GALORE, "rank": 6, "update_proj_gap": 10**6}],
    "factorised d/4": [],
}


def letters(texts: list[str]) -> tuple[Any, int]:
    """Texts as one row of letter numbers, and how many letters there are."""
    import torch

    text = "\n".join(texts)
    known = {letter: number for number, letter in enumerate(sorted(set(text)))}
    return torch.tensor([known[letter] for letter in text]), len(known)


def model_of(vocabulary: int, seed: int, *, rank: int = 0) -> Any:
    """A small Llama; with a rank, its attention's and FFN's matrices are products of two."""
    import torch
    from torch import nn
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=False, **SHAPE)).train()
    for name, module in list(model.named_modules()) if rank else ():
        if isinstance(module, nn.Linear) and ("attn" in name or "mlp" in name):
            down = nn.Linear(module.in_features, rank, bias=False)
            up = nn.Linear(rank, module.out_features, bias=False)
            u, s, v = torch.linalg.svd(module.weight.detach(), full_matrices=False)  # the nearest product, evenly split
            down.weight.data, up.weight.data = s[:rank, None].sqrt() * v[:rank], u[:, :rank] * s[:rank].sqrt()
            model.set_submodule(name, nn.Sequential(down, up))
    return model


def main() -> None:
    """Trains every arm from every seed."""
    import torch

    import infosteer
    from infosteer import lab
    from infosteer.methods.params.galore import state_bytes

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=300)
    arguments, started = options.parse_args(), time.monotonic()
    torch.set_num_threads(1)
    texts = [row["text"] for row in lab.load("facts/texts", people="all", limit=6000)]
    stream, vocabulary = letters(texts)
    kept = 64 * LENGTH
    train, test = stream[:-kept], stream[-kept:].view(64, LENGTH)

    def run(arm: str, seed: int, rate: float) -> dict[str, list[float]]:
        methods = ARMS[arm]
        model = model_of(vocabulary, seed, rank=24 if arm.startswith("factorised") else 0)
        draw = random.Random(f"galore/{seed}")
        groups = [
            {
                "params": [p],
                "lr": rate / (methods[0]["scale"] if methods else 1.0) if ".layers." in n and p.dim() > 1 else OTHERS,
            }
            for n, p in model.named_parameters()
        ]
        with infosteer.steer(model, methods, measure_every=0) if methods else contextlib.nullcontext():
            optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda t: min((t + 1) / 30, 1 - t / (arguments.steps + 1))
            )
            for _ in range(arguments.steps):
                places = [draw.randrange(len(train) - LENGTH) for _ in range(BATCH)]
                ids = torch.stack([train[place : place + LENGTH] for place in places])
                model(input_ids=ids, labels=ids).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
            held = state_bytes(optimizer)
        with torch.no_grad():
            logits = model.eval()(input_ids=test).logits[:, :-1]
            each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), test[:, 1:], reduction="none").mean(1)
        found = {
            LOSS: each.tolist(),
            "optimizer state, MiB": [held / 2**20],
            "weights, millions": [sum(p.numel() for p in model.parameters()) / 1e6],
        }
        said = {name: round(sum(v) / len(v), 4) for name, v in found.items()}
        print(f"{time.monotonic() - started:.0f} s  seed {seed}  {arm}  rate {rate}  {said}", flush=True)
        return found

    scores: sanity.Scores = {}
    tuned: dict[str, dict[float, float]] = {}
    for arm in ARMS:
        tuned[arm] = {
            rate: statistics.mean(run(arm, TUNED_ON, rate)[LOSS]) for rate in (GALORE_RATES if ARMS[arm] else RATES)
        }
        best = min(tuned[arm], key=tuned[arm].__getitem__)
        scores[arm] = {seed: run(arm, seed, best) for seed in range(1, arguments.seeds + 1)}
    about = {
        "command": "python benchmarks/sanity_galore.py",
        "shape": SHAPE,
        "steps": arguments.steps,
        "batch": [BATCH, LENGTH],
        "tuning": {arm: {str(rate): loss for rate, loss in found.items()} for arm, found in tuned.items()},
    }
    print(
        sanity.write("galore", {"a small Llama from scratch, letters of the lab's biographies": scores}, about, started)
    )


if __name__ == "__main__":
    main()
