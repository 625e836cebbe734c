"""The inspection files of a run: what is written is read back, and nothing wrong gets in or out unseen."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from infosteer.errors import RunError
from infosteer.inspection import data
from infosteer.inspection.data import (
    Geometry,
    GeometryPoint,
    Memories,
    Memory,
    MemoryLayer,
    RegionReading,
    Regions,
    Text,
    TokenReading,
    Tokens,
)


def tokens() -> Tokens:
    reading = TokenReading(
        model="plain",
        seed=1,
        layer_numbers=(0, 3),
        widths=(16, 64),
        tokens=("a", "\ud800<b>"),
        flux=(1.5, 2.0),
        layers=((1.0, 2.0), (2.0, 2.0)),
        surprisal=(None, 3.25),
    )
    return Tokens(texts=(Text(name="first", readings=(reading,)),), note="how")


def regions() -> Regions:
    reading = RegionReading(model="base", layer_numbers=(0, 1), shares=((0.25, 0.5, 0.25), (0.5, 0.25, 0.25)))
    return Regions(percentiles=(25, 75), readings=(reading,))


def memories() -> Memories:
    memory = Memory(index=7, specificity=0.5, words=(("paris", 0.75), ("rome", 0.25)), concept="towns")
    return Memories(layers=(MemoryLayer(model="base", layer=3, width=8, memories=(memory,)),), final_norm=True)


def geometry() -> Geometry:
    point = GeometryPoint(model="plain", seed=2, metric="rankme", step=10, value=12.5)
    return Geometry(points=(point,), about={"rankme": "effective rank"})


EXAMPLES = [tokens(), regions(), memories(), geometry()]


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: value.FILE)
def test_what_is_written_is_read_back(value: Any, tmp_path: Path) -> None:
    path = data.write(tmp_path, value)
    assert path == tmp_path / "inspection" / value.FILE
    assert data.read(tmp_path, type(value)) == value
    assert json.loads(path.read_text())["schema"] == data.SCHEMA
    assert [item.name for item in path.parent.iterdir()] == [value.FILE], "no half-written file stays"


def test_every_kind_has_an_example_and_an_absent_file_is_no_error(tmp_path: Path) -> None:
    assert {type(value) for value in EXAMPLES} == set(data.KINDS)
    assert all(data.read(tmp_path, kind) is None for kind in data.KINDS)


def test_derived_numbers() -> None:
    reading = tokens().texts[0].readings[0]
    expected = [
        (1 / math.log(16) + 2 / math.log(64)) / 2,
        (2 / math.log(16) + 2 / math.log(64)) / 2,
    ]
    assert reading.normalised() == pytest.approx(expected)
    assert regions().readings[0].means() == pytest.approx([0.375, 0.375, 0.25])
    assert regions().labels() == ["0-25 %", "25-75 %", "75-100 %"]
    assert list(data.models(tokens())) == [("plain", 1)]
    assert list(data.models(memories())) == [("base", None)]


def broken(value: Any, path: str, new: Any) -> str:
    """The file's text with one key changed; ``path`` as in the errors, a last part '-' removes."""
    content: Any = {"schema": data.SCHEMA, **data.plain(value)}
    *parts, last = [int(part) if part.isdigit() else part for part in re.split(r"[.\[\]]+", path.rstrip("]"))]
    place = content
    for part in parts:
        place = place[part]
    if new == "-":
        del place[last]
    else:
        place[last] = new
    return json.dumps(content)


@pytest.mark.parametrize(
    ("value", "path", "new", "names"),
    [
        (tokens(), "texts[0].readings[0].flux", [1.5], "texts[0].readings[0].flux"),
        (tokens(), "texts[0].readings[0].flux[1]", 2.5, "texts[0].readings[0].flux[1]"),
        (tokens(), "texts[0].readings[0].flux[1]", float("nan"), "texts[0].readings[0].flux[1]"),
        (tokens(), "texts[0].readings[0].flux[1]", True, "texts[0].readings[0].flux[1]"),
        (tokens(), "texts[0].readings[0].flux[1]", 10**400, "texts[0].readings[0].flux[1]"),
        (tokens(), "texts[0].readings[0].layers[1]", [2.0], "texts[0].readings[0].layers[1]"),
        (tokens(), "texts[0].readings[0].layers[1][0]", 9.0, "texts[0].readings[0].layers[1][0]"),
        (tokens(), "texts[0].readings[0].tokens[0]", 5, "texts[0].readings[0].tokens[0]"),
        (tokens(), "texts[0].readings[0].tokens", "ab", "texts[0].readings[0].tokens"),
        (tokens(), "texts[0].readings[0].widths", [16], "texts[0].readings[0].widths"),
        (tokens(), "texts[0].readings[0].seed", 1.5, "texts[0].readings[0].seed"),
        (tokens(), "texts[0].readings[0].surprisal", [None], "texts[0].readings[0].surprisal"),
        (tokens(), "texts[0].readings[0].model", "-", "texts[0].readings[0].model"),
        (tokens(), "texts[0].readings[0].modle", "x", "did you mean 'model'"),
        (tokens(), "schema", 2, "schema"),
        (tokens(), "texts", "-", "texts"),
        (regions(), "readings[0].shares[1]", [0.5, 0.5], "readings[0].shares[1]"),
        (regions(), "readings[0].shares[1]", [0.5, 0.5, 0.5], "add up to 1"),
        (regions(), "readings[0].shares", [[0.25, 0.5, 0.25]], "readings[0].shares"),
        (regions(), "percentiles", [75, 25], "percentiles"),
        (regions(), "percentiles", [0, 25], "percentiles"),
        (memories(), "layers[0].memories[0].index", 8, "layers[0].memories[0].index"),
        (memories(), "layers[0].memories[0].words[0]", ["paris"], "layers[0].memories[0].words[0]"),
        (memories(), "layers[0].memories[0].words[0][1]", 1.5, "layers[0].memories[0].words"),
        (memories(), "layers[0].memories[0]", [1], "layers[0].memories[0]"),
        (memories(), "final_norm", "yes", "final_norm"),
        (geometry(), "points[0].step", -1, "points[0].step"),
        (geometry(), "about", [], "about"),
    ],
)
def test_damage_is_named(value: Any, path: str, new: Any, names: str, tmp_path: Path) -> None:
    file = data.write(tmp_path, value)
    file.write_text(broken(value, path, new))
    with pytest.raises(RunError) as caught:
        data.read(tmp_path, type(value))
    assert value.FILE in str(caught.value)
    assert names in str(caught.value)
    assert len(str(caught.value)) < 900


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1', "\x00", "[" * 100_000])
def test_what_is_no_json_is_an_error(text: str, tmp_path: Path) -> None:
    file = data.write(tmp_path, geometry())
    file.write_text(text)
    with pytest.raises(RunError, match=r"geometry\.json"):
        data.read(tmp_path, Geometry)
    file.write_bytes(b"\xff\xfe{}")
    with pytest.raises(RunError, match="cannot be read"):
        data.read(tmp_path, Geometry)


def test_wrong_values_are_not_written(tmp_path: Path) -> None:
    wrong = Geometry(points=(GeometryPoint(model="a", metric="m", step=0, value=math.nan),))
    with pytest.raises(RunError, match=r"points\[0\]\.value"):
        data.write(tmp_path, wrong)
    assert not (tmp_path / "inspection" / "geometry.json").exists()
    (tmp_path / "inspection").write_text("a file where the folder should be")
    with pytest.raises(RunError, match="cannot be written"):
        data.write(tmp_path, geometry())
