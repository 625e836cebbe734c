"""MAUVE: how near a set of generated texts is to a set of other texts, by what a model makes of both.

Legend: n texts, D features, K clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.model_state import context_length, device_of, encode, evaluating, pad_id
from infosteer.evaluation.predictions import Array

POINTS = 25  # mixtures on the divergence curve
ROUNDS = 500  # of k-means at most


def text_features(model: Any, tokenizer: Any, texts: Sequence[str], *, batch_size: int = 32) -> Array:
    """Final hidden state of each text's last token, (n, D); what does not fit the context is cut.

    Raises:
        DataError: no texts, or one without tokens.
    """
    ids = [row[: context_length(model)] for row in encode(tokenizer, texts)]
    if not ids or not all(ids):
        empty = next((place for place, row in enumerate(ids) if not row), None)
        raise DataError(
            "A text without tokens has no features.",
            where="texts" if empty is None else f"text {empty + 1}",
            got=f"{len(texts)} texts",
        )
    order = sorted(range(len(ids)), key=lambda n: len(ids[n]))
    found: list[Array] = [np.zeros(0)] * len(ids)
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            part = [ids[n] for n in order[start : start + batch_size]]
            longest = max(map(len, part))
            rows = torch.tensor([row + [pad_id(tokenizer)] * (longest - len(row)) for row in part])
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in part])
            out = model(
                input_ids=rows.to(device_of(model)), attention_mask=mask.to(device_of(model)),
                output_hidden_states=True, use_cache=False,
            )  # fmt: skip
            last = out.hidden_states[-1][torch.arange(len(part)), mask.sum(1) - 1].double().cpu().numpy()
            for n, row in zip(order[start : start + batch_size], last, strict=True):
                found[n] = row
    return np.stack(found)


def mauve(
    p: Array,
    q: Array,
    *,
    clusters: int | None = None,
    scaling: float = 5.0,
    kept: float = 0.9,
    restarts: int = 5,
    seed: int = 0,
) -> float:
    """MAUVE of two sets of features (n, D), in (0, 1]: 1 where they fall into the clusters alike.

    Rows are brought to length 1, reduced to the principal components that hold the share ``kept`` of the variance, and
    sorted into K clusters by k-means; what is compared are the shares of the clusters, see ``curve_area``.

    Args:
        clusters: K; None takes a tenth of the smaller set, 2 at least.
        scaling: the exponent c of the curve.
        restarts: k-means of the least spread among so many.

    Raises:
        ConfigError: sets of different widths, values that are not finite, or more clusters than rows.

    Source: Pillutla et al., NeurIPS 2021 (arXiv 2102.01454); the numbers are those of its authors' package.
    """
    if p.ndim != 2 or q.ndim != 2 or p.shape[1] != q.shape[1] or not len(p) or not len(q):
        raise ConfigError("features are two tables of one width", got=f"shapes {p.shape} and {q.shape}")
    if not (np.isfinite(p).all() and np.isfinite(q).all()):
        raise ConfigError("features are finite numbers")
    count = max(2, round(min(len(p), len(q)) / 10)) if clusters is None else clusters
    if not 2 <= count <= len(p) + len(q):
        raise ConfigError("so many clusters cannot be made", where="clusters", got=count)
    rows = np.concatenate([p, q]).astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    labels = _k_means(_principal(rows, kept), count, restarts, np.random.default_rng(seed))
    shares = [np.bincount(part, minlength=count) / len(part) for part in (labels[: len(p)], labels[len(p) :])]
    return curve_area(shares[0], shares[1], scaling=scaling)


def curve_area(p: Array, q: Array, *, scaling: float = 5.0) -> float:
    """Area under the divergence curve of two distributions over clusters (K,).

    Formula: the curve of ``(exp(-c KL(q || r)), exp(-c KL(p || r)))``, r = w p + (1 - w) q, w in (0, 1), with the end
    points (0, 1) and (1, 0); the area is the mean of those under it as seen from either axis, by trapezoids.
    """
    weights = np.linspace(1e-6, 1 - 1e-6, POINTS)
    mixtures = weights[:, None] * p + (1 - weights[:, None]) * q
    x, y = (np.exp(-scaling * np.array([_divergence(one, r) for r in mixtures])) for one in (q, p))
    x, y = np.concatenate([[1.0], x, [0.0]]), np.concatenate([[0.0], y, [1.0]])
    areas = [np.trapezoid(b[order], a[order]) for a, b in ((x, y), (y, x)) for order in [np.lexsort((-b, a))]]
    return float(np.mean(areas))


def _divergence(p: Array, r: Array) -> float:
    """KL(p || r) in nats; r is positive wherever p is."""
    there = p > 0
    return float((p[there] * np.log(p[there] / r[there])).sum())


def _principal(rows: Array, kept: float) -> Array:
    """Rows (n, D) in their first principal components, as many as hold the share ``kept`` of the variance."""
    centred = rows - rows.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    total = float((sizes**2).sum())
    if total == 0:
        return centred[:, :1]
    enough = int(np.searchsorted(np.cumsum(sizes**2) / total, kept - 1e-12)) + 1
    return np.asarray(centred @ axes[:enough].T)


def _k_means(rows: Array, count: int, restarts: int, draw: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Cluster of each row: Lloyd's rounds from centres drawn far from each other (k-means++), the best restart."""
    best: tuple[float, Any] = (float("inf"), None)
    for _ in range(restarts):
        centres = rows[int(draw.integers(len(rows)))][None]
        while len(centres) < count:
            near = _distances(rows, centres).min(1)
            total = near.sum()
            place = int(draw.choice(len(rows), p=near / total if total > 0 else None))
            centres = np.concatenate([centres, rows[place][None]])
        labels = np.full(len(rows), -1)
        for _ in range(ROUNDS):
            distances = _distances(rows, centres)
            new = distances.argmin(1)
            if (new == labels).all():
                break
            labels = new
            for cluster in np.unique(labels):
                centres[cluster] = rows[labels == cluster].mean(0)
        spread = float(_distances(rows, centres).min(1).sum())
        if spread < best[0]:
            best = (spread, labels)
    return np.asarray(best[1])


def _distances(rows: Array, centres: Array) -> Array:
    """Squared distances (n, K)."""
    found = (rows**2).sum(1)[:, None] - 2 * rows @ centres.T + (centres**2).sum(1)
    return np.asarray(np.maximum(found, 0.0))
