"""Small things that many tests share: a tiny model, a tiny tokenizer, and quiet libraries."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")

import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: threads only get in each other's way, and pytest-xdist brings its own


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """The command line sets up InfoSteer's own log when a test calls it in process; the next test must not notice."""
    logger = logging.getLogger("infosteer")
    handlers, filters, level, propagate = [*logger.handlers], [*logger.filters], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.filters[:], logger.propagate = handlers, filters, propagate
    logger.setLevel(level)
