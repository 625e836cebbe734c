"""Several params methods in one arm, killed and resumed: what they measured and drew at the start is the same again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainer import Stop, trainer

import infosteer
from infosteer.errors import InfoSteerError

ARM = [
    {"method": "resuscitation"},
    {"method": "protect_used"},
    {"method": "protect_random", "among": "other", "gates": False, "layers": [0], "strength": 0.5},
    {"method": "freeze", "parts": ["norms"], "strength": {"points": [[0, 1.0], [5, 0.0]]}},
]
TEXT = [{"input_ids": torch.arange(2, 18).view(2, 8)}]


def attached(folder: Path) -> Any:
    made = trainer(folder)
    infosteer.attach(made, ARM, calibration=TEXT)
    return made


def test_a_resumed_arm_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = attached(tmp_path / "whole")
    whole.train()
    killed = attached(tmp_path / "killed")
    killed.add_callback(Stop(5))
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = attached(tmp_path / "killed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-4"))
    wanted = whole.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, wanted[name]), name


def test_texts_need_no_tokenizer_of_ones_own_with_a_trainer(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    session = infosteer.attach(made, [{"method": "protect_used"}], calibration=["<eos> <eos>"])
    assert session.applied.metrics()["infosteer/protect_used/frozen_weights"] > 0
    session.remove()
    with pytest.raises(InfoSteerError, match="calibration"):
        infosteer.attach(made, [{"method": "protect_used"}])
