"""The page, read without a browser: structure, escaping, size, policy, and sections that lack their data."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import itertools

from made_up import HOSTILE, SETS, make_run
from pages import Node, parse

from infosteer.inspection import data
from infosteer.inspection.data import Text, TokenReading, Tokens
from infosteer.inspection.report import write_report
from infosteer.inspection.report.markup import bdi, clip, el, embedded_json, join, table, visible
from infosteer.inspection.report.palette import FIXED, GROUND, HUES, looks

SECTIONS = ["results", "training", "entropy", "tokens", "regions", "memories", "geometry", "settings", "reproduce"]


@pytest.fixture(scope="module")
def friendly(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(make_run(tmp_path_factory.mktemp("runs") / "friendly")).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = make_run(tmp_path_factory.mktemp("runs") / "hostile", hostile=True)
    return write_report(run).read_text(encoding="utf-8")


def page(request: pytest.FixtureRequest, name: str) -> tuple[str, Node]:
    text = request.getfixturevalue(name)
    return text, parse(text)


@pytest.mark.parametrize("name", ["friendly", "hostile"])
def test_structure(name: str, request: pytest.FixtureRequest) -> None:
    text, tree = page(request, name)
    assert text.startswith("<!doctype html>\n")
    assert len(text.encode()) <= 5_000_000
    html = tree.one("html")
    assert html.attributes["lang"] == "en"
    assert tree.one("title").text()
    assert [section.attributes["id"] for section in tree.all("section")] == ["answer", *SECTIONS]
    links = [link.attributes["href"] for link in tree.one("nav").all("a")]
    assert links == [f"#{section}" for section in SECTIONS]
    identities = [node.attributes["id"] for node in tree.walk() if "id" in node.attributes]
    assert len(identities) == len(set(identities)), "an id is given once"
    for node in tree.walk():
        href = node.attributes.get("href")
        if href and href.startswith("#"):
            assert href[1:] in identities, href
        clipped = re.fullmatch(r"url\(#(.*)\)", node.attributes.get("clip-path") or "")
        assert clipped is None or clipped[1] in identities


@pytest.mark.parametrize("name", ["friendly", "hostile"])
def test_basics_of_accessibility(name: str, request: pytest.FixtureRequest) -> None:
    _, tree = page(request, name)
    levels = [int(node.tag[1]) for node in tree.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    identities = {node.attributes["id"]: node for node in tree.walk() if "id" in node.attributes}
    for node in tree.walk():
        named = node.attributes.get("aria-labelledby")
        assert named is None or identities[named].text().strip()
    labelled = {id(control) for label in tree.all("label") for control in label.all("input", "select")}
    for control in tree.all("input", "select"):
        assert id(control) in labelled, control
    for drawing in tree.all("svg"):
        assert drawing.attributes["role"] == "img"
        assert len(drawing.attributes["aria-label"] or "") > 10
    for button in tree.all("button"):
        assert button.text().strip()
    for cells in tree.all("table"):
        assert cells.one("caption").text().strip()
        assert all(cell.attributes.get("scope") in ("col", "row") for cell in cells.all("th"))
    scrolling = [node for node in tree.walk() if node.attributes.get("class") == "scroll"]
    assert all(node.attributes["tabindex"] == "0" and node.attributes["aria-label"] for node in scrolling)
    first = tree.one("body").all("a")[0]
    assert first.attributes == {"href": "#answer", "class": "skip"}


@pytest.mark.parametrize("name", ["friendly", "hostile"])
def test_nothing_is_fetched_and_only_the_own_script_runs(name: str, request: pytest.FixtureRequest) -> None:
    text, tree = page(request, name)
    for node in tree.walk():
        for key, value in node.attributes.items():
            assert not key.startswith("on"), (node.tag, key)
            assert key != "style", "inline styles would not pass the policy"
            if key in ("href", "src", "xlink:href", "action", "data", "srcset"):
                assert value is not None
                assert value.startswith(("#", "data:image/png;base64,", "data:,")), value
    assert not tree.all("img", "iframe", "object", "embed", "base", "form", "a:href")
    style = tree.one("style").text()
    assert not re.search(r"@import|url\(|expression", style)
    scripts = {node.attributes.get("id"): node for node in tree.all("script")}
    readouts = {f"readout-{name}" for name in ("training", "entropy", "entropy-change", "geometry")}
    assert set(scripts) == {None, "token-data", "memory-data"} | readouts
    for identity in set(scripts) - {None}:
        assert scripts[identity].attributes["type"] == "application/json"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", scripts[None].text())

    (policy,) = (m for m in tree.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in (policy.attributes["content"] or "").split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == sha256(scripts[None].text())
    assert rules["style-src"] == sha256(style)
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    assert text.index("Content-Security-Policy") < text.index("<style>") < text.index("<script")


def sha256(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_hostile_texts_are_text(hostile: str) -> None:
    tree = parse(hostile)
    own = {"html", "head", "meta", "title", "link", "style", "body", "header", "main", "footer", "nav", "section"}
    own |= {"h1", "h2", "h3", "p", "a", "span", "b", "q", "small", "bdi", "code", "pre", "ul", "li", "dl", "dt", "dd"}
    own |= {"div", "details", "summary", "figure", "figcaption", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    own |= {"label", "select", "option", "input", "fieldset", "legend", "button", "noscript", "script"}
    drawn = {"svg", "g", "path", "text", "defs", "clippath", "use", "rect", "image", "pattern"}
    assert {node.tag for node in tree.walk()} <= {"#document"} | own | drawn
    shown = tree.one("main").text()
    for text in HOSTILE:
        assert clip(visible(text), 400) in shown, repr(text[:40])
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufdd0\uffff]", hostile)
    notes = tree.one("section", id="results").all("li")
    assert any(len(note.all("bdi")) for note in notes), "texts of unknown direction are isolated"


def test_hostile_data_arrive_whole(hostile: str) -> None:
    tree = parse(hostile)
    for script in (node for node in tree.all("script") if "type" in node.attributes):
        raw = script.text()
        assert raw.isascii()
        assert not re.search("[<>&]", raw)
        json.loads(raw)
    data = json.loads(tree.one("script", id="token-data").text())
    reading = data["texts"][0]["readings"][0]
    for i, text in enumerate(HOSTILE):
        found = reading["long"].get(str(i), reading["tokens"][i])
        assert found == visible(text), "the whole token, however long"
    assert len(reading["tokens"][HOSTILE.index("x" * 10_000)]) < 100


def test_markup_escapes_on_the_way_in() -> None:
    assert el("p", "<b>&\"'") == "<p>&lt;b&gt;&amp;&quot;&#x27;</p>"
    assert el("p", el("b", "x"), "<", None, ["a", el("i", "b")]) == "<p><b>x</b>&lt;a<i>b</i></p>"
    assert el("a", href='"><script>', hidden=True, title=None) == '<a href="&quot;&gt;&lt;script&gt;" hidden></a>'
    assert el("input", type="text") == '<input type="text">'
    assert bdi("\u202ex") == "<bdi>[U+202E]x</bdi>"
    assert join(["a", ["b"]], 3) == "ab3"
    assert visible("plain \u00e9\u4f60 \U0001f600\u200d") == "plain \u00e9\u4f60 \U0001f600\u200d"
    assert visible("a\tb\n") == "a\tb\n"
    assert clip("abcdef", 3) == "abc... (6 characters)"
    assert '"</script>"' not in embedded_json("x", ["</script>"])
    with pytest.raises(ValueError, match="JSON"):
        embedded_json("x", [float("nan")])
    assert 'aria-label="Table: &lt;b&gt;"' in table(["a"], [["<"]], caption="<b>")


def test_a_name_cannot_break_out_of_the_palette() -> None:
    found = looks([f"arm{i}" for i in range(20)], "arm3")
    assert found["arm3"].hue.variable == "arm-baseline"
    assert len({(look.hue, look.mark, look.dash) for look in found.values()}) == 21, "arms look different"
    assert found["arm0"].hue == HUES[0]
    assert looks([], None)["base"].hue.variable == "arm-base"


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_told_from_the_page(theme: str) -> None:
    ground = GROUND["page"][theme == "dark"]
    for hue in (*FIXED, *HUES):
        enough = {"ink": 12, "muted": 4.5, "line": 1.2}.get(hue.variable, 3)
        assert contrast(getattr(hue, theme), ground) >= enough, hue
    ink = next(hue for hue in FIXED if hue.variable == "ink")
    soft = GROUND["soft"][theme == "dark"]
    assert contrast(getattr(ink, theme), soft) >= 7
    for name in ("heat", "cool"):  # text on the strongest tint of a token
        tint = [int(c) for c in GROUND[name][theme == "dark"].split()]
        base = [int(ground[i : i + 2], 16) for i in (1, 3, 5)]
        mixed = "#" + "".join(f"{round(0.72 * t + 0.28 * b):02x}" for t, b in zip(tint, base, strict=True))
        assert contrast(getattr(ink, theme), mixed) >= 4.5, name


def test_tables_say_what_the_results_say(friendly: str) -> None:
    tree = parse(friendly)
    results = tree.one("section", id="results")
    first = results.all("table")[0]
    assert [cell.text() for cell in first.one("thead").all("th")] == ["arm", "seeds", *SETS]
    rows = {row.all("th")[0].text(): [cell.text() for cell in row.all("td")] for row in first.one("tbody").all("tr")}
    assert list(rows) == ["plain", "intervention", "regularisation", "protection"]
    assert rows["plain"] == ["2", "60.0 55.0 to 65.0", "50.0 45.0 to 55.0", "40.0 35.0 to 45.0"]
    assert rows["protection"][1] == "68.4 63.4 to 73.4+8.4 +5.4 to +11.4better, p <0.001 (0.005)"
    assert "3 questions of recall are also among the training rows" in tree.one("section", id="settings").text()
    commands = tree.one("section", id="reproduce").all("pre")[0].text()
    assert "pip install torch==2.13.0 transformers==5.23.0" in commands
    assert re.search(r"infosteer run \S+/recipe\.yaml --output \S+-again\n", commands)


def test_sections_without_data_say_what_to_switch_on(tmp_path: Path) -> None:
    run = tmp_path / "bare"
    run.mkdir()
    (run / "recipe.yaml").write_text("arms: {plain: [], lift: [{method: key_lift}]}\nseeds: [1]\n")
    tree = parse(write_report(run).read_text())
    for name in SECTIONS[:-2]:
        section = tree.one("section", id=name)
        (line,) = (child for child in section.children if isinstance(child, Node) and child.tag != "h2")
        assert line.attributes["class"] == "absent", name
        assert line.all("code"), f"{name} names what to switch on"
    assert "Not known yet" in tree.one("section", id="answer").text()
    assert not tree.all("svg", "figure")
    assert all(not node.text() for node in tree.all("script") if node.attributes.get("type"))


def test_without_the_charts_the_page_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from infosteer.errors import RunError

    monkeypatch.setattr("infosteer.inspection.report.charts.available", lambda: False)
    run = make_run(tmp_path / "run", seeds=(1,), steps=3)
    tree = parse(write_report(run).read_text())
    assert not tree.all("figure")
    assert "pip install 'infosteer[plots]'" in tree.one("section", id="results").text()
    assert tree.one("section", id="results").all("table")
    with pytest.raises(RunError, match=r"infosteer\[plots\]"):
        write_report(run, figures=tmp_path / "figures")


def test_a_run_of_absurd_size_still_makes_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of arms, dozens of sets and layers: what does not fit is left out, and the page says so."""
    monkeypatch.setattr("infosteer.inspection.report.charts.available", lambda: False)  # minutes; 0.8 MB measured
    run = make_run(tmp_path / "run", seeds=(1,), steps=2)
    arms, sets = [f"arm{i}" for i in range(120)], [f"set{i}" for i in range(40)]
    names = [f"{name}/exact_match" for name in sets]
    same = {"low": 0.1, "high": 0.3}
    results = {
        "schema": 1,
        "environment": {f"key{i}": "x" * 500 for i in range(1000)},
        "arms": [{"arm": arm, "seed": 1, "metrics": {}} for arm in arms],
        "summary": [{"arm": arm, "metric": name, "mean": 0.2, "n": 1, **same} for arm in arms for name in names],
        "comparisons": [
            {"arm": arm, "baseline": "arm0", "metric": name, "difference": 0.2, "p_value": 0.01, **same}
            for arm in arms[1:]
            for name in names
        ],
        "failures": [{"arm": "x", "seed": 1, "error": "y" * 5000}] * 1000,
        "notes": ["z" * 5000] * 1000,
    }
    (run / "results.json").write_text(json.dumps(results))
    with (run / "metrics.jsonl").open("w") as log:
        for arm in arms:
            for step in (1, 2):
                values = {f"infosteer/entropy/layer_{i}": 5.0 + step for i in range(80)}
                values |= {f"infosteer/own_{i}": 1.0 for i in range(200)}
                log.write(
                    json.dumps({"event": "train", "arm": arm, "seed": 1, "step": step, "loss": 1, **values}) + "\n"
                )
    recipe = {"name": "x", "arms": {arm: [{"method": "m", "note": "n" * 5000}] for arm in arms}, "seeds": [1]}
    (run / "recipe.yaml").write_text(json.dumps(recipe))
    readings = tuple(
        TokenReading(
            model=arm, seed=1, layer_numbers=tuple(range(80)), widths=(512,) * 80, tokens=("\u4f60" * 10_000,) * 90,
            flux=(1.0,) * 90, layers=((1.0,) * 80,) * 90,
        )
        for arm in arms[:25]
    )  # fmt: skip
    data.write(run, Tokens(texts=(Text(name="long", readings=readings),)))
    path = write_report(run)
    assert path.stat().st_size <= 4_000_000
    tree = parse(path.read_text())
    text = tree.one("section", id="results").text()
    assert "the first 62 of 120 arms" in text
    assert "60 of 201 measures" in tree.one("section", id="training").text()
    assert "texts are cut" in tree.one("section", id="tokens").text()
