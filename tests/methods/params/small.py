"""Tiny models in double precision and plain training loops for the tests of params methods. Not a test module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

import infosteer

HIDDEN, WIDTH, LAYERS, VOCABULARY = 16, 24, 2, 40
SMALL = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "vocab_size": VOCABULARY}
IDS = torch.randint(1, VOCABULARY, (6, 9), generator=torch.Generator().manual_seed(2))
TEXT = {"input_ids": torch.randint(1, VOCABULARY, (5, 8), generator=torch.Generator().manual_seed(3))}
TEXT["attention_mask"] = torch.ones_like(TEXT["input_ids"])
TEXT["attention_mask"][1, 5:] = 0
TEXT["attention_mask"][4, :3] = 0


def llama(**changes: Any) -> nn.Module:
    settings = {"intermediate_size": WIDTH, "num_key_value_heads": 1, "mlp_bias": True, **SMALL, **changes}
    return _made(lambda: LlamaForCausalLM(LlamaConfig(initializer_range=0.3, **settings)))


def phi3() -> nn.Module:
    settings = {"intermediate_size": WIDTH, "pad_token_id": 0, **SMALL}
    return _made(lambda: Phi3ForCausalLM(Phi3Config(initializer_range=0.3, **settings)))


def gpt2() -> nn.Module:
    config = GPT2Config(n_embd=HIDDEN, n_inner=WIDTH, n_layer=LAYERS, n_head=2, vocab_size=VOCABULARY, n_positions=16)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    config.initializer_range, config.bos_token_id, config.eos_token_id = 0.3, 0, 0
    return _made(lambda: GPT2LMHeadModel(config))


def opt() -> nn.Module:
    settings = {"ffn_dim": WIDTH, "word_embed_proj_dim": HIDDEN, "max_position_embeddings": 32, "dropout": 0.0, **SMALL}
    return _made(lambda: OPTForCausalLM(OPTConfig(init_std=0.3, **settings)))


def lora(model: nn.Module, targets: list[str], **settings: Any) -> nn.Module:
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", **settings)).train()


def _made(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = build().double().train()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)  # some begin at zero, where a factor would not show
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        embedding[(embedding == 0).all(-1)] = 0.1  # that of padding
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def steer(model: nn.Module, methods: list[Any], **options: Any) -> Any:
    return infosteer.steer(model, methods, calibration=[TEXT], **options)


def train(
    model: nn.Module,
    methods: list[Any],
    *,
    steps: int = 3,
    groups: Callable[[nn.Module], Any] | None = None,
    optimizer: Any = torch.optim.AdamW,
    **settings: Any,
) -> dict[str, Tensor]:
    """Some steps with the methods; the weights at the end."""
    settings = {"lr": 1e-2, "weight_decay": 0.1, **settings}
    with steer(model, methods) as session:
        stepper = optimizer(groups(model) if groups else [p for p in model.parameters() if p.requires_grad], **settings)
        for _ in range(steps):
            model(input_ids=IDS, labels=IDS).loss.backward()
            stepper.step()
            stepper.zero_grad()
        session.finish()
    return weights(model)


def usage_by_hand(model: nn.Module, paths: list[str]) -> list[Tensor]:
    """Mean over texts of the mean over real tokens of |k|, for the down projections at these paths."""
    seen: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(path).register_forward_pre_hook(lambda _, args, path=path: seen.update({path: args[0]}))
        for path in paths
    ]
    training = model.training
    with torch.no_grad():
        model.eval()(**TEXT, use_cache=False)
    model.train(training)
    for hook in hooks:
        hook.remove()
    mask = TEXT["attention_mask"].double()
    found = []
    for path in paths:
        k = seen[path].abs().reshape(*mask.shape, -1)
        found.append(((k * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).mean(0))
    return found
