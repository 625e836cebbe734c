"""Which entries the kernels choose: at real widths, of hostile rows, of any bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops import references

from infosteer.ops import steered
from infosteer.ops.backends import use_backend
from infosteer.ops.rows import unpack_entries

from .support import DTYPES, hostile

WIDTHS = (4864, 8960, 9216, 11008, 18944)


def mask_of(k, m, order, **settings):
    entries = steered.steer_rows(k, m, 1.0, order, "mean", 1.0, None, True, "")[1]
    index, signs = unpack_entries(entries)
    assert torch.equal(signs.float(), torch.sign(k.float().gather(1, index)).nan_to_num())
    assert len(set(map(tuple, index.tolist()))) <= len(index)
    return torch.zeros(k.shape, dtype=torch.bool).scatter(1, index, True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_masks_at_real_widths(width, dtype):
    order = "signed" if width % 3 else "magnitude"
    k = hostile(width, dtype)[[3, 6]]
    m = round(0.01 * width) if width % 5 else width // 2
    assert torch.equal(mask_of(k, m, order), references.smallest_mask(k, m, order))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("order", ["magnitude", "signed"])
@pytest.mark.parametrize("fraction", [0.0001, 0.01, 0.5, 1.0])
def test_masks_at_real_widths_all(width, dtype, order, fraction):
    k = hostile(width, dtype)
    m = max(1, round(fraction * width))
    assert torch.equal(mask_of(k, m, order), references.smallest_mask(k, m, order))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["magnitude", "signed"])
def test_masks_of_hostile_rows(dtype, order):
    k = hostile(37, dtype)
    for m, rows in ((5, k), (37, k[4:7])):
        assert torch.equal(mask_of(rows, m, order), references.smallest_mask(rows, m, order))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_masks_of_any_bits(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    width = data.draw(st.integers(1, 70))
    kind = torch.int32 if dtype == torch.float32 else torch.int16
    limits = torch.iinfo(kind)
    pool = data.draw(st.lists(st.integers(limits.min, limits.max), min_size=1, max_size=12))
    row = data.draw(st.lists(st.sampled_from(pool), min_size=width, max_size=width))
    k = torch.tensor([row], dtype=kind).view(dtype)
    m = data.draw(st.integers(1, width))
    order = data.draw(st.sampled_from(["magnitude", "signed"]))
    with use_backend("triton"):
        assert torch.equal(mask_of(k, m, order), references.smallest_mask(k, m, order))
