"""Hidden states between layers, read and replaced in every row of the table."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import HIDDEN, TEXT, tiny, tiny_wrapper, tokens
from torch import Tensor, nn

from infosteer.errors import ArchitectureError
from infosteer.models import decoder_blocks, locate, main_stream, visiting_blocks

ROWS = sorted(TEXT)


def run(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        out = model(input_ids=ids, use_cache=False)
    return out.logits if "logits" in out else out.last_hidden_state


@pytest.mark.parametrize("model_type", ROWS)
def test_states_are_read_and_replaced_in_every_family(model_type: str) -> None:
    model, ids = tiny(model_type), tokens()
    layers = len(decoder_blocks(model))
    assert layers == len(locate(model))
    seen: dict[int, Tensor] = {}
    with visiting_blocks(model, lambda layer, states: seen.__setitem__(layer, states)):
        plain = run(model, ids)
    assert sorted(seen) == list(range(layers))
    assert all(main_stream(model, states).shape == (*ids.shape, HIDDEN) for states in seen.values())
    other = run(model, ids.flip(0))
    # The states of the other order of the batch, put in after the last layer, give the other order's logits.
    for layer in {0, layers - 1}:
        with visiting_blocks(model, lambda _, states: states.flip(-3), [layer]):
            replaced = run(model, ids)
        # Streams and states aside, a few families read the token embedding again in every layer.
        if layer == layers - 1 or not model_type.startswith(("gemma3n", "gemma4")):
            torch.testing.assert_close(replaced, other, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(replaced, plain, atol=1e-3)
    with visiting_blocks(model, lambda _, states: states.clone()):
        assert torch.equal(run(model, ids), plain)
    assert torch.equal(run(model, ids), plain)


def test_the_states_are_those_that_transformers_reports() -> None:
    model, ids = tiny("llama"), tokens()
    seen: dict[int, Tensor] = {}
    with torch.no_grad(), visiting_blocks(model, lambda layer, states: seen.__setitem__(layer, states)):
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert torch.equal(seen[0], hidden[1])
    assert torch.equal(model.model.norm(seen[1]), hidden[2])


def test_text_decoder_of_a_wrapper_and_a_shared_module() -> None:
    assert [path for path, _ in decoder_blocks(tiny_wrapper("llava"))] == [
        "model.language_model.layers.0",
        "model.language_model.layers.1",
    ]
    model = tiny("llama")
    model.model.layers[1] = model.model.layers[0]
    seen = []
    with visiting_blocks(model, lambda layer, states: seen.append((layer, states))):
        run(model, tokens())
        run(model, tokens())
    assert [layer for layer, _ in seen] == [0, 1, 0, 1]
    with visiting_blocks(model, lambda layer, states: torch.zeros_like(states), [1]):
        zero = run(model, tokens())
    wanted = copy.deepcopy(model)
    assert torch.allclose(zero, wanted.lm_head(wanted.model.norm(torch.zeros(2, 5, HIDDEN))))


def test_an_error_inside_leaves_no_hook() -> None:
    model = tiny("llama")

    def fail(layer: int, states: Tensor) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"), visiting_blocks(model, fail):
        run(model, tokens())
    assert not any(block._forward_hooks for _, block in decoder_blocks(model))


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="decoder layers"):
        decoder_blocks(nn.Linear(2, 2))
