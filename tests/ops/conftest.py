from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _fixed_seed_and_one_thread():
    """Tiny tensors on a busy machine: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
