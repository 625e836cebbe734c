"""All cases here run on the kernels."""

from __future__ import annotations

import pytest

from infosteer.ops.backends import use_backend


@pytest.fixture(autouse=True)
def _kernels():
    with use_backend("triton"):
        yield
