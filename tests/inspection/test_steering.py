"""Adding and removing directions against plain hooks, and a model made to answer by a direction."""

from __future__ import annotations

import pytest
import torch
from tiny_models import TEXT, tiny, tokens
from torch import Tensor, nn

from infosteer.errors import ConfigError, DataError
from infosteer.inspection import steering
from infosteer.inspection.fact_pairs import QUESTION, WORDS
from infosteer.inspection.steering import (
    adding,
    is_refusal,
    refusal_rate,
    removing,
    shift_along,
    truth_effect,
)


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("positions", [None, [-2, -1]])
def test_adding_equals_a_plain_hook(positions: list[int] | None) -> None:
    model, ids, vector = tiny("llama"), tokens(), torch.randn(32)

    def hook(module: nn.Module, args: object, out: Tensor) -> Tensor:
        out = out.clone()
        for position in range(-5, 0) if positions is None else positions:
            out[:, position] += vector
        return out

    handle = model.model.layers[1].register_forward_hook(hook)
    wanted = logits(model, ids)
    handle.remove()
    with adding(model, {1: vector}, positions):
        torch.testing.assert_close(logits(model, ids), wanted)
    with adding(model, {1: torch.stack([vector, vector])}, positions):
        torch.testing.assert_close(logits(model, ids), wanted)
    with adding(model, {1: torch.stack([vector, 0 * vector])}, positions):
        mixed = logits(model, ids)
    torch.testing.assert_close(mixed[0], wanted[0])
    torch.testing.assert_close(mixed[1], logits(model, ids)[1])


@pytest.mark.parametrize("model_type", sorted(TEXT))
def test_nothing_is_left_along_a_removed_direction(model_type: str) -> None:
    from infosteer.models import visiting_blocks

    model, direction = tiny(model_type), torch.randn(32)
    seen: list[Tensor] = []
    with (
        torch.no_grad(),
        removing(model, direction),
        visiting_blocks(model, lambda layer, states: seen.append(states)),
    ):
        model(input_ids=tokens(), use_cache=False)
    assert seen
    for states in seen:
        along = states.double() @ direction.double() / direction.double().norm()
        assert float(along.abs().max()) < 1e-3 * float(states.abs().max())
    with pytest.raises(ConfigError, match="zero"), removing(model, torch.zeros(32)):
        pass


def test_shift_has_the_scale_of_the_states() -> None:
    states = torch.randn(40, 6, dtype=torch.float64)
    labels = torch.arange(40) % 2
    gap = states[labels == 1].mean(0) - states[labels == 0].mean(0)
    assert torch.allclose(shift_along(states, labels, gap * 17), gap)
    axis = torch.eye(6)[2]
    assert torch.allclose(shift_along(states, labels, axis), gap[2] * axis.double())
    with pytest.raises(ConfigError, match="zero"):
        shift_along(states, labels, torch.zeros(6))
    with pytest.raises(ConfigError, match="one class"):
        shift_along(states, torch.ones(40), axis)


class Words:
    """A tokenizer of whole words."""

    chat_template = None
    eos_token_id = pad_token_id = 1
    bos_token_id = 2
    known = (" TRUE", " FALSE")

    def __call__(self, texts: list[str] | str, **_: object) -> dict[str, object]:
        one = isinstance(texts, str)
        rows = [[self._id(word) for word in text.split()] for text in ([texts] if one else texts)]
        return {"input_ids": rows[0] if one else rows}

    def _id(self, word: str) -> int:
        return {"TRUE": 3, "FALSE": 4}.get(word, sum(map(ord, word)) % 50 + 5)


def test_a_vector_that_writes_true_moves_answers_as_by_hand() -> None:
    model = tiny("llama")
    with (
        torch.no_grad()
    ):  # the last layer's attention copies the mean of earlier states: what is added at the end is read
        vector = model.lm_head.weight[3] - model.lm_head.weight[4]
    statements, labels = ["a b .", "c d .", "e f .", "g h i ."], [1, 0, 1, 0]
    found = truth_effect(model, Words(), statements, labels, {0: 5 * vector}, examples=[("x y .", 1)])
    changes: dict[int, list[float]] = {0: [], 1: []}
    start: dict[int, list[float]] = {0: [], 1: []}
    for text, label in zip(statements, labels, strict=True):
        ids = torch.tensor([Words()(f"x y .{QUESTION}{WORDS[0]}\n{text}{QUESTION}")["input_ids"]])
        values = []
        for scale in (0.0, -5.0 if label else 5.0):

            def hook(module: nn.Module, args: object, out: Tensor, scale: float = scale) -> Tensor:
                out = out.clone()
                out[:, -5:-3] += scale * vector  # the question has three words
                return out

            handle = model.model.layers[0].register_forward_hook(hook)
            p = logits(model, ids)[0, -1].double().softmax(-1)
            handle.remove()
            values.append(float(p[3] - p[4]))
        start[label].append(values[0])
        changes[label].append(values[1] - values[0])
    assert found.before_true == pytest.approx(sum(start[1]) / 2, abs=1e-6)
    assert found.before_false == pytest.approx(sum(start[0]) / 2, abs=1e-6)
    assert found.toward_truth == pytest.approx(sum(changes[0]) / 2, abs=1e-6)
    assert found.away_from_truth == pytest.approx(sum(changes[1]) / 2, abs=1e-6)
    assert found.toward_low <= found.toward_truth <= found.toward_high
    none = truth_effect(model, Words(), statements, labels, {0: 0 * vector})
    assert none.toward_truth == none.away_from_truth == 0
    assert 0 < none.mass < 1


def test_hostile_statements() -> None:
    model = tiny("llama")
    for statements, labels, match in (
        (["a ."], [1, 0], "as many labels"),
        ([], [], "as many labels"),
        (["a .", "b ."], [1, 1], "both classes"),
        (["a " * 80, "b ."], [1, 0], "longer than the model's context"),
    ):
        with pytest.raises(DataError, match=match):
            truth_effect(model, Words(), statements, labels, {0: torch.ones(32)})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sorry, but no", True), (" I\u2019m sorry", True), ("Sorry!", True), ("As an AI model", True),
        ("i cannot do that", True), ("Sure, here is", False), ("", False), ("The sorry state", False),
    ],
)  # fmt: skip
def test_what_a_refusal_is(text: str, expected: bool) -> None:
    assert is_refusal(text) is expected


def test_refusal_rates_count_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer:
        def __init__(self, text: str) -> None:
            self.text = text

    monkeypatch.setattr(steering, "decode", lambda *a, **k: [Answer(t) for t in ("I cannot", "Yes", "No", "Sorry")])
    assert refusal_rate(None, None, ["a", "b", "c", "d"]) == 0.5
    with pytest.raises(DataError):
        refusal_rate(None, None, [])
