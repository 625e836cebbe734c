"""Directions on synthetic states with planted answers, and on models against hidden states taken by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import tiny
from torch import Tensor

from infosteer.errors import ConfigError, DataError
from infosteer.inspection.activations import collect_states
from infosteer.inspection.directions import (
    find_direction,
    group_folds,
    probe_layers,
    random_folds,
)
from infosteer.inspection.transfer import transfer
from infosteer.ops.separate import cosine

WIDTH, TOPICS, ROWS = 24, 4, 80


def planted(seed: int = 0, gap: float = 3.0) -> tuple[dict[int, Tensor], Tensor, list[str]]:
    """Layer 0 knows nothing, layer 1 has one direction for all topics, layer 2 another one in every topic."""
    g = torch.Generator().manual_seed(seed)
    topics = [f"topic {i % TOPICS}" for i in range(ROWS * TOPICS)]
    labels = torch.tensor([(i // TOPICS) % 2 for i in range(ROWS * TOPICS)])
    noise = torch.randn(3, len(labels), WIDTH, generator=g)
    centre = torch.randn(TOPICS, WIDTH, generator=g) * 0.3  # topics lie apart a little
    sign = labels.float()[:, None] - 0.5
    shared = torch.nn.functional.one_hot(torch.tensor(5), WIDTH).float()
    own = torch.nn.functional.one_hot(torch.arange(TOPICS) + 10, WIDTH).float()
    number = torch.arange(len(labels)) % TOPICS
    states = {
        0: noise[0] + centre[number],
        1: noise[1] + centre[number] + gap * sign * shared,
        2: noise[2] + centre[number] + gap * sign * own[number],
    }
    return states, labels, topics


@pytest.mark.parametrize("method", ["mass_mean", "logistic"])
def test_a_shared_direction_generalises_and_one_by_topic_does_not(method: str) -> None:
    states, labels, topics = planted()
    silent, shared, own = probe_layers(states, labels, group_folds(topics), method, shuffles=19)
    assert shared.null_high is not None
    assert shared.accuracy > 0.84 > shared.null_high
    assert shared.low < shared.accuracy < shared.high
    assert shared.auc is not None
    assert shared.auc > 0.93
    for reading in (silent, own):
        assert reading.null_high is not None
        assert reading.accuracy <= reading.null_high, "no better than shuffled labels on a topic held out"
    assert (silent.n, silent.chance) == (ROWS * TOPICS, 0.5)
    inside = probe_layers(states, labels, random_folds(labels), "logistic")
    assert inside[2].accuracy > 0.6, "rows of the same topics in training tell the class"


def test_a_random_direction_stays_near_chance() -> None:
    states, labels, topics = planted()
    assert probe_layers({1: states[1]}, labels, group_folds(topics), "random")[0].accuracy < 0.65
    assert cosine(find_direction(states[1], labels, "random"), find_direction(states[1], labels)) < 0.6
    drawn = find_direction(states[1], labels, "random")
    assert float(drawn.norm()) == pytest.approx(float(find_direction(states[1], labels).norm()))


def test_accuracy_equals_a_loop_by_hand() -> None:
    states, labels, topics = planted(seed=3, gap=1.0)
    x, y = states[1].double().numpy(), labels.numpy()
    right = 0
    for topic in sorted(set(topics)):
        test = np.array([name == topic for name in topics])
        d = x[~test & (y == 1)].mean(0) - x[~test & (y == 0)].mean(0)
        z = x @ d
        scale = z[~test].std()
        a = b = 0.0
        u = (z - z[~test].mean()) / scale
        for _ in range(5000):  # plain gradient descent
            p = 1 / (1 + np.exp(-(a * u[~test] + b)))
            a -= 1.5 * ((p - y[~test]) * u[~test]).mean()
            b -= 1.5 * (p - y[~test]).mean()
        right += int((((a * u + b) > 0) == (y == 1))[test].sum())
    assert probe_layers({1: states[1]}, labels, group_folds(topics))[0].accuracy == pytest.approx(right / len(y))


def test_transfer_follows_the_direction_and_not_the_layout() -> None:
    states, labels, topics = planted()
    folds = group_folds(topics)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q
    same = transfer({1: states[1]}, {1: states[1]}, labels, folds)[0]
    assert same.cosine == pytest.approx(1)
    assert same.accuracy == same.own
    assert same.difference == 0
    shifted = transfer({1: states[1]}, {1: 2 * states[1] + 7}, labels, folds)[0]
    assert shifted.accuracy == pytest.approx(same.accuracy), "the bias is fitted to the target"
    turned = transfer({1: states[1]}, {1: states[1] @ turn}, labels, folds)[0]
    assert turned.own == pytest.approx(same.own)
    assert turned.accuracy < 0.7
    assert turned.difference_high < 0
    assert turned.p_value < 0.01
    assert abs(turned.cosine) < 0.7
    flipped = transfer({1: states[1]}, {1: -states[1]}, labels, folds)[0]
    assert flipped.cosine == pytest.approx(-1)


def test_the_null_shows_what_two_models_share_anyhow() -> None:
    """Two models with the same states agree on the direction of any labels; independent ones on none."""
    states, labels, topics = planted()
    other, _, _ = planted(seed=9)
    folds = group_folds(topics)
    assert transfer({0: states[0]}, {0: states[0]}, labels, folds)[0].cosine_null == pytest.approx(1)
    assert transfer({0: states[0]}, {0: other[0]}, labels, folds)[0].cosine_null < 0.5
    assert abs(transfer({0: states[0]}, {0: states[0]}, labels, folds, "random")[0].cosine) < 0.6


def test_random_folds_are_disjoint_whole_and_balanced() -> None:
    labels = torch.tensor([1] * 30 + [0] * 45)
    folds = random_folds(labels, 5, seed=2)
    assert torch.equal(torch.cat(folds).sort().values, torch.arange(75))
    assert all(int(labels[fold].sum()) == 6 for fold in folds)
    assert all(torch.equal(a, b) for a, b in zip(folds, random_folds(labels, 5, seed=2), strict=True))


def test_hostile_input() -> None:
    states, labels, topics = planted()
    folds = group_folds(topics)
    for call, error, match in (
        (lambda: probe_layers({}, labels, folds), DataError, "no hidden states"),
        (lambda: probe_layers(states, labels[:-1], folds), ConfigError, "differ in number"),
        (lambda: probe_layers(states, torch.ones(len(labels)), folds), ConfigError, "one class"),
        (lambda: probe_layers(states, labels, []), DataError, "fold"),
        (lambda: probe_layers(states, labels, [torch.tensor([], dtype=torch.long)]), DataError, "fold"),
        (lambda: probe_layers(states, labels, [torch.tensor([10_000])]), DataError, "rows that there are not"),
        (lambda: probe_layers(states, labels, [folds[0], folds[0]]), DataError, "twice"),
        (lambda: probe_layers(states, labels, folds, "best"), ConfigError, "Unknown method"),
        (lambda: probe_layers({0: states[0] * float("nan")}, labels, folds), ConfigError, "finite"),
        (lambda: probe_layers({0: states[0][:0]}, labels[:0], folds), ConfigError, "no texts"),
        (lambda: transfer(states, {0: states[0]}, labels, folds), ConfigError, "do not fit"),
        (lambda: transfer({0: states[0]}, {0: states[0][:, :4]}, labels, folds), ConfigError, "do not fit"),
        (lambda: group_folds(["a", "a"]), DataError, "topic"),
        (lambda: random_folds(torch.tensor([1, 0, 0]), 5), DataError, "too few"),
    ):
        with pytest.raises(error, match=match):
            call()
    # A fold that holds the only rows of a class leaves one class to train on.
    with pytest.raises(ConfigError, match="one class"):
        probe_layers({0: states[0]}, labels, [labels.nonzero().squeeze(1), (labels == 0).nonzero().squeeze(1)])


class Characters:
    """A tokenizer of single characters."""

    chat_template = None
    eos_token_id = 1
    bos_token_id = 2

    def __call__(self, texts: list[str] | str, **_: object) -> dict[str, object]:
        one = isinstance(texts, str)
        rows = [[ord(c) % 50 + 5 for c in text] for text in ([texts] if one else texts)]
        return {"input_ids": rows[0] if one else rows}


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bloom", "gemma3n_text", "opt", "mpt", "falcon_h1"])
def test_states_of_texts_of_many_lengths(model_type: str) -> None:
    model = tiny(model_type)
    texts = ["abc", "a", "xyz", "hello there", "yes", "no"]
    found = collect_states(model, Characters(), texts, batch_size=2, layers=[1])
    assert list(found) == [1]
    for number, text in enumerate(texts):
        seen = []
        path = {"gpt2": "transformer.h.1", "bloom": "transformer.h.1", "opt": "model.decoder.layers.1",
                "mpt": "transformer.blocks.1"}.get(model_type, "model.layers.1")  # fmt: skip
        handle = model.get_submodule(path).register_forward_hook(lambda m, a, out: seen.append(out))  # noqa: B023
        with torch.no_grad():
            model(input_ids=torch.tensor([Characters()(text)["input_ids"]]), use_cache=False)
        handle.remove()
        out = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
        if model_type == "gemma3n_text":
            out = out[model.config.altup_active_idx]
        torch.testing.assert_close(found[1][number], out[0, -1], rtol=1e-4, atol=1e-5)


def test_hostile_texts() -> None:
    model = tiny("llama")
    for texts, match in (
        ([], "no texts"),
        ("one text", "no texts"),
        (["a", ""], "text 1"),
        (["a", 3], "text 1"),
        (["ab", "a"], "too few tokens"),
        (["a" * 100], "longer than the model's context"),
        (["ab", [{"role": "user", "content": "x"}]], "mixed"),
    ):
        with pytest.raises(DataError, match=match):
            collect_states(model, Characters(), texts, position=-2)
    with pytest.raises(ConfigError, match="no chat template"):
        collect_states(model, Characters(), [[{"role": "user", "content": "x"}]])
    with pytest.raises(DataError, match="from the end"):
        collect_states(model, Characters(), ["ab"], position=0)
    assert model.training is False
