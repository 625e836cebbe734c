"""MAUVE: the curve's area against a fine integral and against shares by hand, clusters, and features of texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.mauve import _k_means, _principal, curve_area, mauve, text_features


def integral(p: np.ndarray, q: np.ndarray, scaling: float, points: int = 200_001) -> float:
    """The area under the curve, by many points of its parameter."""
    w = np.linspace(1e-9, 1 - 1e-9, points)[:, None]
    r = w * p + (1 - w) * q
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.exp(-scaling * np.where(q > 0, q * np.log(q / r), 0).sum(1))
        y = np.exp(-scaling * np.where(p > 0, p * np.log(p / r), 0).sum(1))
    return abs(float(np.trapezoid(y, x))) + float(x.min())  # left of the curve's end it is as high as there: y = 1


def test_the_area_is_that_of_the_curve() -> None:
    p, q = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.2, 0.3, 0.4, 0.1])
    for scaling in (1.0, 5.0):
        assert curve_area(p, q, scaling=scaling) == pytest.approx(integral(p, q, scaling), abs=0.01)
    assert curve_area(p, p) == pytest.approx(1.0, abs=1e-4)
    assert curve_area(p, q) == pytest.approx(curve_area(q, p), abs=1e-9)
    # what has nothing in common: 5 times the integral of w^5 (1 - w)^4
    apart = curve_area(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert apart == pytest.approx(5 * 120 * 24 / 3628800, abs=1e-3)


def test_clusters_are_those_of_sklearn() -> None:
    draw = np.random.default_rng(0)
    rows = np.concatenate([draw.normal(centre, 0.4, size=(30, 3)) for centre in (0.0, 4.0, -3.0, 9.0)])
    found = _k_means(rows, 4, 5, draw)
    wanted = KMeans(4, n_init=5, random_state=0).fit(rows).labels_
    assert len({*zip(found.tolist(), wanted.tolist(), strict=True)}) == 4, "the same sets by other names"
    same = np.ones((5, 2))
    assert set(_k_means(same, 3, 2, draw)) <= {0, 1, 2}


def test_components_hold_the_variance() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(200, 4)) * np.array([10.0, 3.0, 1.0, 0.1])
    kept = _principal(rows, 0.9)
    share = kept.var(0).sum() / rows.var(0).sum()
    assert kept.shape[1] < 4
    assert share >= 0.9
    assert _principal(np.ones((4, 3)), 0.9).shape == (4, 1)


def test_alike_sets_score_high_and_others_low() -> None:
    draw = np.random.default_rng(0)
    p, q = draw.normal(1.0, 1.0, size=(2, 200, 8))
    far = draw.normal(1.0, 1.0, size=(200, 8)) * np.array([-1.0] * 4 + [1.0] * 4)
    near, apart = mauve(p, q, clusters=10), mauve(p, far, clusters=10)
    assert near > 0.8 > 0.3 > apart
    assert mauve(p, p) == pytest.approx(1.0, abs=1e-4)
    assert mauve(p, q, clusters=10) == near, "seeded"
    wrong = np.full((3, 8), np.nan)
    for one, other, settings in ((p, q[:, :3], {}), (p, wrong, {}), (p, q[:0], {}), (p, q, {"clusters": 1})):
        with pytest.raises(ConfigError):
            mauve(one, other, **settings)


def test_features_are_the_last_tokens_states(random_model, tokenizer) -> None:
    texts = ["who paints?", "the quick brown fox jumps over the lazy dog", "true"]
    found = text_features(random_model, tokenizer, texts, batch_size=2)
    for text, row in zip(texts, found, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            wanted = random_model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
        np.testing.assert_allclose(row, wanted.numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match="text 2"):
        text_features(random_model, tokenizer, ["a", ""])
    with pytest.raises(DataError):
        text_features(random_model, tokenizer, [])
