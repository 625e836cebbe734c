from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infosteer.errors import ConfigError
from infosteer.models import select_layers


@pytest.mark.parametrize(
    ("spec", "num_layers", "expected"),
    [
        ("all", 3, (0, 1, 2)),
        ("early", 6, (0, 1)),
        ("middle", 6, (2, 3)),
        ("late", 6, (4, 5)),
        ("early", 28, tuple(range(9))),  # round(9.33) = 9, round(18.67) = 19
        ("middle", 28, tuple(range(9, 19))),
        ("late", 28, tuple(range(19, 28))),
        ("early", 16, tuple(range(5))),  # round(5.33) = 5, round(10.67) = 11
        ("middle", 16, tuple(range(5, 11))),
        ("early+middle", 6, (0, 1, 2, 3)),
        (" Middle + late ", 6, (2, 3, 4, 5)),
        ("late+early", 6, (0, 1, 4, 5)),
        ("0-15", 16, tuple(range(16))),
        ("0-3,8,10-11", 12, (0, 1, 2, 3, 8, 10, 11)),
        ("5", 6, (5,)),
        ([4, 0], 6, (0, 4)),
        ((2,), 6, (2,)),
        (range(1, 3), 6, (1, 2)),
        ("early+middle", 2, (0,)),
    ],
)
def test_selects(spec: object, num_layers: int, expected: tuple[int, ...]) -> None:
    assert select_layers(spec, num_layers) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spec",
    ["", " ", "none", "first", "early+", "early+early", "early,middle", "6", "0-6", "3-1", "0-3,2", "-1", "1-", "0--1",
     "0-99999999999", "1.5", [], [0, 0], [6], [-1], [1.0], [True], ["0"], 3, None, {"a": 1}, {1, 2}, 2.0],
)  # fmt: skip
def test_refuses_and_says_how_many_layers_there_are(spec: object) -> None:
    with pytest.raises(ConfigError, match="6 layers, numbered 0 to 5"):
        select_layers(spec, 6)  # type: ignore[arg-type]


def test_an_empty_third_is_refused() -> None:
    with pytest.raises(ConfigError, match="selects no layer"):
        select_layers("early", 1)


@given(st.integers(1, 200))
def test_thirds_partition_the_layers(num_layers: int) -> None:
    assert select_layers("early+middle+late", num_layers) == tuple(range(num_layers))


@given(st.sets(st.integers(0, 40), min_size=1))
def test_text_and_list_agree(chosen: set[int]) -> None:
    text = ",".join(map(str, chosen))
    assert select_layers(text, 41) == select_layers(list(chosen), 41) == tuple(sorted(chosen))
