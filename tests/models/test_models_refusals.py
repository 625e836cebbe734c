"""What must not be steered, or not without consent; and that looking leaves no trace."""

from __future__ import annotations

import copy
import logging
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import BASE, HEADS, HIDDEN, WIDTH, tiny, tiny_wrapper
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from infosteer.errors import ArchitectureError, SiteError
from infosteer.models import LAYOUTS, locate, prove

EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4},
    "qwen3_moe": {"num_experts": 4},
    "olmoe": {"num_experts": 4},
    "gpt_oss": {"num_local_experts": 4},
    "deepseek_v3": {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "llama4_text": {"num_local_experts": 4},
    "granitemoe": {"num_local_experts": 4},
    "jamba": {"num_experts": 4},
    "hunyuan_v1_moe": {"num_experts": 4},
    "gemma4_text": {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16},
    "granitemoehybrid": {"num_local_experts": 4, "layer_types": ["full_attention"] * 2, "mamba_n_heads": 4},
    "doge": {"is_moe": True, "num_experts": 4, "num_experts_per_tok": 2},
}


def build(model_type: str, **arguments: Any) -> nn.Module:
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(BASE | HEADS | arguments)))


@pytest.mark.parametrize("model_type", sorted(EXPERTS))
@pytest.mark.parametrize("trust", [False, True])
def test_routed_experts(model_type: str, trust: bool) -> None:
    with torch.device("meta"):
        model = build(model_type, **EXPERTS[model_type])
    with pytest.raises(ArchitectureError, match=r"routed experts are not supported yet\n  where: .*(mlp|experts|moe)"):
        locate(model, trust_structure=trust)


@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_encoder_decoders(model_type: str) -> None:
    sizes = {"t5": {"d_model": 32, "d_ff": 48, "num_layers": 2}, "bart": {"d_model": 32, "encoder_layers": 1}}
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(model_type, **sizes[model_type]))
    with pytest.raises(ArchitectureError, match="encoder-decoder models are not supported"):
        locate(model, trust_structure=True)


def test_an_unknown_type_needs_consent(caplog: pytest.LogCaptureFixture) -> None:
    assert "bitnet" not in LAYOUTS
    model = build("bitnet")
    with pytest.raises(
        ArchitectureError, match=r"'bitnet' is not in InfoSteer's table[\s\S]*trust_structure=True"
    ) as info:
        locate(model)
    assert "llama" in str(info.value)
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger="infosteer"):
        sites = locate(model, trust_structure=True)
    assert "FFNLayout(model_type='bitnet')" in caplog.text
    assert [site.name for site in sites] == [f"model.layers.{i}.mlp.down_proj" for i in range(2)]
    assert all((site.width, site.hidden, site.gated) == (WIDTH, HIDDEN, True) for site in sites)
    prove(model, sites)


def test_the_error_names_the_nearest_types() -> None:
    model = tiny("qwen3")
    model.config.model_type = "qwen33"  # what a new family looks like
    with pytest.raises(ArchitectureError, match=r"nearest: qwen3"):
        locate(model)


def test_the_row_found_is_python_that_builds_the_row() -> None:
    from infosteer.models import FFNLayout

    for row in LAYOUTS.values():
        assert eval(row.source(), {"FFNLayout": FFNLayout}) == row


def test_structure_that_is_ambiguous_is_refused() -> None:
    model = build("bitnet")
    for layer in model.model.layers:
        layer.extra = nn.Linear(WIDTH, HIDDEN)
    with pytest.raises(ArchitectureError, match="layer 0 has 2 linears that could be the down projection"):
        locate(model, trust_structure=True)
    with torch.device("meta"):
        mamba = AutoModelForCausalLM.from_config(
            AutoConfig.for_model("mamba", **BASE | {"intermediate_size": 64, "state_size": 4})
        )
    with pytest.raises(ArchitectureError, match="structural search failed"):
        locate(mamba, trust_structure=True)


def test_a_decoder_that_runs_its_layers_twice_fails_the_proof() -> None:
    model = build("llama")
    stack = model.model.layers
    model.model.layers = nn.ModuleList([stack[0], stack[0]])
    with pytest.raises(SiteError, match=r"2 of 2 sites[\s\S]*fired 2 times"):
        prove(model, locate(model))


class LigerMLP(nn.Module):
    """Named like the fused module: it never calls its down projection."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        k = F.silu(F.linear(h, self.gate_proj.weight)) * F.linear(h, self.up_proj.weight)
        return F.linear(k, self.down_proj.weight)


class HomeMadeFusion(LigerMLP):
    pass


def test_liger_is_refused_by_name() -> None:
    model = build("llama")
    model.model.layers[1].mlp = LigerMLP(model.model.layers[1].mlp)
    with pytest.raises(ArchitectureError, match=r"fused feed-forward kernel[\s\S]*LigerMLP"):
        locate(model)
    patched = build("llama")  # Liger also patches instances, and then renames them like this
    patched.model.layers[0].mlp._get_name = lambda: "LigerTiledSwiGLUMLP"
    with pytest.raises(ArchitectureError, match="LigerTiledSwiGLUMLP"):
        locate(patched)


def test_a_fusion_of_another_name_fails_the_proof() -> None:
    model = build("llama")
    model.model.layers[1].mlp = HomeMadeFusion(model.model.layers[1].mlp)
    sites = locate(model)
    with pytest.raises(SiteError, match=r"1 of 2 sites do not fire") as info:
        prove(model, sites)
    assert "inside HomeMadeFusion) fired 0 times, M = 48" in str(info.value)
    assert "where: model.layers.1.mlp.down_proj" in str(info.value)
    assert no_hooks(model)


def test_a_replaced_feed_forward_module() -> None:
    model = build("llama")
    model.model.layers[0].mlp = nn.Identity()
    with pytest.raises(ArchitectureError, match=r"layer 0 has no linear 'mlp.down_proj'[\s\S]*inside Identity"):
        locate(model)
    model = build("llama")
    model.model.layers[1].mlp.down_proj = nn.Identity()
    with pytest.raises(ArchitectureError, match=r"layer 1 has no linear 'mlp.down_proj'[\s\S]*got: Identity"):
        locate(model)
    model = build("llama")
    model.model.layers[1].mlp.up_proj = nn.Linear(HIDDEN, WIDTH + 1)
    with pytest.raises(ArchitectureError, match="unexpected width"):
        locate(model)


def test_a_site_that_does_not_govern_its_output_fails_the_proof() -> None:
    model = tiny("llama")
    sites = locate(model)
    sites[0].module.forward = lambda k: k.new_ones(*k.shape[:-1], HIDDEN)
    with pytest.raises(SiteError, match="does not change the output"):
        prove(model, sites)
    assert no_hooks(model)


def test_a_down_projection_of_zeros_is_no_failure() -> None:
    model = tiny("llama")
    sites = locate(model)
    with torch.no_grad():
        sites[0].module.weight.zero_()
    prove(model, sites)


def test_the_proof_refuses_what_has_no_weights_or_does_not_run() -> None:
    with torch.device("meta"):
        model = build("llama")
    sites = locate(model)
    assert [site.width for site in sites] == [WIDTH, WIDTH]
    with pytest.raises(SiteError, match="meta device"):
        prove(model, sites)
    with pytest.raises(SiteError, match="no site"):
        prove(model, [])
    model = tiny("llama")
    model.model.norm.forward = lambda h: 1 / 0
    with pytest.raises(SiteError, match=r"failed on a trial forward of two tokens: division by zero"):
        prove(model, locate(model))
    assert no_hooks(model)


def no_hooks(model: nn.Module) -> bool:
    return not any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in model.modules()
    )


def random_states() -> list[Any]:
    return [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()]


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "falcon", "qwen2_vl", "gemma3"])
def test_nothing_is_left_behind(name: str) -> None:
    model = tiny_wrapper(name) if name in ("qwen2_vl", "gemma3") else tiny(name)
    flags = []
    for number, module in enumerate(model.modules()):  # a mixture, as a partly frozen model has
        module.training = number % 3 == 0
        if isinstance(module, nn.Dropout):
            module.p = 0.5
        flags.append(module.training)
    counter = torch.zeros(1)
    model.register_buffer("counter", counter, persistent=False)
    model.calls = 0

    def meddle(module: nn.Module, *_: Any) -> None:
        """A model that counts its calls, draws numbers and remembers things."""
        module.counter += torch.rand(1)
        module.calls += 1
        module.last_draw = random.random() + np.random.rand()

    handle = model.register_forward_hook(meddle)
    weights = copy.deepcopy(model.state_dict())
    attributes = [set(vars(module)) for module in model.modules()]
    deltas = [getattr(module, "rope_deltas", None) for module in model.modules()]
    states = random_states()
    prove(model, locate(model))
    after = random_states()
    assert torch.equal(states[0], after[0])
    assert states[1] == after[1]
    assert (states[2] == after[2]).all()
    assert [module.training for module in model.modules()] == flags
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert all(a is b for a, b in zip(deltas, (getattr(m, "rope_deltas", None) for m in model.modules()), strict=True))
    assert model.counter is counter
    assert counter.item() == 0
    assert model.calls == 0
    handle.remove()
    assert no_hooks(model)
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class FullyShardedDataParallel(nn.Module):
    """Named like FSDP1, which sets itself up in its first forward and breaks when that is undone."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._fsdp_wrapped_module = module
        self.is_set_up = False

    def forward(self, **inputs: Any) -> Any:
        self.is_set_up = True
        return self._fsdp_wrapped_module(**inputs)


def test_fsdp1_is_not_rolled_back() -> None:
    model = FullyShardedDataParallel(tiny("gpt2").train())
    sites = locate(model)
    assert sites[0].name == "_fsdp_wrapped_module.transformer.h.0.mlp.c_proj"
    prove(model, sites)
    assert model.is_set_up
    assert all(module.training for module in model.modules())
