"""The flux study from models to the page: numbers by hand, a small run end to end, and the committed results."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[2]


# Scripts that others import come first.
flux_texts, flux_measures, flux_tables, flux_claim, render_flux = map(
    load_script, ("flux_texts", "flux_measures", "flux_tables", "flux_claim", "render_flux")
)
RECIPE = """
model: embedded
data: {train: lab:facts}
train: {save_model: true}
arms: {plain: [], lift: [{method: key_lift, fraction: 0.3, alpha: 4.0}]}
seeds: [1, 2]
evaluate: {people: lab:facts/new_people}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two arms and two seeds, whose models are the base with a little noise."""
    from infosteer.lab import embedded_base
    from infosteer.training.loading import load_model

    folder = tmp_path_factory.mktemp("flux")
    (folder / "recipe.yaml").write_text(RECIPE)
    for number, arm in enumerate(("plain", "lift")):
        for seed in (1, 2):
            place = folder / "checkpoints" / arm / f"seed-{seed}"
            shutil.copytree(embedded_base(), place)
            model = load_model("embedded")
            generator = torch.Generator().manual_seed(10 * number + seed)
            with torch.no_grad():
                for layer in model.model.layers:
                    weight = layer.mlp.gate_proj.weight
                    weight += 0.02 * torch.randn(weight.shape, generator=generator)
            model.save_pretrained(place)
    return folder


@pytest.fixture(scope="module")
def results(run: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(flux_claim.STUDIES, "lab", ("lab",))  # without the other corpus, no data folder is needed
        return json.loads(flux_claim.written(flux_claim.study("lab", run, Path("none"), limit=4, shuffles=99)))


def values(results: dict[str, Any], arm: str, metric: str) -> list[float]:
    return [row["metrics"][metric] for row in results["arms"] if row["arm"] == arm]


def test_a_small_study_says_what_single_texts_say(run: Path, results: dict[str, Any]) -> None:
    """One model's numbers from ``read_text`` and scipy, without any of the study's own functions but the classes."""
    from infosteer.inspection.reading import read_text
    from infosteer.inspection.word_classes import word_classes
    from infosteer.lab import load
    from infosteer.training.loading import load_model, load_tokenizer

    tokenizer = load_tokenizer("embedded")
    counts: dict[int, int] = {}
    for row in load("facts/texts"):
        for token in tokenizer(row["text"])["input_ids"]:
            counts[token] = counts.get(token, 0) + 1
    for arm, folder in (("base", "embedded"), ("lift", str(run / "checkpoints" / "lift" / "seed-2"))):
        model = load_model(folder)
        gaps, partials, written = [], [], []
        for row in load("facts/biographies", limit=4):
            reading = read_text(model, tokenizer, row["text"])
            flux = np.array(reading.normalised())[1:]
            assert reading.surprisal is not None
            surprisal = np.array(reading.surprisal[1:], dtype=float)
            kinds = np.array(word_classes(reading.tokens)[0])[1:]
            assert set(kinds) == {"content", "function", "punctuation"}
            content = kinds == "content"
            gaps.append(flux[content].mean() - flux[~content].mean())
            common = [counts.get(token, 0) for token in tokenizer(row["text"])["input_ids"]][1:]
            design = [surprisal, np.array(common), np.arange(len(flux))]
            design = np.stack([np.ones(len(flux)), *(stats.rankdata(one) for one in design)], axis=1)
            for target, shifted in ((partials, flux), (written, np.array(reading.normalised())[:-1])):
                left, right = (
                    one - design @ np.linalg.lstsq(design, one, rcond=None)[0]
                    for one in (content.astype(float), stats.rankdata(shifted))
                )
                target.append(np.corrcoef(left, right)[0, 1])
        for metric, wanted in (
            ("lab/read_content_minus_rest", gaps),
            ("lab/read_partial_rest", partials),
            ("lab/written_partial_rest", written),
        ):
            assert values(results, arm, metric)[-1] == pytest.approx(np.mean(wanted), rel=5e-4, abs=2e-5), metric


def test_all_models_are_read_and_paired(results: dict[str, Any]) -> None:
    assert results["models"] == ["base", "plain", "lift", "lift, hook on"]
    assert [row["arm"] for row in results["arms"]].count("lift, hook on") == 2
    pairs = {(row["arm"], row["baseline"]) for row in results["comparisons"]}
    assert pairs == {("plain", "base"), ("lift", "plain"), ("lift, hook on", "plain")}
    for row in results["comparisons"]:
        gap = np.mean(values(results, row["arm"], row["metric"])) - np.mean(
            values(results, row["baseline"], row["metric"])
        )
        assert row["difference"] == pytest.approx(gap, abs=2e-4)
        assert row["low"] <= row["difference"] <= row["high"]
    assert np.mean(values(results, "lift, hook on", "lab/read_content")) > np.mean(
        values(results, "lift", "lab/read_content")
    ), "lifting three tenths to four times the mean raises the entropy"
    corrected = [row for row in results["comparisons"] if "p_holm" in row]
    assert {row["metric"] for row in corrected} == {f"lab/{metric}" for metric in flux_tables.PRIMARY}
    assert all(row["p_holm"] >= row["p_value"] and "hook" not in row["arm"] for row in corrected)
    for row in results["nulls"]:
        assert row["low"] < 0.05
        assert row["high"] > -0.05
        assert 0.01 <= row["p_value"] <= 1


def test_planted_flux_is_found_and_frequency_alone_is_not() -> None:
    """A text whose flux is made up: of the class, or of the frequency that goes with the class."""
    rng = np.random.default_rng(0)
    n = 600
    classes = rng.choice(["content", "function", "punctuation"], size=n)
    frequency = np.where(classes == "content", -8.0, -4.0) + rng.normal(size=n)
    tokens = flux_measures.Tokens(
        classes=classes,
        units=np.arange(n),
        begins=np.ones(n),
        ends=np.ones(n),
        frequency=frequency,
        base_surprisal=rng.normal(size=n),
    )
    surprisal = np.concatenate([[math.nan], rng.normal(size=n - 1)])
    by_class = (classes == "content") + rng.normal(size=n)
    by_frequency = -stats.rankdata(frequency) + rng.normal(size=n)
    for flux, planted in ((by_class, True), (by_frequency, False)):
        found = dict(flux_measures.measures(tokens, flux, surprisal))
        null = flux_measures.null_measures(tokens, flux, surprisal, 0, 200)
        assert found["read_rank_rest"] > 0.3
        assert (found["read_partial_rest"] > np.quantile(null["read_partial_rest"], 0.99)) == planted
        assert abs(found["written_rank_rest"]) < 0.15
    for key in null:
        assert abs(np.mean(null[key])) < 0.02


def test_texts_without_a_class_say_nothing() -> None:
    for classes in (["content"] * 9, ["other"] * 9, ["content"]):
        n = len(classes)
        tokens = flux_measures.Tokens(
            classes=np.array(classes),
            units=np.arange(n),
            begins=np.ones(n),
            ends=np.ones(n),
            frequency=np.arange(n, dtype=float),
            base_surprisal=np.arange(n, dtype=float),
        )
        surprisal = np.concatenate([[math.nan], np.arange(n - 1.0)])
        found = dict(flux_measures.measures(tokens, np.arange(n, dtype=float), surprisal))
        assert math.isnan(found["read_content_minus_rest"])
        assert math.isnan(found["read_partial_rest"])


def test_unfinished_runs_are_refused(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "recipe.yaml", tmp_path)
    with pytest.raises(SystemExit, match="finish the run"):
        flux_claim.subjects(tmp_path)


def test_characters_of_several_tokens_are_counted_once() -> None:
    from infosteer.training.loading import load_tokenizer

    tokenizer = load_tokenizer("embedded")
    for text in ("caf\u00e9, na\u00efve", "\U0001f600 a \u4e2d\u6587.", "<|endoftext|> x\x00y", ""):
        ids, pieces = flux_texts.token_pieces(tokenizer, text)
        assert "".join(pieces) == text
        assert len(ids) == len(pieces)
        assert ids == tokenizer(text)["input_ids"]


def test_held_out_english_was_not_read_before() -> None:
    from infosteer.lab.corpus import is_held_out, read_general_text

    folder = flux_claim.DATA / "text"
    if not folder.is_dir():
        pytest.skip("no ../shared/data")
    read, counted = flux_texts.english(folder, 12)
    assert len(read) == 12
    general = read_general_text(
        folder, ["stories_gutenberg.txt.xz", "digitalgov.txt.xz"], seed=1, megabytes_per_file=5.0
    )
    seen = "\n".join(general.train)
    for text in read:
        start = text[:200].strip()
        assert start not in seen
        assert not any(start in other for other in counted)
    assert not any(is_held_out(text) for text in general.train)


def test_rendering_of_made_up_results(results: dict[str, Any], tmp_path: Path) -> None:
    study = render_flux.Study(results)
    for name, make in render_flux.PARTS.items():
        page = f"a\n<!-- flux: flux-lab {name} -->\nold\n<!-- flux: end -->\nb\n"
        full = render_flux.rendered(page, {"flux-lab": study})
        assert "old" not in full
        assert make(study) in full
        assert render_flux.rendered(full, {"flux-lab": study}) == full
        assert "`infosteer run flux-lab`" in render_flux.rendered(page, {"flux-lab": None})
    with pytest.raises(KeyError):
        render_flux.rendered("<!-- flux: flux-lab nonsense -->\n<!-- flux: end -->", {"flux-lab": study})
    render_flux.draw(study, tmp_path, tmp_path / "png")
    again = (tmp_path / "claim.svg").read_bytes()
    render_flux.draw(study, tmp_path)
    assert (tmp_path / "claim.svg").read_bytes() == again
    assert "custard" in (tmp_path / "example.svg").read_text()
    assert sorted(path.name for path in (tmp_path / "png").iterdir()) == ["flux-lab-claim.png", "flux-lab-example.png"]


def test_verdicts_follow_the_corrected_p_values() -> None:
    pair = {"difference": 0.1}
    assert render_flux._direction(pair, 0.04) == "up"
    assert render_flux._direction({"difference": -0.1}, 0.04) == "down"
    assert render_flux._direction(pair, 0.05) == "undecided"


def test_the_page_says_what_the_results_say() -> None:
    text = render_flux.PAGE.read_text(encoding="utf-8")
    names = {match["study"] for match in render_flux.PART.finditer(text)}
    assert names == {"flux-lab", "flux-ultrafeedback"}
    studies = {name: render_flux.read_study(name) for name in names}
    assert render_flux.rendered(text, studies) == text, "run python benchmarks/render_flux.py"
