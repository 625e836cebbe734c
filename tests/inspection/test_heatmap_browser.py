"""The page of ``infosteer inspect --output`` in a real browser: hover and focus work, hostile tokens run nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "report"))

from chrome import Page, browser, find_chromium

from infosteer.inspection.data import TokenReading
from infosteer.inspection.heatmap import page

pytestmark = pytest.mark.browser
HOSTILE = (
    "<script>document.title='owned'</script>", "</style><img src=x onerror=\"document.title='owned'\">", '" onfocus="x',
    "\u202eevil", "\x00", "x" * 10_000, " plain",
)  # fmt: skip


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    command = find_chromium()
    if command is None:
        pytest.skip("no Chromium on this machine: `make test-browser` installs it where it may")
    with browser(command) as found:
        yield found


@pytest.mark.parametrize("dark", [False, True])
def test_hover_focus_and_hostile_tokens(tab: Page, tmp_path: Path, dark: bool) -> None:
    count = len(HOSTILE)
    reading = TokenReading(
        model="m",
        layer_numbers=(0, 1),
        widths=(8, 8),
        tokens=HOSTILE,
        flux=tuple(1.0 + 0.1 * t for t in range(count)),
        layers=tuple((1.0 + 0.1 * t, 1.0 + 0.1 * t) for t in range(count)),
    )
    path = tmp_path / "flux.html"
    path.write_text(page(reading, title="</title><b>t</b>"), encoding="utf-8")
    tab.problems.clear()
    tab.requests.clear()
    tab.open(path, width=390, dark=dark)
    assert tab.run("document.title") == "Information flux \u2013 </title><b>t</b>"
    assert tab.run("document.querySelectorAll('.t').length") == count
    assert tab.run("document.querySelectorAll('script, img, .t *:not(bdi)').length") == 0
    assert tab.run("document.querySelector('.t').textContent") == HOSTILE[0]
    shown = "getComputedStyle(document.querySelectorAll('.t')[6], '::after').content"
    assert tab.run(shown) == "none"
    tab.run("document.querySelectorAll('.t')[6].focus()")
    assert "flux 1.600" in tab.run(shown)
    grounds = "[...document.querySelectorAll('.t')].map((t) => getComputedStyle(t).backgroundColor)"
    assert len(set(tab.run(grounds))) == count, "one colour for each of these values"
    assert tab.run("document.documentElement.scrollWidth") <= 390, "readable on a phone"
    assert tab.problems == []
    assert [url for url in tab.requests if not url.startswith("file:")] == []
