"""The one tie rule, against torch.sort(stable=True)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infosteer.errors import ConfigError
from infosteer.ops import chunks, select, select_rows
from infosteer.ops.select import count_smallest, smallest

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def expected(k, m, order):
    values = k.abs() if order == "magnitude" else k
    return torch.sort(values, dim=-1, stable=True).indices[..., :m].sort(-1).values


def rows(kind, shape, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    k = torch.randn(shape, generator=g)
    if kind == "relu":
        k = k.relu()
    elif kind == "few values":
        k = (2 * k).round()  # holds -0.0 beside 0.0
    elif kind == "constant":
        k = torch.full(shape, -1.5)
    elif kind == "special":
        k = torch.where(torch.rand(shape, generator=g) < 0.5, torch.nan, k)
        k = torch.where(torch.rand(shape, generator=g) < 0.2, -torch.nan, k)
        k = torch.where(torch.rand(shape, generator=g) < 0.1, -torch.inf, k)
        k = torch.where(torch.rand(shape, generator=g) < 0.1, torch.inf, k)
    elif kind == "tiny":
        k = k * 1e-42  # denormal in float32
    return k.to(dtype)


KINDS = ["normal", "relu", "few values", "constant", "special", "tiny"]


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    order=st.sampled_from(["magnitude", "signed"]),
    width=st.integers(1, 400),
    batch=st.sampled_from([(), (1,), (5,), (2, 3), (0,), (2, 0)]),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_same_set_as_a_stable_sort(kind, dtype, order, width, batch, share, seed):
    k = rows(kind, (*batch, width), dtype, seed)
    m = round(share * width)
    chosen = smallest(k, m, order)
    assert chosen.dtype == torch.int64
    assert torch.equal(chosen.sort(-1).values, expected(k, m, order))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [4864, 8960, 70_001])
@pytest.mark.parametrize("kind", KINDS)
def test_real_widths(kind, width, dtype):
    k = rows(kind, (5, width), dtype, 1)
    for order in select.ORDERS:
        for fraction in (0.0001, 0.01, 0.1, 0.6):
            m = count_smallest(fraction, width)
            assert torch.equal(smallest(k, m, order).sort(-1).values, expected(k, m, order))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_and_accelerator_path_chooses_the_same(kind, dtype):
    k = rows(kind, (4, 301), dtype, 2)
    for order in select.ORDERS:
        for m in (1, 3, 40, 300):
            static = select_rows.smallest_static(k, m, order)
            assert torch.equal(static.sort(-1).values, expected(k, m, order))


def test_strides_chunks_and_input_untouched(monkeypatch):
    k = torch.randn(40, 3, 50).transpose(0, 1)[:, ::2]
    before = k.clone()
    whole = smallest(k, 7)
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 130)  # two rows at a time, with a shorter last chunk
    assert torch.equal(smallest(k, 7), whole)
    assert torch.equal(whole.sort(-1).values, expected(k, 7, "magnitude"))
    assert torch.equal(k, before)
    assert torch.equal(smallest(k[:1].expand(4, -1, -1), 7)[3], whole[0])


def test_lowest_index_first():
    k = torch.tensor([[3.0, 0.0, -0.0, 1.0, 0.0, -1.0]])
    assert smallest(k, 2).sort().values.tolist() == [[1, 2]]
    assert smallest(k, 4).sort().values.tolist() == [[1, 2, 3, 4]]
    assert smallest(k, 2, "signed").sort().values.tolist() == [[1, 5]]


@pytest.mark.parametrize(
    ("fraction", "width", "m"),
    [
        (0.01, 4864, 49),
        (0.01, 8960, 90),
        (0, 100, 0),
        (1e-9, 100, 1),
        (1.0, 7, 7),
        (0.5, 5, 2),
        (0.5, 7, 4),
        (0.3, 0, 0),
    ],
)
def test_count(fraction, width, m):
    assert count_smallest(fraction, width) == m


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan"), "0.1", True, None])
def test_bad_fraction(fraction):
    with pytest.raises(ConfigError, match="share"):
        count_smallest(fraction, 10)


def test_bad_arguments():
    k = torch.randn(2, 5)
    with pytest.raises(ConfigError, match="order"):
        smallest(k, 1, "abs")
    with pytest.raises(ConfigError, match="row holds"):
        smallest(k, 6)
    with pytest.raises(ConfigError, match="coefficients"):
        smallest(k.int(), 1)
