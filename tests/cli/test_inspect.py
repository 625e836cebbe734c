"""``infosteer inspect``: a text's flux in the terminal, as JSON and as a page; and a whole run for its report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import tiny
import yaml

from infosteer.inspection.data import Memories, Regions, TokenReading, Tokens, read
from infosteer.inspection.heatmap import levels, page

Call = Callable[..., tuple[int, str, str]]
TEXT = "a1 -> B and c"


class Page(HTMLParser):
    """What a browser would make of a page: elements, their attributes, and text outside of style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._inside:
            self.words += data


def test_a_table_where_there_is_no_terminal(infosteer: Call, inputs: Path) -> None:
    code, out, _ = infosteer("inspect", inputs / "model", TEXT)
    assert code == 0
    lines = out.splitlines()
    assert "2 layers" in lines[0]
    tokens = [line[:6].strip() for line in lines[3:]]
    assert [token[1:-1] if token.startswith("'") else token for token in tokens] == list(TEXT)


def test_json_is_the_reading(infosteer: Call, inputs: Path) -> None:
    from infosteer.inspection.reading import read_text
    from infosteer.training.loading import load_model, load_tokenizer

    code, out, _ = infosteer("inspect", inputs / "model", TEXT, "--json", "--layers", "1")
    assert code == 0
    found = json.loads(out)
    folder = str(inputs / "model")
    wanted = read_text(load_model(folder), load_tokenizer(folder), TEXT, layers=[1])
    assert found["tokens"] == list(TEXT)
    assert found["layer_numbers"] == [1]
    assert found["flux"] == pytest.approx(wanted.flux)
    assert found["surprisal"][0] is None
    assert found["surprisal"][1:] == pytest.approx(wanted.surprisal[1:])  # type: ignore[index]
    assert found["normalised"] == pytest.approx(wanted.normalised())


def test_colours_on_a_terminal(infosteer: Call, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    code, out, _ = infosteer("inspect", inputs / "model", "say [bold]hi[/] \x1b]0;owned\x07 <b>", "--by-layer")
    assert code == 0
    assert "\x1b[" in out
    assert "48;2;" in out, "grounds in colour"
    assert "\x1b]0;" not in out, "nothing of the text reaches the terminal as a command"
    for name in ("lowest:", "highest:", "layer 0:", "layer 1:"):
        assert name in out


def test_text_from_stdin_and_a_page(
    infosteer: Call, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("<script>alert(1)</script>"))
    target = tmp_path / "deep" / "page.html"
    code, out, _ = infosteer("inspect", inputs / "model", "-", "--output", target)
    assert code == 0
    assert str(target) in out
    found = Page(target.read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in found.elements}
    assert "<script>alert(1)</script>" in found.words
    assert len([1 for _, attributes in found.elements if (attributes.get("class") or "").startswith("t h")]) == 25


def reading(*tokens: str) -> TokenReading:
    return TokenReading(
        model="m",
        layer_numbers=(0, 3),
        widths=(8, 8),
        tokens=tokens,
        flux=tuple(1.0 + 0.01 * i for i in range(len(tokens))),
        layers=tuple((1.0 + 0.01 * i, 1.0 + 0.01 * i) for i in range(len(tokens))),
        surprisal=(None, *(0.5 for _ in tokens[1:])),
    )


HOSTILE = (
    "<script>alert(1)</script>", "</style><img src=x onerror=alert(1)>", '" onmouseover="x', "'", "&amp;", "\u202eevil",
    "\x00", "\x1b[31m", "\ud800", "x" * 10_000, "\n", "]]>", "<!--",
)  # fmt: skip


def test_hostile_tokens_are_text() -> None:
    made = page(reading(*HOSTILE), title="<i>title</i> \u202e")
    made.encode("utf-8")
    found = Page(made)
    assert not {"script", "img", "i"} & {tag for tag, _ in found.elements}
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    for words in ("<script>alert(1)</script>", "</style><img src=x onerror=alert(1)>", "[U+202E]evil", "[U+0000]"):
        assert words in found.words
    assert "10,000 characters" in found.words
    assert len(made) < 60_000
    policy = next(a["content"] for _, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "url(" not in made
    assert "http" not in made.replace("http-equiv", "")
    tips = [attributes["data-tip"] for _, attributes in found.elements if "data-tip" in attributes]
    assert tips[1] == "flux 1.010\nsurprisal 0.500\nlayer 0: 1.010\nlayer 3: 1.010"


def test_levels() -> None:
    assert levels([1.0, 3.0, 2.0], 11) == [0, 10, 5]
    assert levels([2.0, 2.0], 11) == [5, 5]
    assert levels([7.0]) == [10]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "a text is needed"),
        (("",), 2, "the text is empty"),
        (("x" * 513,), 1, "at most 512"),
        (("hi", "--layers", "9"), 1, "layers that do not exist: [9]"),
        (("hi", "--layers", "upper"), 1, "not understood"),
        (("hi", "--seed", "1"), 2, "only a run has seeds"),
    ],
)
def test_refusals(infosteer: Call, inputs: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    got, _, err = infosteer("inspect", inputs / "model", *arguments)
    assert got == code
    assert says in " ".join(err.split())
    assert "Traceback" not in err


def test_more_refusals(infosteer: Call, inputs: Path, tmp_path: Path) -> None:
    code, _, err = infosteer("inspect", tmp_path / "nowhere", "hi")
    assert (code, "no such model folder" in err) == (1, True)
    (tmp_path / "file").write_text("")
    code, _, err = infosteer("inspect", inputs / "model", "hi", "-o", tmp_path / "file" / "page.html")
    assert (code, "cannot be written" in err) == (1, True)


# -- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run that kept its models."""
    from infosteer.experiments.run import run as start

    folder = tmp_path_factory.mktemp("inspected")
    recipe = tiny.recipe(
        folder,
        train={"save_model": True, "learning_rate": 1e-2},
        arms={"plain": [], "lift": [{"method": "key_lift", "fraction": 0.25, "alpha": 3.0}]},
        seeds=[4],
    )
    return start(recipe, folder / "run")


def test_a_run_is_left_with_what_its_models_do(infosteer: Call, run: Path) -> None:
    code, out, err = infosteer("inspect", run)
    assert code == 0
    assert [Path(line).name for line in out.splitlines()[:3]] == ["tokens.json", "regions.json", "memories.json"]
    assert "reading lift, seed 4" in err
    tokens, regions, memories = read(run, Tokens), read(run, Regions), read(run, Memories)
    assert tokens is not None
    assert regions is not None
    assert memories is not None
    keys = [("base", None, False), ("plain", 4, False), ("lift", 4, False), ("lift", 4, True)]
    for text in tokens.texts:
        assert [(r.model, r.seed, r.hook) for r in text.readings] == keys
    by_key = {(r.model, r.seed, r.hook): r for r in regions.readings}
    assert list(by_key) == keys
    assert by_key[keys[0]].means() == pytest.approx([0.25, 0.5, 0.25], abs=2e-3)
    assert by_key[keys[3]].means()[0] < by_key[keys[2]].means()[0] - 0.1, "the hook empties the low region"
    assert "1 - H" in memories.specificity
    chosen = {(layer.layer, layer.model): [m.index for m in layer.memories] for layer in memories.layers}
    assert chosen[0, "base"] == chosen[0, "plain"] == chosen[0, "lift"]
    assert "plain, seed 4" in memories.note
    assert (run / "report.html").stat().st_size > 50_000


def test_a_text_of_ones_own_and_json(infosteer: Call, run: Path) -> None:
    code, out, _ = infosteer("inspect", run, "my <text>", "--layers", "1", "--json")
    assert code == 0
    assert len(json.loads(out)["files"]) == 3
    tokens = read(run, Tokens)
    assert tokens is not None
    (text,) = tokens.texts
    assert text.readings[0].tokens == tuple("my <text>")
    assert text.readings[0].layer_numbers == (1,)


def test_the_models_of_a_run_can_be_named(infosteer: Call, run: Path) -> None:
    code, out, _ = infosteer("inspect", run / "checkpoints" / "lift" / "seed-4", "hi", "--json")
    assert code == 0
    assert json.loads(out)["tokens"] == ["h", "i"]


def test_a_run_that_kept_no_models(infosteer: Call, run: Path, tmp_path: Path) -> None:
    empty = tmp_path / "run"
    empty.mkdir()
    shutil.copy(run / "recipe.yaml", empty)
    code, _, err = infosteer("inspect", empty)
    assert code == 1
    assert "kept no models" in err
    assert "train.save_model=true" in err
    assert not (empty / "inspection").exists()
    for arguments, says in ((("--seed", "9"), "no such seed"), (("-o", "x.html"), "models do goes")):
        code, _, err = infosteer("inspect", empty, *arguments)
        assert code in (1, 2)
        assert says in " ".join(err.split())


def test_an_arm_without_a_model_is_left_out_by_name(infosteer: Call, run: Path, tmp_path: Path) -> None:
    part = tmp_path / "run"
    shutil.copytree(run, part)
    shutil.rmtree(part / "checkpoints" / "plain")
    shutil.rmtree(part / "inspection", ignore_errors=True)
    code, _, err = infosteer("inspect", part)
    assert code == 0
    assert "plain: no model was kept for seed 4" in err
    tokens = read(part, Tokens)
    assert tokens is not None
    assert {r.model for r in tokens.texts[0].readings} == {"base", "lift"}
    recipe = yaml.safe_load((part / "recipe.yaml").read_text())
    assert recipe["seeds"] == [4]
