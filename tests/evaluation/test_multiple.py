"""Corrected p-values against values worked out by hand, and against what they promise."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from infosteer.errors import ConfigError
from infosteer.evaluation.multiple import adjust


def test_holm_by_hand() -> None:
    # sorted: 0.01 x 4 = 0.04, 0.02 x 3 = 0.06, 0.03 x 2 = 0.06, 0.5 x 1 = 0.5
    assert adjust([0.02, 0.5, 0.01, 0.03], "holm") == pytest.approx([0.06, 0.5, 0.04, 0.06])
    # 0.04 x 3 = 0.12 carries over 0.045 x 2 = 0.09 and 0.05
    assert adjust([0.04, 0.045, 0.05]) == pytest.approx([0.12, 0.12, 0.12])
    assert adjust([0.6, 0.7]) == [1.0, 1.0]


def test_benjamini_and_hochberg_by_hand() -> None:
    # sorted: 0.01 x 4/1 = 0.04, 0.02 x 4/2 = 0.04, 0.03 x 4/3 = 0.04, 0.5 x 4/4 = 0.5
    assert adjust([0.02, 0.5, 0.01, 0.03], "bh") == pytest.approx([0.04, 0.5, 0.04, 0.04])
    # 0.04 x 3 = 0.12 is held down by 0.045 x 3/2 = 0.0675, and that by 0.05
    assert adjust([0.04, 0.045, 0.05], "bh") == pytest.approx([0.05, 0.05, 0.05])


@pytest.mark.parametrize("method", ["holm", "bh"])
def test_what_any_correction_keeps(method: Any) -> None:
    draw = random.Random(0)
    for count in (0, 1, 2, 7, 40):
        p_values = [draw.random() ** 3 for _ in range(count)]
        adjusted = adjust(p_values, method)
        assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
        order = sorted(range(count), key=lambda i: p_values[i])
        assert [adjusted[i] for i in order] == sorted(adjusted), "the order stays"
        shuffled = draw.sample(range(count), count)
        assert adjust([p_values[i] for i in shuffled], method) == [adjusted[i] for i in shuffled]
    assert adjust([0.3, 0.3, 0.3], method) == pytest.approx([0.3 if method == "bh" else 0.9] * 3)
    assert adjust([0.0, 1.0], method) == [0.0, 1.0]


def test_scipys_false_discovery_control_agrees() -> None:
    from scipy.stats import false_discovery_control

    p_values = np.random.default_rng(0).random(200) ** 4
    np.testing.assert_allclose(adjust(list(p_values), "bh"), false_discovery_control(p_values), rtol=1e-12)


def test_holm_keeps_the_chance_of_any_false_claim() -> None:
    rng = np.random.default_rng(1)
    studies = 4000
    false = sum(min(adjust(list(rng.random(20)), "holm")) <= 0.05 for _ in range(studies))
    assert false / studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
    assert false / studies > 0.03, "it is not far below either"


@pytest.mark.parametrize("p_values", [[0.5, math.nan], [-0.1], [1.1], ["0.5"], [True], [None]])
def test_what_is_no_p_value_is_refused(p_values: list[Any]) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        adjust(p_values)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigError, match="bonferoni"):
        adjust([0.5], "bonferoni")  # type: ignore[arg-type]
