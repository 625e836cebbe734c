"""Put the few weights that carry a skill from a tuned model onto the model it was tuned from.

    python examples/graft.py BASE TUNED ROWS.jsonl --density 0.001 --output grafted

BASE and TUNED are folders or hub ids, ROWS the training rows (any format of docs/data.md). Embeddings and head stay
those of BASE; what else to do with masks: src/infosteer/methods/params/grafting/card.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers import DataCollatorForSeq2Seq

from infosteer.methods.params.grafting import Search, graft
from infosteer.methods.params.grafting.masks import distribution
from infosteer.models import locate, place_parameters
from infosteer.training.encode import encode_rows
from infosteer.training.loading import load_model, load_tokenizer
from infosteer.training.rows import read_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("tuned")
    parser.add_argument("rows", help="training rows of the task, never those of a test")
    parser.add_argument("--density", type=float, default=0.01, help="share of the weights that are taken")
    parser.add_argument("--limit", type=int, default=256, help="rows to use; a quarter of them only choose the epoch")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("grafted"))
    options = parser.parse_args()

    model, tuned, tokenizer = load_model(options.base), load_model(options.tuned), load_tokenizer(options.tuned)
    encoded = encode_rows(read_rows(options.rows, limit=options.limit), tokenizer).rows
    collate = DataCollatorForSeq2Seq(tokenizer)
    batches = [collate(encoded[i : i + options.batch_size]) for i in range(0, len(encoded), options.batch_size)]
    places = {item.name: item for item in place_parameters(model, locate(model))}
    chosen = [name for name, item in places.items() if not {"embeddings", "head"} & set(item.parts)]
    after = dict(tuned.named_parameters())

    held_out = len(batches) // 4
    made = graft(
        model,
        {name: places[name].parameter.detach().clone() for name in chosen},
        {name: after[name].detach() for name in chosen},
        batches[held_out:],
        held_out=batches[:held_out],
        density=options.density,
        search=Search(epochs=options.epochs),
    )
    for epoch, entry in enumerate(made.history):
        print(f"epoch {epoch}: loss {-entry['score']:.4f} at density {entry['density']:.4%}")
    for where, share in distribution(made.mask, lambda name: places[name].parts[0]).items():
        print(f"{where}: {share['density']:.4%} of its weights, {share['share']:.1%} of the graft")
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    print(options.output)


if __name__ == "__main__":
    main()
