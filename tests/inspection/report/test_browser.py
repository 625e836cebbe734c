"""The page in a real browser: no error, search and hover and keys work, hostile texts run nothing."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from chrome import Page, browser, find_chromium
from made_up import HOSTILE, made_tokens, make_run

from infosteer.inspection import data
from infosteer.inspection.report import write_report
from infosteer.inspection.report.gather import curves, gather, training_lines
from infosteer.inspection.report.markup import visible

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    bare = folder / "bare"
    bare.mkdir()
    (bare / "recipe.yaml").write_text("arms: {plain: [], lift: [{method: key_lift}]}\nseeds: [1]\n")
    many = make_run(folder / "many")
    models = [("protection", 1), ("plain", 2), ("plain", 1), ("intervention", 1), ("base", None)]
    data.write(many, made_tokens(random.Random(0), models=models))
    return {
        "many": write_report(many),
        "friendly": write_report(make_run(folder / "friendly")),
        "hostile": write_report(make_run(folder / "hostile", hostile=True)),
        "bare": write_report(bare),
    }


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    command = find_chromium()
    if command is None:
        pytest.skip("no Chromium on this machine: `make test-browser` installs it where it may")
    with browser(command) as page:
        yield page


@pytest.fixture(autouse=True)
def _clean(tab: Page) -> Iterator[None]:
    tab.problems.clear()
    tab.requests.clear()
    yield
    assert tab.problems == []
    strangers = [url for url in tab.requests if not url.startswith(("file:", "data:image/png;base64,", "data:,"))]
    assert strangers == [], "the page loads nothing"


@pytest.mark.parametrize("name", ["friendly", "hostile", "bare"])
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (375, False), (375, True)])
def test_opens_without_an_error(
    name: str, width: int, dark: bool, pages: dict[str, Path], tab: Page, tmp_path: Path
) -> None:
    tab.open(pages[name], width=width, height=812, dark=dark)
    tab.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert tab.run("window.hacked") is None
    assert tab.run("document.documentElement.scrollWidth") <= width, "nothing but tables scrolls sideways"
    page, ink = tab.run("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    assert (brightness(page) < brightness(ink)) is dark
    sizes = tab.run("[...document.querySelectorAll('svg.drawing')].map((s) => s.getBoundingClientRect().width)")
    if name != "bare":
        seen = [size for size in sizes if size > 0]
        assert 0 < len(seen) == len(sizes) / 2, "of wide and narrow one is shown"
        assert max(seen) <= width
        tab.run(
            "window.heights = [...document.querySelectorAll('svg text')].map((t) => t.getBoundingClientRect().height)"
        )
        smallest = tab.run("Math.min(...window.heights.filter((height) => height > 0))")
        assert smallest >= 7, "letters of charts stay readable"
    shot = tmp_path / "page.png"
    tab.screenshot(shot)
    assert shot.stat().st_size > 10_000


def brightness(color: str) -> float:
    return sum(float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3])


def test_the_policy_is_alive(pages: dict[str, Path], tab: Page) -> None:
    """Were a text to become markup after all, it would still not run."""
    tab.open(pages["friendly"])
    tab.run(
        "{ const s = document.createElement('script'); s.textContent = 'window.hacked = 9'; document.body.append(s);"
        " const d = document.createElement('div'); d.innerHTML = '<img src=x onerror=\"window.hacked = 9\">';"
        " document.body.append(d); new Promise((done) => setTimeout(done, 200)) }"
    )
    assert tab.run("window.hacked") is None
    assert any("Content Security Policy" in problem or "inlineScript" in problem for problem in tab.problems)
    tab.problems.clear()
    tab.requests.clear()


def test_pointing_at_a_token_shows_its_layers(pages: dict[str, Path], tab: Page) -> None:
    tab.open(pages["friendly"])
    assert tab.run("document.querySelectorAll('.reading').length") == 3
    assert tab.run("document.querySelector('#token-detail').textContent") == ""
    x, y = tab.run(
        "(() => { const t = document.querySelectorAll('.reading')[1].querySelectorAll('.token')[2];"
        " t.scrollIntoView({block: 'center', behavior: 'instant'}); const r = t.getBoundingClientRect();"
        " return [r.left + r.width / 2, r.top + r.height / 2] })()"
    )
    tab.mouse(x, y)
    assert tab.run("document.querySelector('#token-detail .picked bdi').textContent") == " river"
    models = tab.run("[...document.querySelectorAll('#token-detail .models .chip')].map((c) => c.textContent)")
    assert models == ["base", "plain, seed 1", "intervention, seed 1"]
    bars = "[...document.querySelectorAll('#token-detail .layers')].map((l) => l.children.length)"
    assert tab.run(bars) == [6, 6, 6]
    heights = tab.run(
        "[...document.querySelector('#token-detail .layers').children].map((b) => b.getBoundingClientRect().height)"
    )
    assert all(height > 10 for height in heights)
    assert "nats" in tab.run("document.querySelector('#token-detail .numbers + *, #token-detail .models').textContent")
    assert tab.run("document.querySelectorAll('.token.same').length") == 2, "the same token in the other models"


def test_arrow_keys_walk_through_a_heatmap(pages: dict[str, Path], tab: Page) -> None:
    tab.open(pages["friendly"])
    tab.run("document.querySelector('.token').focus()")
    picked = "document.querySelector('#token-detail .picked bdi').textContent"
    assert tab.run(picked) == "The"
    tab.key("ArrowRight")
    assert tab.run(picked) == " old"
    tab.key("ArrowLeft")
    tab.key("ArrowLeft")
    assert tab.run(picked) == "The", "the first stays the first"
    tab.key("ArrowDown")
    below = tab.run("Number(document.activeElement.dataset.place)")
    assert below > 3, "a line further down"
    tab.key("ArrowUp")
    assert tab.run(picked) == "The"
    tab.key("End")
    assert tab.run(picked) == " ."
    assert tab.run("document.querySelectorAll('.tokens')[0].querySelectorAll('[tabindex=\"0\"]').length") == 1
    outline = tab.run("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus is seen"
    tab.key("Tab")
    assert tab.run("document.activeElement.closest('.reading') === document.querySelectorAll('.reading')[1]")


def test_colour_by_change_from_the_base(pages: dict[str, Path], tab: Page) -> None:
    tab.open(pages["friendly"])
    tab.run("document.querySelector('input[value=change]').click()")
    strengths = tab.run(
        "[...document.querySelectorAll('.reading')].map((r) => Math.max(...[...r.querySelectorAll('.token')]"
        ".map((t) => Number(t.style.getPropertyValue('--v')))))"
    )
    assert strengths[0] == 0, "the base does not differ from itself"
    assert max(strengths) == 1
    assert tab.run("document.querySelectorAll('.ramp.both').length") == 1
    tab.run("{ const s = document.querySelector('#token-text'); s.value = '1'; s.dispatchEvent(new Event('change')); }")
    assert tab.run("document.querySelector('.tokens').getAttribute('aria-label')") == "The same again read by base"


def place(tab: Page, chart: str, panel: int, x: float, y: float) -> tuple[float, float]:
    """The pixel at a share of a panel's width and height, of the drawing that is shown."""
    return tuple(
        tab.run(
            f"(() => {{ const f = document.querySelector('#figure-{chart}');"
            " f.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const svg = [...f.querySelectorAll('svg.drawing')].find((s) => s.getBoundingClientRect().width > 0);"
            " const which = svg.classList.contains('wide') ? 'wide' : 'narrow';"
            " const places = JSON.parse(document.getElementById(f.dataset.readout).textContent).places[which];"
            f" const [l, b, w, h] = places[{panel}], r = svg.getBoundingClientRect();"
            f" return [r.left + (l + {x} * w) * r.width, r.top + (1 - b - {y} * h) * r.height] }})()"
        )
    )


@pytest.mark.parametrize("width", [1200, 375])
def test_pointing_at_a_chart_reads_it(width: int, pages: dict[str, Path], tab: Page) -> None:
    tab.open(pages["friendly"], width=width, height=800)
    tab.mouse(*place(tab, "entropy", 1, 0.01, 0.99))
    shown = "[...document.querySelector('#figure-entropy .readout').children].map((part) => part.textContent)"
    first = curves(training_lines(gather(pages["friendly"].parent).log), "infosteer/entropy/layer_5")["intervention"]
    value = sum(points[0][1] for points in first.values()) / 2
    assert tab.run(shown) == ["intervention", f"layer 5, step 10: {value:.4g} nats"]
    tab.mouse(*place(tab, "training", 0, 0.99, 0.5))
    shown = "[...document.querySelector('#figure-training .readout').children].map((part) => part.textContent)"
    title, step, *arms = tab.run(shown)
    assert title == "loss, penalty included"
    assert step == "step 300"
    assert [arm.split()[0] for arm in arms] == ["plain", "intervention", "regularisation", "protection"]
    lines = curves(training_lines(gather(pages["friendly"].parent).log), "loss")["plain"]
    expected = sum(points[-1][1] for points in lines.values()) / 2
    assert float(arms[0].split()[1]) == pytest.approx(expected, rel=1e-3)
    inside = tab.run("document.querySelector('#figure-training .readout').getBoundingClientRect().right")
    assert inside <= width
    tab.mouse(2, 2)
    assert tab.run("document.querySelector('#figure-training .readout').hidden")


def test_arrow_keys_walk_through_a_chart(pages: dict[str, Path], tab: Page) -> None:
    tab.open(pages["friendly"])
    tab.run("document.querySelector('#figure-entropy svg.wide').focus()")
    shown = "document.querySelector('#figure-entropy .readout').textContent"
    tab.key("ArrowRight")
    assert "plainlayer 0, step 10:" in tab.run(shown)
    tab.key("ArrowUp")
    tab.key("ArrowRight")
    assert "layer 1, step 20:" in tab.run(shown)
    tab.key("End")
    assert "layer 1, step 300:" in tab.run(shown)
    tab.key("Tab")
    assert tab.run("document.querySelector('#figure-entropy .readout').hidden")


def test_many_models_are_chosen_from(pages: dict[str, Path], tab: Page) -> None:
    tab.open(pages["many"])
    shown = "[...document.querySelectorAll('.reading h3')].map((h) => h.textContent)"
    assert tab.run(shown) == ["base", "plain, seed 1", "intervention, seed 1"], "base, baseline, the first other arm"
    boxes = "[...document.querySelectorAll('#token-controls input[type=checkbox]')]"
    labels = tab.run(f"{boxes}.map((box) => box.parentNode.textContent)")
    assert labels == ["base", "plain, seed 1", "plain, seed 2", "intervention, seed 1", "protection, seed 1"]
    tab.run(f"{boxes}[4].click(); {boxes}[0].click()")
    assert tab.run(shown) == ["plain, seed 1", "intervention, seed 1", "protection, seed 1"]
    tab.run("document.querySelector('input[value=change]').click()")
    tab.run("document.querySelector('.token').focus()")
    strongest = tab.run(
        "[...document.querySelectorAll('.reading')].map((r) => Math.max(...[...r.querySelectorAll('.token')]"
        ".map((t) => Number(t.style.getPropertyValue('--v')))))"
    )
    assert min(strongest) > 0, "still the change from the base, which is not shown"
    models = tab.run("[...document.querySelectorAll('#token-detail .models .chip')].map((c) => c.textContent)")
    assert models == ["plain, seed 1", "intervention, seed 1", "protection, seed 1"]
    assert tab.run("document.querySelectorAll('#memory-controls input[type=checkbox]').length") == 0


def search(tab: Page, text: str) -> list[str]:
    tab.run("{ const s = document.querySelector('#memory-search'); s.value = ''; s.focus(); }")
    tab.type(text)
    tab.run("new Promise((done) => setTimeout(done, 200))")
    return tab.run("[...document.querySelectorAll('.memory')].map((m) => m.textContent)")


def test_searching_a_word_finds_the_memories_that_write_it(pages: dict[str, Path], tab: Page) -> None:
    tab.open(pages["friendly"])
    total = tab.run("document.querySelectorAll('.memory').length")
    assert total == 8
    firsts = tab.run("[...document.querySelectorAll('.memory')].map((m) => m.querySelector('li bdi').textContent)")
    assert len(set(firsts)) == total, "one example a word"
    found = search(tab, "River")
    assert found
    assert all("river" in text for text in found)
    assert tab.run("[...document.querySelectorAll('.memory mark')].every((m) => m.textContent === 'river')")
    models = tab.run("[...document.querySelector('.memory').querySelectorAll('.chip')].map((c) => c.textContent)")
    assert models == ["base", "intervention, seed 1"], "base and steered side by side"
    many = tab.run("document.querySelector('#memory-count').textContent")
    assert many.endswith("memories write it.")
    tab.run(
        "{ const s = document.querySelector('#memory-layer'); s.value = '2'; s.dispatchEvent(new Event('change')); }"
    )
    in_layer = tab.run("[...document.querySelectorAll('.memory h3')].map((h) => h.textContent)")
    assert all(title.startswith("Layer 2,") for title in in_layer)
    while tab.run("Boolean(document.querySelector('.memories button'))"):
        tab.run("document.querySelector('.memories button').click()")
    assert "Layer 2, memory 7" in tab.run("[...document.querySelectorAll('.memory h3')].map((h) => h.textContent)")
    assert search(tab, "no such word") == []
    assert tab.run("document.querySelector('#memory-count').textContent") == "0 memories write it."


def test_the_theme_is_a_choice_that_stays(pages: dict[str, Path], tab: Page) -> None:
    tab.open(pages["friendly"], dark=True)
    background = "getComputedStyle(document.body).backgroundColor"
    dark = brightness(tab.run(background))
    assert tab.run("document.querySelector('#theme').textContent") == "Light"
    tab.run("document.querySelector('#theme').click()")
    assert brightness(tab.run(background)) > dark
    tab.open(pages["friendly"], dark=True)
    assert brightness(tab.run(background)) > dark
    tab.run("localStorage.clear()")


def test_the_skip_link_comes_first(pages: dict[str, Path], tab: Page) -> None:
    tab.open(pages["friendly"])
    tab.key("Tab")
    assert tab.run("document.activeElement.className") == "skip"
    assert tab.run("document.activeElement.getBoundingClientRect().left") >= 0
    tab.key("Enter")
    assert tab.run("document.activeElement.id || location.hash.slice(1)") == "answer"


@pytest.mark.parametrize("width", [1200, 375])
def test_hostile_tokens_are_text_and_run_nothing(width: int, pages: dict[str, Path], tab: Page) -> None:
    tab.open(pages["hostile"], width=width)
    tab.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    count = len(HOSTILE)
    for i, text in enumerate(HOSTILE):
        tab.run(f"document.querySelectorAll('.token')[{i}].focus()")
        shown = tab.run("document.querySelector('#token-detail .picked bdi').textContent")
        assert shown == visible(text), repr(text[:40])
    tokens = tab.run(f"[...document.querySelectorAll('.token')].slice(0, {count}).map((t) => t.children.length)")
    assert tokens == [1] * count, "a token holds its bdi and nothing else"
    for text in ("<script>", "</style>", "U+202E", "__proto__", "constructor", "${", '"', "\\", "\u05e9"):
        assert search(tab, text), text
    strangers = "main script:not([type='application/json']), main img, main style, main iframe"
    assert tab.run(f'document.querySelectorAll("{strangers}").length') == 0
    assert tab.run("window.hacked") is None
    assert tab.run("document.documentElement.scrollWidth") <= width
