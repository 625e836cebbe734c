"""Small things that many tests share: a tiny model, a tiny tokenizer, and quiet libraries."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")

import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: threads only get in each other's way, and pytest-xdist brings its own


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
