"""Does training in a low-rank projection come near AdamW, and how does that depend on rank and on new bases?

``python benchmarks/sanity_galore.py`` writes ``docs/evidence/methods/galore``. A small Llama learns the lab's
biographies from scratch, letter by letter; all arms see the same rows in the same order. "factorised" trains W = B A in
place of each matrix of attention and FFN, at GaLore's rank. Optimizer states are measured. GaLore's rate is ten times
AdamW's at scale 0.25.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import time
from typing import Any

import sanity

SHAPE = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3, "num_attention_heads": 4}
LENGTH, BATCH, RATE = 96, 8, 2e-3
GALORE = {"method": "galore", "update_proj_gap": 50, "scale": 0.25}
ARMS: dict[str, tuple[list[dict[str, Any]], float]] = {  # methods, rate as a multiple of AdamW's
    "AdamW": ([], 1.0),
    "GaLore d/4": ([{**GALORE, "rank": 32}], 10.0),
    "GaLore d/2": ([{**GALORE, "rank": 64}], 10.0),
    "GaLore d/16": ([{**GALORE, "rank": 8}], 10.0),
    "d/4, first basis for good": ([{**GALORE, "rank": 32, "update_proj_gap": 10**6}], 10.0),
    "d/4, randomized": ([{**GALORE, "rank": 32, "solver": "randomized"}], 10.0),
    "factorised d/4": ([], 1.0),
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
    scores: sanity.Scores = {}
    for seed in range(1, arguments.seeds + 1):
        for arm, (methods, factor) in ARMS.items():
            model = model_of(vocabulary, seed, rank=32 if arm.startswith("factorised") else 0)
            draw = random.Random(f"galore/{seed}")
            begun = time.monotonic()
            with infosteer.steer(model, methods, measure_every=0) if methods else contextlib.nullcontext():
                # embeddings and head learn at AdamW's rate in every arm
                rates = [RATE if "embed" in n or "lm_head" in n or "norm" in n else RATE * factor
                         for n, _ in model.named_parameters()]  # fmt: skip
                optimizer = torch.optim.AdamW(
                    [{"params": [p], "lr": rate} for p, rate in zip(model.parameters(), rates, strict=True)],
                    weight_decay=0.0,
                )
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
                "held-out loss, nats a letter": each.tolist(),
                "optimizer state, MiB": [held / 2**20],
                "parameters, millions": [sum(p.numel() for p in model.parameters()) / 1e6],
            }
            scores.setdefault(arm, {})[seed] = found
            said = {name: round(sum(v) / len(v), 3) for name, v in found.items()}
            print(
                f"{time.monotonic() - started:.0f} s  seed {seed}  {arm}  {said}  {time.monotonic() - begun:.0f} s",
                flush=True,
            )
    about = {"command": "python benchmarks/sanity_galore.py", "shape": SHAPE, "steps": arguments.steps,
             "batch": [BATCH, LENGTH], "learning_rate": RATE}  # fmt: skip
    print(
        sanity.write("galore", {"a small Llama from scratch, letters of the lab's biographies": scores}, about, started)
    )


if __name__ == "__main__":
    main()
