"""Every row of the table, built from a tiny config: does the site see the coefficient computed by hand?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tiny_models import HIDDEN, TEXT, VOCAB, WIDTH, WRAPPERS, tiny, tiny_wrapper, tokens
from torch import nn

from infosteer.errors import ArchitectureError
from infosteer.models import (
    LAYOUTS,
    Role,
    Site,
    final_norm,
    head_logits,
    locate,
    memory_vectors,
    output_head,
    parameters_of,
    prove,
)
from infosteer.models.decoder import text_modules
from infosteer.models.head import _FACTORS
from infosteer.models.structure import infer_layout

ROWS = sorted(TEXT)
GATED = [name for name in ROWS if LAYOUTS[name].gates is not None] if set(TEXT) <= set(LAYOUTS) else []

# M where the family, not the config, sets it.
WIDTHS = dict.fromkeys(["bloom", "codegen", "falcon", "gpt_neox_japanese", "mpt"], 4 * HIDDEN)


def expected_width(model_type: str, layer: int) -> int:
    return (48, 64, 48, 64)[layer] if model_type == "gemma3n_text" else WIDTHS.get(model_type, WIDTH)


@pytest.fixture(scope="module", params=ROWS)
def row(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    return request.param, tiny(request.param)


def capture(model: nn.Module, modules: dict[str, nn.Module]) -> tuple[dict[str, list], dict[str, list]]:
    """Inputs and outputs of modules in one forward."""
    entered: dict[str, list] = {name: [] for name in modules}
    left: dict[str, list] = {name: [] for name in modules}
    handles = []
    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(lambda _, args, n=name: entered[n].append(args[0].clone())))
        handles.append(module.register_forward_hook(lambda _, __, out, n=name: left[n].append(out.clone())))
    with torch.no_grad():
        model(input_ids=tokens(), use_cache=False)
    for handle in handles:
        handle.remove()
    return entered, left


def activation(enclosing: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    for name in ("act_fn", "activation_fn", "act", "gelu_impl", "activation"):
        if hasattr(enclosing, name):
            return getattr(enclosing, name)
    return F.silu  # lfm2, lfm3: written out in their forward


def half(role: Role, h: torch.Tensor) -> torch.Tensor:
    linear = role.module
    weight = linear.weight if isinstance(linear, nn.Linear) else linear.weight.T  # Conv1D: (in, out)
    bias = getattr(linear, "bias", None)
    rows = role.rows or slice(None)
    return F.linear(h, weight[rows], None if bias is None else bias[rows])


def by_hand(model_type: str, site: Site, h: torch.Tensor) -> torch.Tensor:
    """k from the input of the FFN, by the two formulas and what three families add to them."""
    enclosing = site.enclosing[1]
    act = activation(enclosing)
    (keys,) = site.roles["keys"]
    if not site.gated:
        return act(half(keys, h))
    (gates,) = site.roles["gates"]
    gate = half(gates, h)
    if model_type == "falcon_h1":
        gate = gate * 0.5  # mlp_multipliers[0] of the tiny config
    if model_type == "gemma3n_text" and site.layer == 0:
        quantile = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(0.5))
        gate = F.relu(gate - gate.mean(-1, keepdim=True) - quantile * gate.std(-1, keepdim=True, unbiased=False))
    return act(gate) * half(keys, h)


def test_every_row_has_a_config_and_every_config_a_row() -> None:
    assert set(TEXT) == set(LAYOUTS)
    assert all(row.model_type == name for name, row in LAYOUTS.items())


def test_the_site_fires_once_and_sees_the_coefficient(row: tuple[str, nn.Module]) -> None:
    model_type, model = row
    sites = locate(model)
    assert [site.layer for site in sites] == list(range(model.config.num_hidden_layers))
    modules = {site.name: site.module for site in sites}
    modules |= {site.roles["keys"][0].path: site.roles["keys"][0].module for site in sites}
    entered, left = capture(model, modules)
    for site in sites:
        assert model.get_submodule(site.name) is site.module
        assert (site.width, site.hidden) == (expected_width(model_type, site.layer), HIDDEN)
        (k,), (h,) = entered[site.name], entered[site.roles["keys"][0].path]
        assert k.shape[-1] == site.width
        assert k.numel() == tokens().numel() * site.width
        with torch.no_grad():
            torch.testing.assert_close(k, by_hand(model_type, site, h), rtol=1e-5, atol=1e-6)
        bias = getattr(site.module, "bias", None)
        y = k @ memory_vectors(site) + (0 if bias is None else bias.detach())
        torch.testing.assert_close(left[site.name][0], y, rtol=1e-5, atol=1e-5)


def test_the_proof_holds(row: tuple[str, nn.Module]) -> None:
    prove(row[1], locate(row[1]))


def test_final_norm_feeds_the_head(row: tuple[str, nn.Module]) -> None:
    model_type, model = row
    norm = final_norm(model)
    head = model.get_output_embeddings()
    if head is None:
        _, left = capture(model, {"norm": norm})
        with torch.no_grad():
            assert torch.equal(left["norm"][0], model(input_ids=tokens(), use_cache=False).last_hidden_state)
        return
    entered, left = capture(model, {"norm": norm, "head": head})
    normed = left["norm"][-1]  # nanochat uses the same module before the first layer as well
    if model_type == "minicpm3":
        normed = normed / (HIDDEN / model.config.dim_model_base)
    assert torch.equal(entered["head"][0], normed)
    assert output_head(model).shape == (VOCAB, HIDDEN)
    torch.testing.assert_close(normed @ output_head(model).T + _bias(head), left["head"][0], rtol=1e-5, atol=1e-5)


def test_head_logits_are_the_models_own(row: tuple[str, nn.Module]) -> None:
    _, model = row
    if model.get_output_embeddings() is None:
        with pytest.raises(ArchitectureError, match="no language-model head"):
            head_logits(model, torch.zeros(1, HIDDEN))
        return
    _, left = capture(model, {"norm": final_norm(model)})
    with torch.no_grad():
        logits = model(input_ids=tokens(), use_cache=False).logits
        torch.testing.assert_close(head_logits(model, left["norm"][-1]).float(), logits.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model_type", "setting"),
    [*((name, setting) for name, (setting, _) in _FACTORS.items()), ("gemma2", "final_logit_softcapping")],
)
def test_a_familys_scale_of_logits_counts(model_type: str, setting: str) -> None:
    model = tiny(model_type, **{setting: 0.375})
    _, left = capture(model, {"norm": final_norm(model)})
    with torch.no_grad():
        logits = model(input_ids=tokens(), use_cache=False).logits
        torch.testing.assert_close(head_logits(model, left["norm"][-1]), logits, rtol=1e-5, atol=1e-5)
        bare = model.get_output_embeddings()(left["norm"][-1])
    assert not torch.allclose(bare, logits, rtol=1e-2)


def _bias(linear: nn.Module) -> torch.Tensor | float:
    bias = getattr(linear, "bias", None)
    return 0.0 if bias is None else bias.detach()


def scale(role: Role, factor: float) -> None:
    with torch.no_grad():
        for _, parameter, dim, rows in parameters_of(role):
            part = (
                parameter if dim is None or rows is None else parameter.narrow(dim, rows.start, rows.stop - rows.start)
            )
            part.mul_(factor)


@pytest.mark.parametrize("model_type", ROWS)
def test_zeroing_a_role_silences_the_coefficients(model_type: str) -> None:
    for name in ("keys", "gates"):
        model = tiny(model_type)
        sites = locate(model)
        site = sites[-1]
        for role in site.roles[name]:
            scale(role, 0.0)
        entered, _ = capture(model, {"k": site.module})
        if site.roles[name]:
            torch.testing.assert_close(entered["k"][0], torch.zeros_like(entered["k"][0]), rtol=0, atol=1e-5)
        else:
            assert entered["k"][0].abs().sum() > 0


@pytest.mark.parametrize("model_type", GATED)
def test_only_the_keys_are_linear(model_type: str) -> None:
    """Doubling W_up doubles k exactly; doubling W_gate does not, because it goes through the activation."""
    seen = {}
    for name in ("none", "keys", "gates"):
        model = tiny(model_type)
        site = locate(model)[0]
        for role in site.roles.get(name, ()):
            scale(role, 2.0)
        seen[name] = capture(model, {"k": site.module})[0]["k"][0]
    assert torch.equal(seen["keys"], 2 * seen["none"])
    assert not torch.allclose(seen["gates"], 2 * seen["none"], rtol=1e-2)


@pytest.mark.parametrize("model_type", ROWS)
def test_the_structural_search_agrees_with_the_table(model_type: str) -> None:
    if model_type == "granitemoehybrid":
        pytest.skip("its fused projection has a name that does not say which half is the gate: the search refuses")
    assert infer_layout(tiny(model_type)) == LAYOUTS[model_type]


@pytest.mark.parametrize("model_type", sorted(WRAPPERS))
def test_a_wrapper_is_located_in_its_text_decoder_only(model_type: str) -> None:
    model = tiny_wrapper(model_type)
    sites = locate(model)
    text_type = WRAPPERS[model_type][0]
    assert model.config.get_text_config().model_type == text_type
    assert {module.config.model_type for _, module in text_modules("", model)} == {text_type}
    assert len(sites) == model.config.get_text_config().num_hidden_layers
    tower = [name for name, _ in model.named_modules() if "vision" in name or "visual" in name]
    assert tower, "the wrapper has a vision tower"
    assert not {site.name for site in sites} & set(tower)
    assert all(site.width == WIDTH and site.hidden == HIDDEN for site in sites)
    prove(model, sites)
    entered, _ = capture(model, {site.name: site.module for site in sites})
    assert all(len(seen) == 1 and seen[0].shape[-1] == WIDTH for seen in entered.values())
    alone = locate(tiny(text_type))
    assert [site.gated for site in alone] == [site.gated for site in sites]


def test_the_vision_tower_of_mistral3_has_down_projections_that_are_left_alone() -> None:
    model = tiny_wrapper("mistral3")
    named_alike = [name for name, _ in model.named_modules() if name.endswith("down_proj")]
    sites = [site.name for site in locate(model)]
    assert len(named_alike) == 4
    assert sites == [name for name in named_alike if "vision" not in name]
