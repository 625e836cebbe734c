"""Models that other libraries have wrapped: heads, PEFT, DDP, FSDP, torch.compile, value heads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from tiny_models import HIDDEN, WIDTH, tiny, tokens
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    GPT2ForSequenceClassification,
    LlamaForSequenceClassification,
    OPTForSequenceClassification,
)

from infosteer.errors import ArchitectureError, SiteError
from infosteer.models import Site, final_norm, locate, memory_vectors, output_head, parameters_of, prove
from infosteer.models.walk import base_linear


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def check(model: nn.Module, names: list[str]) -> list[Site]:
    sites = locate(model)
    assert [site.name for site in sites] == names
    assert all(model.get_submodule(site.name) is site.module for site in sites)
    prove(model, sites)
    return sites


def output_with_k(model: nn.Module, site: Site, k: torch.Tensor | None) -> torch.Tensor:
    """The site's output, with its input replaced by ``k`` of one token row where given."""
    seen: list[torch.Tensor] = []
    edit = lambda _, args: None if k is None else (k.expand_as(args[0]),)  # noqa: E731
    handles = [
        site.module.register_forward_pre_hook(edit),
        site.module.register_forward_hook(lambda _, __, out: seen.append(out.clone())),
    ]
    with torch.no_grad():
        model(input_ids=tokens(), use_cache=False)
    for handle in handles:
        handle.remove()
    return seen[0]


def test_base_model_and_classification_heads() -> None:
    llama = tiny("llama")
    check(llama, [f"model.layers.{i}.mlp.down_proj" for i in range(2)])
    check(llama.model, [f"layers.{i}.mlp.down_proj" for i in range(2)])
    with pytest.raises(ArchitectureError, match="no readable language-model head"):
        output_head(llama.model)
    assert final_norm(llama.model) is llama.model.norm
    for model_type, kind, names in [
        ("llama", LlamaForSequenceClassification, "model.layers.{}.mlp.down_proj"),
        ("opt", OPTForSequenceClassification, "model.decoder.layers.{}.fc2"),
        ("gpt2", GPT2ForSequenceClassification, "transformer.h.{}.mlp.c_proj"),
    ]:
        model = AutoModelForSequenceClassification.from_config(tiny(model_type).config)
        assert isinstance(model, kind)
        check(model, [names.format(i) for i in range(2)])


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "phi3", "opt"])
@pytest.mark.parametrize("dora", [False, True])
def test_lora_on_everything(model_type: str, dora: bool) -> None:
    base = tiny(model_type)
    bare = locate(base)
    vectors = [memory_vectors(site).clone() for site in bare]
    config = LoraConfig(r=4, target_modules="all-linear", use_dora=dora, init_lora_weights=False)
    model = get_peft_model(base, config).eval()
    sites = check(model, [f"base_model.model.{site.name}" for site in bare])
    parameters = dict(model.named_parameters())
    for site, before in zip(sites, vectors, strict=True):
        assert "lora_A" in site.module._modules, "the site must be the wrapper, so that the adapter path sees k as well"
        assert (site.width, site.hidden) == (WIDTH, HIDDEN)
        assert torch.equal(memory_vectors(site), before)
        bias = getattr(base_linear(site.module), "bias", None)
        silent = output_with_k(model, site, torch.zeros(WIDTH))
        torch.testing.assert_close(silent, (0 * silent) + (0 if bias is None else bias.detach()))
        k = torch.linspace(-1, 1, WIDTH)
        plain = k @ before + (0 if bias is None else bias.detach())
        assert not torch.allclose(output_with_k(model, site, k).reshape(-1, HIDDEN)[0], plain, atol=1e-3)
        for roles in site.roles.values():
            for role in roles:
                owned = list(parameters_of(role))
                assert all(parameters[name] is parameter for name, parameter, _, _ in owned)
                assert any("lora_B" in name for name, *_ in owned)


@pytest.mark.parametrize("dora", [False, True])
def test_a_fused_projection_is_split_in_every_parameter(dora: bool) -> None:
    """Zeroing what a role owns silences its half, and leaves the other half as it was."""
    for name, other in (("keys", "gates"), ("gates", "keys")):
        config = LoraConfig(r=2 * WIDTH, target_modules=["gate_up_proj"], use_dora=dora, init_lora_weights=False)
        model = get_peft_model(tiny("phi3"), config).eval()
        site = locate(model)[0]
        fused = site.roles["keys"][0].module
        h = torch.linspace(-1, 1, HIDDEN)
        halves = {role: site.roles[role][0].rows for role in ("keys", "gates")}
        with torch.no_grad():
            before = fused(h)
            splits = {}
            for path, parameter, dim, rows in parameters_of(site.roles[name][0]):
                splits[path.removeprefix("base_model.model.model.layers.0.mlp.gate_up_proj.")] = dim, rows
                if dim is not None:
                    parameter.narrow(dim, rows.start, rows.stop - rows.start).zero_()
            if dora:  # DoRA divides by the norm of a row, which is now zero
                after = base_linear(fused)(h) + fused.lora_B["default"](fused.lora_A["default"](h))
                assert torch.equal(fused.lora_magnitude_vector["default"].weight[halves[name]], torch.zeros(WIDTH))
                assert fused.lora_magnitude_vector["default"].weight[halves[other]].abs().min() > 0
            else:
                after = fused(h)
                torch.testing.assert_close(after[halves[other]], before[halves[other]])
        assert torch.equal(after[halves[name]], torch.zeros(WIDTH))
        assert splits["lora_A.default.weight"] == (None, None), "the rank equals 2M here, and must not be taken for it"
        assert splits["lora_B.default.weight"] == (0, halves[name])
        assert splits["base_layer.weight"] == (0, halves[name])
        assert len(splits) == (4 if dora else 3)


def test_a_transposed_layout_is_split_on_its_last_axis() -> None:
    from transformers.pytorch_utils import Conv1D

    from infosteer.models import Role

    role = Role(path="x", module=Conv1D(2 * WIDTH, HIDDEN), rows=slice(WIDTH, 2 * WIDTH))
    assert [(name, dim, rows) for name, _, dim, rows in parameters_of(role)] == [
        ("x.weight", 1, slice(WIDTH, 2 * WIDTH)),
        ("x.bias", 0, slice(WIDTH, 2 * WIDTH)),
    ]


def test_modules_to_save() -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["down_proj"])
    model = get_peft_model(tiny("llama"), config)
    names = [f"base_model.model.model.layers.{i}.mlp.down_proj" for i in range(2)]
    for site in check(model, names):
        copy = site.module.modules_to_save["default"].weight
        with torch.no_grad():
            copy.mul_(2)
        assert torch.equal(memory_vectors(site), copy.T), "the copy in training counts, not the original"

    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = get_peft_model(tiny("llama"), config)
    assert output_head(model).data_ptr() == model.base_model.model.lm_head.modules_to_save["default"].weight.data_ptr()
    config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"])
    model = get_peft_model(tiny("llama"), config)
    assert output_head(model).data_ptr() == model.base_model.model.lm_head.base_layer.weight.data_ptr()

    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["mlp"])
    model = get_peft_model(tiny("llama"), config)
    check(model, [f"base_model.model.model.layers.{i}.mlp.modules_to_save.default.down_proj" for i in range(2)])


def test_ddp(process_group: None) -> None:
    model = nn.parallel.DistributedDataParallel(tiny("llama"))
    check(model, [f"module.model.layers.{i}.mlp.down_proj" for i in range(2)])


def test_fsdp2(process_group: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = tiny("llama")
    before = memory_vectors(locate(model)[0]).clone()
    mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("fsdp",))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    sites = check(model, [f"model.layers.{i}.mlp.down_proj" for i in range(2)])
    assert torch.equal(memory_vectors(sites[0]), before)
    assert type(memory_vectors(sites[0])) is torch.Tensor


def fsdp1(model: nn.Module, use_orig_params: bool = True) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    return FullyShardedDataParallel(
        model,
        auto_wrap_policy=ModuleWrapPolicy({type(model.model.layers[0])}),
        use_orig_params=use_orig_params,
        device_id=torch.device("cpu"),
    )


WRAP = "_fsdp_wrapped_module"


def test_fsdp1(process_group: None) -> None:
    model = fsdp1(tiny("llama"))
    check(model, [f"{WRAP}.model.layers.{i}.{WRAP}.mlp.down_proj" for i in range(2)])


def sharded(rank: int, store: str) -> None:
    """One of two processes: prove, train a step, read the vectors."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    plain = tiny("llama")
    vectors = memory_vectors(locate(plain)[0])
    loss = plain(input_ids=tokens(), labels=tokens()).loss.item()
    for use_orig_params in (True, False):
        model = fsdp1(tiny("llama").train(), use_orig_params)
        sites = check(model, [f"{WRAP}.model.layers.{i}.{WRAP}.mlp.down_proj" for i in range(2)])
        with pytest.raises(SiteError, match="cannot be read as numbers"):
            memory_vectors(sites[0])  # one rank holds nothing of it, the other a flat part
        with FullyShardedDataParallel.summon_full_params(model):
            assert torch.equal(memory_vectors(sites[0]), vectors)
        out = model(input_ids=tokens(), labels=tokens())
        assert out.loss.item() == pytest.approx(loss)
        out.loss.backward()
    model = tiny("llama").train()
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("fsdp",))
    for part in (*model.model.layers, model):
        fully_shard(part, mesh=mesh)
    sites = check(model, [f"model.layers.{i}.mlp.down_proj" for i in range(2)])
    assert torch.equal(memory_vectors(sites[0]), vectors)
    dist.destroy_process_group()


@pytest.mark.slow
def test_fsdp_on_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(sharded, (str(tmp_path / "store"),), nprocs=2)


def test_tensor_parallelism_is_refused(process_group: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    for model_type, m_dim in (("llama", 1), ("gpt2", 0)):
        mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("tp",))
        for placement in (Replicate(), Shard(1 - m_dim)):
            model = tiny(model_type)
            down = locate(model)[1].module
            down.weight = nn.Parameter(distribute_tensor(down.weight.detach(), mesh, [placement]))
            assert len(locate(model)) == 2
        down.weight = nn.Parameter(distribute_tensor(down.weight.full_tensor().detach(), mesh, [Shard(m_dim)]))
        with pytest.raises(ArchitectureError, match="tensor parallelism splits"):
            locate(model)


def test_torch_compile() -> None:
    compiled = torch.compile(tiny("llama"))
    check(compiled, [f"_orig_mod.model.layers.{i}.mlp.down_proj" for i in range(2)])
    by_layer = tiny("llama")
    for i, layer in enumerate(by_layer.model.layers):
        by_layer.model.layers[i] = torch.compile(layer)
    check(by_layer, [f"model.layers.{i}._orig_mod.mlp.down_proj" for i in range(2)])
    in_place = tiny("llama")
    in_place.compile()
    check(in_place, [f"model.layers.{i}.mlp.down_proj" for i in range(2)])


def test_a_value_head_around_the_model() -> None:
    class ValueHead(nn.Module):
        def __init__(self, pretrained: nn.Module) -> None:
            super().__init__()
            self.pretrained_model = pretrained
            self.v_head = nn.Linear(HIDDEN, 1)

        def forward(self, **inputs: Any) -> Any:
            return self.pretrained_model(**inputs)

    check(ValueHead(tiny("qwen2")), [f"pretrained_model.model.layers.{i}.mlp.down_proj" for i in range(2)])
    pair = nn.ModuleDict({"policy": tiny("qwen2"), "reference": tiny("qwen2")})
    with pytest.raises(ArchitectureError, match=r"several models[\s\S]*policy, reference"):
        locate(pair)
    with pytest.raises(ArchitectureError, match="no transformers model"):
        locate(nn.Linear(2, 2))


def test_activation_checkpointing_and_train_mode() -> None:
    model = tiny("llama").train()
    model.gradient_checkpointing_enable()
    check(model, [f"model.layers.{i}.mlp.down_proj" for i in range(2)])
    assert all(module.training for module in model.modules())


def broken(weight: torch.Tensor) -> Site:
    site = locate(tiny("llama"))[0]
    site.module.weight = nn.Parameter(weight, requires_grad=False)
    return site


@pytest.mark.parametrize(
    ("weight", "why"),
    [
        (torch.empty(0), "ZeRO-3"),
        (torch.zeros(HIDDEN * WIDTH // 2, 1, dtype=torch.uint8), "stored as torch.uint8"),
        (torch.zeros(HIDDEN, WIDTH, dtype=torch.float8_e4m3fn), "stored as torch.float8"),
        (torch.zeros(HIDDEN * WIDTH), "flat shard"),
        (torch.zeros(HIDDEN, WIDTH, device="meta"), "meta device"),
        (torch.zeros(HIDDEN, WIDTH // 2), r"shape \(32, 24\)"),
    ],
)
def test_unreadable_memory_vectors(weight: torch.Tensor, why: str) -> None:
    with pytest.raises(SiteError, match=why):
        memory_vectors(broken(weight))


def test_memory_vectors_whose_storage_is_freed() -> None:
    weight = torch.zeros(HIDDEN, WIDTH)
    weight.untyped_storage().resize_(0)  # what FSDP does between forwards
    with pytest.raises(SiteError, match="keeps the values on other ranks"):
        memory_vectors(broken(weight))


def test_memory_vectors_are_detached() -> None:
    for model_type in ("llama", "gpt2"):
        vectors = memory_vectors(locate(tiny(model_type))[0])
        assert vectors.shape == (WIDTH, HIDDEN)
        assert not vectors.requires_grad
    assert not output_head(tiny("llama")).requires_grad
