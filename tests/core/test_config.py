"""Strict settings, YAML, registry and schedules."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

import infosteer
from infosteer.core.config import load_yaml, nearest, parse_yaml
from infosteer.core.effects import as_methods
from infosteer.core.registry import build_method, method_info, read_card
from infosteer.core.schedule import Schedule, as_strength
from infosteer.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"fraction": 1.5}, "key_lift.fraction"),
        ({"fraction": -0.01}, "key_lift.fraction"),
        ({"fraction": "1%"}, "key_lift.fraction"),
        ({"fraction": True}, "key_lift.fraction"),
        ({"alpha": math.nan}, "key_lift.alpha"),
        ({"order": "abs"}, "key_lift.order"),
        ({"reference": "median"}, "key_lift.reference"),
        ({"detach_reference": 1}, "key_lift.detach_reference"),
        ({"scope": "training"}, "key_lift.scope"),
    ],
)
def test_settings_out_of_range_name_the_field(settings: dict[str, object], where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        infosteer.Intervention(**settings)
    with pytest.raises(ConfigError, match=where):
        build_method({"method": "key_lift", **settings})


def test_presets() -> None:
    paper = infosteer.Intervention.preset("paper", fraction=0.02)
    assert (paper.order, paper.reference, paper.fraction) == ("signed", "mean", 0.02)
    assert build_method({"method": "key_lift", "preset": "paper"}) == infosteer.Intervention.preset("paper")
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        infosteer.Intervention.preset("papers")
    with pytest.raises(ConfigError, match="no preset"):
        infosteer.ProtectMemory.preset("paper")


def test_names_of_methods() -> None:
    assert method_info("key_lift") == method_info("interventions/key_lift")
    assert method_info("key_lift").cls is infosteer.Intervention
    with pytest.raises(ConfigError, match="did you mean 'key_lift'"):
        method_info("key_lyft")
    with pytest.raises(ConfigError, match="mapping with the key 'method'"):
        build_method({"fraction": 0.1})
    with pytest.raises(ConfigError, match="did you mean 'weight'"):
        build_method({"method": "key_entropy", "wieght": 0.1})


def test_a_name_on_two_surfaces_must_be_spelt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from infosteer.core import registry

    twin = dict(registry._methods())
    twin["params/key_lift"] = twin["params/protect_memory"]
    monkeypatch.setattr(registry, "_methods", lambda: twin)
    with pytest.raises(ConfigError, match=r"interventions/key_lift \| params/key_lift"):
        method_info("key_lift")
    assert method_info("interventions/key_lift").surface == "interventions"


def test_third_parties_add_methods_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    from infosteer.core import registry

    package = tmp_path / "their_penalty"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "card.md").write_text("---\ntitle: T\npaper: none\nstatus: experimental\nsummary: s\n---\n# T\n")
    (package / "method.py").write_text(
        "import dataclasses\n"
        "from infosteer.core.surfaces import PenaltyMethod\n"
        "@dataclasses.dataclass(kw_only=True)\n"
        "class Squares(PenaltyMethod):\n"
        "    def coefficient(self, num_layers, width):\n        return 1.0\n"
        "    def rows(self, k):\n        return k.float().square().sum(-1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = importlib.metadata.EntryPoint("penalties/squares", "their_penalty", registry.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    registry._methods.cache_clear()
    try:
        assert "penalties/squares" in infosteer.list_methods()
        import torch

        k = torch.randn(3, 7)
        assert torch.allclose(build_method({"method": "squares"}).rows_gradient(k), 2 * k)
    finally:
        registry._methods.cache_clear()


def test_cards_need_front_matter(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a card"):
        read_card(tmp_path / "card.md")
    (tmp_path / "card.md").write_text("# no front matter\n")
    with pytest.raises(ConfigError, match="front matter"):
        read_card(tmp_path / "card.md")


def test_recipes_given_to_steer_have_one_arm(tmp_path: Path) -> None:
    arm = [{"method": "key_lift", "fraction": 0.1}]
    (tmp_path / "one.yaml").write_text("arms: {only: [{method: key_lift, fraction: 0.1}]}")
    assert as_methods(tmp_path / "one.yaml") == as_methods(str(tmp_path / "one.yaml")) == as_methods(arm)
    assert as_methods({"arms": {"only": arm}}) == [infosteer.Intervention(fraction=0.1)]
    assert as_methods({"arms": {"only": {"methods": arm, "train": {"learning_rate": 1e-4}}}}) == as_methods(arm)
    assert as_methods({"arms": {"plain": None}}) == as_methods({"arms": {"slow": {"train": {}}}}) == []
    assert as_methods(infosteer.Intervention()) == [infosteer.Intervention()]
    assert as_methods(arm[0]) == [infosteer.Intervention(fraction=0.1)]
    for wrong in ({"arms": {"a": arm, "b": arm}}, {"arm": arm}, "key_lift", 3, ["key_lift"]):
        with pytest.raises(ConfigError):
            as_methods(wrong)


def test_yaml_reads_numbers_as_people_write_them() -> None:
    text = "a: 1e-4\nb: 2.0e-4\nc: 5\nd: 1E3\ne: -3e2\nf: '1e-4'\ng: 1_000\nh: .5\ni: abc1e4\nj: 12:30:00"
    values = parse_yaml(text, where="test")
    assert values["a"] == 1e-4
    assert values["b"] == 2e-4
    assert values["c"] == 5
    assert isinstance(values["c"], int)
    assert values["d"] == 1000.0
    assert values["e"] == -300.0
    assert values["f"] == "1e-4"
    assert values["h"] == 0.5
    assert values["i"] == "abc1e4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "not valid YAML"),
        ("a: 1\na: 2", "given twice"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("? [1, 2]\n: 3", "not valid YAML"),
    ],
)
def test_hostile_yaml(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, where="test.yaml")


def test_missing_and_binary_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_yaml(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x9f")
    with pytest.raises(ConfigError, match="cannot read"):
        load_yaml(tmp_path / "binary.yaml")


def test_nearest() -> None:
    assert nearest("fractoin", ["fraction", "alpha"]) == "fraction"
    assert nearest("zzz", ["fraction", "alpha"]) is None


def test_schedules_interpolate() -> None:
    linear = Schedule(points=[[10, 0.0], [20, 1.0], [30, 0.5]])
    assert [linear.at(step) for step in (0, 10, 15, 20, 25, 30, 99)] == [0.0, 0.0, 0.5, 1.0, 0.75, 0.5, 0.5]
    hold = Schedule(points=[[0, 1.0], [5, 0.0]], shape="hold")
    assert [hold.at(step) for step in (0, 4, 5, 6)] == [1.0, 1.0, 0.0, 0.0]
    cosine = Schedule(points=[[0, 1.0], [10, 0.0]], shape="cosine")
    assert cosine.at(5) == pytest.approx(0.5)
    assert cosine.at(1) == pytest.approx((1 + math.cos(math.pi / 10)) / 2)
    share = Schedule(points=[[0.0, 1.0], [1.0, 0.0]], unit="fraction")
    assert [share.at(step, 11) for step in (0, 5, 10, 12)] == [1.0, 0.5, 0.0, 0.0]
    with pytest.raises(ConfigError, match="number of steps"):
        share.at(3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"points": []},
        {"points": [[0, 1], [0, 2]]},
        {"points": [[1, 1], [0, 2]]},
        {"points": [[0, -1]]},
        {"points": [[0, math.inf]]},
        {"points": [[0, 1, 2]]},
        {"points": "0 1"},
        {"points": [[0, 1], [2, 0]], "unit": "fraction"},
        {"points": [[0, 1]], "shape": "cubic"},
        {"points": [[0, 1]], "unit": "epochs"},
        {"shape": "linear"},
        {"points": [[0, 1]], "speed": 3},
        -0.5,
        math.inf,
        "strong",
        True,
        None,
    ],
)
def test_wrong_strengths(wrong: object) -> None:
    with pytest.raises(ConfigError):
        as_strength(wrong)


def test_strength_round_trip_and_off() -> None:
    scheduled = infosteer.Intervention(strength={"points": [[0, 0.0], [5, 1.0]]})
    assert build_method(yaml.safe_load(yaml.safe_dump({"method": "key_lift", **scheduled.to_config()}))) == scheduled
    assert not scheduled.off
    assert infosteer.Intervention(strength={"points": [[0, 0.0]]}).off
    assert infosteer.Intervention(fraction=0).off
    assert infosteer.EntropyRegularization(weight=0).off
    assert infosteer.ProtectMemory(values=1.0, keys=1.0, gates=1.0).off
    assert not infosteer.EntropyRegularization(weight=-0.1).off
    assert infosteer.Intervention(fraction=0, strength=3.0).strength_at(0, None) == 0.0
