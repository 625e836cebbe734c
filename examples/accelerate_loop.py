"""A training loop of one's own with accelerate: accumulation over rows of unequal length, and one line for penalties.

    python examples/accelerate_loop.py
    accelerate launch --num_processes 2 examples/accelerate_loop.py --micro 2

The loss of an optimizer step is a mean over the tokens of all its micro-batches on all processes. A mean of the
micro-batches' means would be another loss: it weighs a token by the company it keeps.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

import infosteer
from infosteer.lab import embedded_base, load

IGNORED = -100  # labels that carry no loss


def encode(row: dict[str, Any], tokenizer: Any) -> dict[str, list[int]]:
    """Token ids, and labels that count the completion and the end token only."""
    prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
    answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def pad(rows: list[dict[str, list[int]]], padding: int) -> dict[str, torch.Tensor]:
    """Rows (B, T) padded on the right to the longest of them."""
    longest = max(len(row["labels"]) for row in rows)
    fill = {"input_ids": padding, "labels": IGNORED}
    batch = {
        name: torch.tensor([row[name] + [fill[name]] * (longest - len(row[name])) for row in rows]) for name in fill
    }
    lengths = torch.tensor([len(row["labels"]) for row in rows])
    batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
    return batch


def groups(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of ``size`` micro-batches, one list an optimizer step; a short rest is left out."""
    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []


def main() -> None:
    """Train for a few optimizer steps and save."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", help="a folder or hub id [default: the embedded base model]")
    options.add_argument("--output", default="runs/accelerate_loop", help="where the trained model goes")
    options.add_argument("--max-steps", type=int, default=10)
    options.add_argument("--rows", type=int, default=8, help="rows an optimizer step, over all processes")
    options.add_argument("--micro", type=int, default=4, help="rows a micro-batch")
    options.add_argument("--dtype", default="float32", choices=("float32", "float64", "bfloat16"))
    chosen = options.parse_args()

    accelerator = Accelerator()  # no gradient_accumulation_steps: it would divide by the number of micro-batches
    source = chosen.model or str(embedded_base())
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, chosen.dtype)).train()
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    loader = DataLoader(
        [encode(row, tokenizer) for row in load("facts")],  # type: ignore[arg-type]
        batch_size=chosen.micro,
        shuffle=True,
        generator=torch.Generator().manual_seed(1),
        drop_last=True,
        collate_fn=lambda rows: pad(rows, padding),
    )

    # Before prepare(): DDP, FSDP and torch.compile come after.
    session = infosteer.steer(
        model, [infosteer.Intervention(), infosteer.EntropyRegularization()], total_steps=chosen.max_steps
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    accumulate, rest = divmod(chosen.rows, chosen.micro * accelerator.num_processes)
    if not accumulate or rest:
        options.error(f"--rows must be a multiple of {chosen.micro * accelerator.num_processes}: micro * processes")
    for step, micro_batches in enumerate(groups(loader, accumulate)):
        if step == chosen.max_steps:
            break
        # The first token of a row is never predicted, so it does not count.
        counts = torch.stack([(batch["labels"][:, 1:] != IGNORED).sum() for batch in micro_batches])
        num_items = accelerator.reduce(counts.sum(), reduction="sum")
        total = torch.zeros((), device=accelerator.device)
        for index, batch in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(model):  # gradients meet once a step
                loss = model(**batch, num_items_in_batch=num_items, use_cache=False).loss  # a sum over num_items
                total += loss.detach()
                loss = session.loss(loss, num_items=num_items)  # adds the penalties, in value and gradient
                accelerator.backward(loss * accelerator.num_processes)  # DDP averages over processes
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        task = float(accelerator.reduce(total, reduction="sum"))
        if accelerator.is_main_process:
            print(f"step {step + 1}: task loss {task:.4f}")

    for name, value in session.metrics().items():
        accelerator.print(f"{name:28} {value:.4f}")
    session.remove()
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(chosen.output)
        tokenizer.save_pretrained(chosen.output)
    accelerator.end_training()


if __name__ == "__main__":
    main()
