"""One tiny SFT run in many forms, and the penalty's gradient computed by hand.

The dataset's eight rows have unequal lengths and prompts, so that a wrong token count in any form shows.
Also runs as a script (``python harness.py OUT.pt '{"...": ...}'``), which the two-process tests spawn twice.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer

import infosteer

WEIGHT = 0.05
WORDS = [f"w{i}" for i in range(48)]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def tiny_model(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    settings = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 52,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }
    return LlamaForCausalLM(LlamaConfig(**settings))


def rows(count: int = 8) -> list[dict[str, str]]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for i in range(count):
        words = [WORDS[int(j)] for j in torch.randint(0, len(WORDS), (5 + (i * 5) % 11,), generator=generator)]
        made.append({"prompt": " ".join(words[: 2 + i % 3]), "completion": " " + " ".join(words[2 + i % 3 :])})
    return made


class ZeroTask(SFTTrainer):
    """SFTTrainer whose task loss is multiplied by 0: what is left is the penalty's gradient."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs) * 0


class Grads(TrainerCallback):
    """Keeps the gradients that the optimizer is about to use."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        model = getattr(model, "module", model)
        self.steps.append({n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None})


def build_trainer(
    output: str,
    *,
    kind: type[SFTTrainer] = SFTTrainer,
    micro: int = 8,
    accumulate: int = 1,
    lora: bool = False,
    model: Any = None,
    data: list[dict[str, Any]] | None = None,
    **settings: Any,
) -> SFTTrainer:
    arguments = {
        "max_steps": 1,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": False,
        "use_cpu": True,
        "seed": 3,
        "max_length": 64,
        "disable_tqdm": True,
        "dataset_num_proc": None,
        **settings,
    }
    trainer = kind(
        model=model if model is not None else tiny_model(),
        args=SFTConfig(
            output_dir=output,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulate,
            **arguments,
        ),
        train_dataset=Dataset.from_list(data if data is not None else rows()),
        processing_class=tiny_tokenizer(),
        peft_config=LoraConfig(r=4, target_modules=["down_proj", "q_proj"], init_lora_weights=False) if lora else None,
    )
    if lora:
        torch.manual_seed(7)
        for name, parameter in trainer.model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    return trainer


def penalty_gradient(
    model: Any, batches: list[dict[str, torch.Tensor]], weight: float = WEIGHT
) -> dict[str, torch.Tensor]:
    """Gradient of -weight * sum_l sum_t H(k_hat) / n over all loss-carrying rows of ``batches``, by plain autograd."""
    model.train()
    model.zero_grad()
    total, count = torch.zeros(()), 0
    for batch in batches:
        coefficients: list[torch.Tensor] = []
        downs = [module for name, module in model.named_modules() if name.endswith("mlp.down_proj")]
        handles = [m.register_forward_pre_hook(lambda _, args, seen=coefficients: seen.append(args[0])) for m in downs]
        model(**{k: v for k, v in batch.items() if k != "labels"}, use_cache=False)
        for handle in handles:
            handle.remove()
        counted = torch.zeros_like(batch["labels"], dtype=torch.bool)
        counted[:, :-1] = batch["labels"][:, 1:] != -100
        count += int(counted.sum())
        for k in coefficients:
            share = k.abs() / k.abs().sum(-1, keepdim=True)
            entropy = -torch.special.xlogy(share, share).sum(-1)
            total = total + entropy[counted].sum()
    (-weight * total / count).backward()
    grads = {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return grads


def relative_error(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """|| got - wanted || / || wanted || over all parameters; every wanted gradient must be there."""
    difference = sum(float((got[n].double() - g.double()).square().sum()) for n, g in wanted.items())
    return (difference / sum(float(g.double().square().sum()) for g in wanted.values())) ** 0.5


def main(out: str, spec: dict[str, Any]) -> None:
    """One process of a distributed run: trains as ``spec`` says and lets rank 0 save what the test compares."""
    torch.set_num_threads(1)
    methods = spec.pop("methods")
    steered = spec.pop("steered", True)
    grads = Grads()
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(folder, kind=ZeroTask if spec.pop("zero_task", False) else SFTTrainer, **spec)
        trainer.add_callback(grads)
        if steered:
            infosteer.attach(trainer, methods)
        trainer.train()
    if trainer.accelerator.is_main_process:
        state = {n: p.detach() for n, p in trainer.model.named_parameters()}
        torch.save({"grads": grads.steps, "state": state, "log": trainer.state.log_history}, Path(out))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
