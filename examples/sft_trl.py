"""Supervised fine-tuning with TRL: an ordinary script, and the two lines that steer it.

    python examples/sft_trl.py                      # the embedded base model, seconds on a CPU
    python examples/sft_trl.py --model Qwen/Qwen2.5-0.5B --max-steps 200

Without the two marked lines it is the same training, plain. To compare the two fairly, with paired seeds and intervals,
write a recipe and use `infosteer run`.
"""

from __future__ import annotations

import argparse

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

import infosteer  # <- the first line
from infosteer.lab import embedded_base, load


def main() -> None:
    """Train, show the last log line, save."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", help="a folder or hub id [default: the embedded base model]")
    options.add_argument("--output", default="runs/sft_trl", help="where the trained model goes")
    options.add_argument("--max-steps", type=int, default=20)
    chosen = options.parse_args()

    trainer = SFTTrainer(
        model=chosen.model or str(embedded_base()),
        args=SFTConfig(
            output_dir=chosen.output,
            max_steps=chosen.max_steps,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            learning_rate=4e-4,
            max_length=128,
            logging_steps=min(5, chosen.max_steps),
            save_strategy="no",
            report_to="none",
            bf16=torch.cuda.is_available(),
        ),
        train_dataset=Dataset.from_list(load("facts")),  # rows of prompt and completion
    )
    session = infosteer.attach(trainer, [infosteer.Intervention(), infosteer.EntropyRegularization()])  # <- the second
    trainer.train()

    last = next(line for line in reversed(trainer.state.log_history) if "infosteer/entropy" in line)
    for name, value in last.items():
        print(f"{name:28} {value}")
    trainer.save_model()  # ordinary files, and infosteer.json beside them
    session.remove()  # the model is the plain one again, with its new weights


if __name__ == "__main__":
    main()
