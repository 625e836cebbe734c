"""Patching against plain hooks, cell by cell; what must hold in every family; pairs of the lab and of statements."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny_models import TEXT, tiny
from torch import Tensor, nn

from infosteer.errors import ConfigError, DataError
from infosteer.inspection.fact_pairs import lab_pairs, statement_pairs
from infosteer.inspection.patch_maps import PatchMap, compare_maps
from infosteer.inspection.patching import Pair, check_pairs, patch_map

STATEMENTS = Path(__file__).parents[3] / "shared" / "data" / "true-false" / "truth_is_universal.jsonl.gz"


def pair(length: int = 6, seed: int = 0) -> Pair:
    g = torch.Generator().manual_seed(seed)
    clean = torch.randint(5, 55, (length,), generator=g)
    corrupt = clean.clone()
    corrupt[1:3] = (clean[1:3] + 7) % 50 + 5
    return Pair(clean=tuple(clean.tolist()), corrupt=tuple(corrupt.tolist()), clean_answer=9, corrupt_answer=30)


def difference(model: nn.Module, ids: tuple[int, ...]) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    return float(logits[9] - logits[30])


def by_hand(source: nn.Module, target: nn.Module, one: Pair, layer: int, token: int) -> float:
    seen: list[Tensor] = []
    handle = source.model.layers[layer].register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    difference(source, one.clean)
    handle.remove()

    def put(module: nn.Module, args: object, out: Tensor) -> Tensor:
        out = out.clone()
        out[0, token] = seen[0][0, token]
        return out

    handle = target.model.layers[layer].register_forward_hook(put)
    value = difference(target, one.corrupt)
    handle.remove()
    return value


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("batch_rows", [256, 3])
def test_every_cell_equals_plain_hooks(other: bool, batch_rows: int) -> None:
    target = tiny("llama", num_hidden_layers=3)
    source = tiny("llama", seed=1, num_hidden_layers=3) if other else target
    pairs = [pair(6, 0), pair(8, 1), pair(6, 2)]
    found = patch_map(source, target, pairs, batch_rows=batch_rows)
    cells: dict[tuple[int, str], list[float]] = {}
    for one in pairs:
        for layer in range(3):
            for token, name in enumerate(one.columns()):
                cells.setdefault((layer, name), []).append(by_hand(source, target, one, layer, token))
    assert found.columns == ("before", "subject, first", "subject, last", "after", "last token")
    assert found.places == (3, 3, 3, 8, 3)
    for (layer, name), values in cells.items():
        assert found.values[layer, found.columns.index(name)] == pytest.approx(np.mean(values), abs=1e-4)
    clean, corrupt = (np.mean([difference(target, getattr(one, w)) for one in pairs]) for w in ("clean", "corrupt"))
    assert (found.clean, found.corrupt) == pytest.approx((clean, corrupt), abs=1e-5)
    for column, name in enumerate(found.columns):  # against the ends of the pairs behind the column
        low, high = (
            np.mean([difference(target, getattr(one, which)) for one in pairs for at in one.columns() if at == name])
            for which in ("corrupt", "clean")
        )
        shares = (found.values[:, column] - low) / (high - low)
        np.testing.assert_allclose(found.restored[:, column], shares, atol=1e-3)


@pytest.mark.parametrize("model_type", sorted(TEXT))
def test_what_must_hold_in_every_family(model_type: str) -> None:
    model = tiny(model_type)
    if model.get_output_embeddings() is None:
        pytest.skip("this text decoder has no head of its own")
    one = pair()
    found = patch_map(model, model, [one])
    restored = dict(zip(found.columns, found.restored[-1], strict=True))
    assert restored["last token"] == pytest.approx(1, abs=1e-3), "the last layer's last state holds the whole answer"
    for name in ("before", "subject, first", "subject, last", "after"):
        assert restored[name] == pytest.approx(0, abs=1e-3), "nothing reads the last layer's other states"
    if not model_type.startswith(("gemma3n", "gemma4")):
        alike = dict(zip(found.columns, found.restored[0], strict=True))
        assert alike["before"] == pytest.approx(0, abs=1e-3), "the prompts are the same up to the subject"


def test_norms_can_be_matched() -> None:
    model, drifted = tiny("llama"), tiny("llama")
    with torch.no_grad():
        for layer in drifted.model.layers:
            layer.mlp.down_proj.weight.mul_(3)
    plain = patch_map(drifted, model, [pair()])
    matched = patch_map(drifted, model, [pair()], match_norms=True)
    assert not np.allclose(plain.values, matched.values)
    same = patch_map(model, model, [pair()], match_norms=True)
    assert same.restored.shape == plain.restored.shape


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2"])
def test_noise_on_the_subject(model_type: str) -> None:
    """The embeddings of the subject are hit and no others; the last state still restores everything."""
    model, pairs = tiny(model_type), [pair(6, 0), pair(6, 1)]
    found = patch_map(model, model, pairs, noise=0.3, seed=5)
    again, other = (patch_map(model, model, pairs, noise=0.3, seed=s) for s in (5, 6))
    np.testing.assert_array_equal(found.values, again.values)
    assert found.corrupt != other.corrupt
    assert found.clean == pytest.approx(patch_map(model, model, pairs).clean)
    rows = dict(zip(found.columns, found.restored.T, strict=True))
    assert rows["last token"][-1] == pytest.approx(1, abs=1e-3)
    assert rows["before"][0] == pytest.approx(0, abs=1e-3)
    assert abs(found.corrupt - found.clean) > 1e-2
    small = patch_map(model, model, pairs, noise=1e-6)
    assert small.corrupt == pytest.approx(small.clean, abs=1e-3)
    assert not model.get_input_embeddings()._forward_hooks
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="noise"):
            patch_map(model, model, pairs, noise=wrong)


def test_columns_and_hostile_pairs() -> None:
    ends = Pair(clean=(1, 2, 3), corrupt=(1, 2, 4), clean_answer=1, corrupt_answer=2)
    assert ends.columns() == ["before", "before", "subject, last"]
    assert pair().columns()[0] == "before"
    model = tiny("llama")
    for bad, match in (
        ([], "no pairs"),
        ([Pair(clean=(1, 2), corrupt=(1,), clean_answer=1, corrupt_answer=2)], "differ in length"),
        ([Pair(clean=(), corrupt=(), clean_answer=1, corrupt_answer=2)], "differ in length"),
        ([Pair(clean=(1, 2), corrupt=(1, 2), clean_answer=1, corrupt_answer=2)], "the same"),
        ([ends, Pair(clean=(1, 2), corrupt=(1, 3), clean_answer=2, corrupt_answer=2)], "same token"),
        ([pair(70)], "longer than the model's context"),
    ):
        with pytest.raises(DataError, match=match):
            patch_map(model, model, bad)
    with pytest.raises(ConfigError, match="depth"):
        patch_map(tiny("llama", num_hidden_layers=1), model, [pair()])
    with pytest.raises(ConfigError, match="width"):
        patch_map(tiny("llama", hidden_size=16), model, [pair()])
    with pytest.raises(ConfigError, match="layers"):
        patch_map(model, model, [pair()], layers=[5])


def made_map(values: np.ndarray) -> PatchMap:
    rows, columns = values.shape
    return PatchMap(
        layers=tuple(range(rows)), columns=tuple(map(str, range(columns))), values=values, restored=values, clean=1.0,
        corrupt=0.0, places=(1,) * columns, pairs=1, right=1.0,
    )  # fmt: skip


def test_maps_are_compared_raw_binned_and_by_position() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(6, 5))
    y = x + draw.normal(size=(6, 5))
    found = compare_maps(made_map(x), made_map(y))
    assert found["pearson"] == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1])
    assert found["spearman"] == pytest.approx(spearmanr(x.ravel(), y.ravel()).statistic)
    assert found["max_difference"] == pytest.approx(np.abs(x - y).max())
    repeated = np.repeat(x.mean(0)[None], 6, 0)
    assert found["pearson_position"] == pytest.approx(np.corrcoef(repeated.ravel(), y.ravel())[0, 1])

    def thresholded(values: np.ndarray) -> np.ndarray:
        bins = np.clip(np.digitize(values, np.linspace(values.min(), values.max(), 21)) - 1, 0, 19)
        return np.where(bins < 10, 0, (bins - 9) / 10)

    binned = np.corrcoef(thresholded(x).ravel(), thresholded(y).ravel())[0, 1]
    assert found["pearson_binned"] == pytest.approx(binned)
    assert compare_maps(made_map(x), made_map(x))["pearson"] == pytest.approx(1)
    assert np.isnan(compare_maps(made_map(np.ones((2, 2))), made_map(np.ones((2, 2))))["pearson"])
    with pytest.raises(ConfigError, match="other layers"):
        compare_maps(made_map(x), made_map(x[:2]))


def test_facts_of_the_lab_lie_at_the_subject_and_then_at_the_last_token() -> None:
    """In the embedded base, which stored them: early layers carry them at the subject's end, late ones at the last."""
    from infosteer.training.loading import load_model, load_tokenizer

    model, tokenizer = load_model("embedded"), load_tokenizer("embedded")
    pairs = lab_pairs(tokenizer, 6, seed=1)
    check_pairs(pairs)
    assert pairs == lab_pairs(tokenizer, 6, seed=1)
    found = patch_map(model, model, pairs)
    assert found.right > 0.6, "the base knows these facts"
    subject, last = (found.columns.index(name) for name in ("subject, last", "last token"))
    assert found.restored[0, subject] > 0.3 > found.restored[0, last]
    assert found.restored[-1, last] == pytest.approx(1, abs=1e-4)
    assert abs(found.restored[-1, subject]) < 1e-4


def test_statement_pairs() -> None:
    from infosteer.training.loading import load_tokenizer

    tokenizer = load_tokenizer("embedded")
    if not STATEMENTS.is_file():
        pytest.skip("../shared/data/true-false is not here")
    with gzip.open(STATEMENTS, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    cities = [row for row in rows if row["set"] == "cities"]
    pairs = statement_pairs(tokenizer, [r["statement"] for r in cities], [r["label"] for r in cities], count=8)
    assert 1 <= len(pairs) <= 8
    check_pairs(pairs)
    for one in pairs:
        clean, corrupt = (tokenizer.decode(ids) for ids in (one.clean, one.corrupt))
        assert clean.endswith("This statement is:")
        assert clean.split("\n")[:-1] == corrupt.split("\n")[:-1]
        assert len(clean.split("\n")) == 5
        assert "after" in one.columns()
    with pytest.raises(DataError, match="differ in number"):
        statement_pairs(tokenizer, ["a"], [])
    with pytest.raises(DataError, match="too few"):
        statement_pairs(tokenizer, ["a.", "b."], [0, 1])
    texts = [f"{'x ' * i}w{i}." for i in range(20)]
    with pytest.raises(DataError, match="last word"):
        statement_pairs(tokenizer, texts, [i % 2 for i in range(20)])
