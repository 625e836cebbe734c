"""The documentation is true: snippets run, commands parse, links lead somewhere, numbers are those of the results."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "experiments"))

from tiny import save_model  # noqa: E402

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CARDS = sorted((ROOT / "src" / "infosteer" / "methods").glob("*/*/card.md"))
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
CHEAP = ("ls", "show", "env")  # verbs that are run, not only parsed


@dataclass(frozen=True)
class Snippet:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    body: str
    not_run: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def snippets(*languages: str) -> list[Snippet]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match["language"] not in languages:
                continue
            body = "".join(line[len(match["indent"]) :] or "\n" for line in match["body"].splitlines(keepends=True))
            before = text[: match.start()].rstrip().rpartition("\n")[2]
            line = text.count("\n", 0, match.start()) + 2
            not_run = bool(re.fullmatch(r"<!-- not run: \S.* -->", before.strip()))
            found.append(Snippet(page, line, match["language"], body, not_run))
    return found


def commands() -> list[tuple[str, str]]:
    """(place, command line) of every console line, and of code spans that begin with ``infosteer``."""
    found = []
    for snippet in snippets("bash", "console", "sh"):
        for offset, line in enumerate(snippet.body.splitlines()):
            if line.strip():
                found.append((f"{snippet.page.relative_to(ROOT)}:{snippet.line + offset}", line.removeprefix("$ ")))
    for page in [*PAGES, *CARDS]:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for span in re.findall(r"`(infosteer [^`]+|python (?:-m|\w+/)[^`]+|make [a-z][^`]*)`", text):
            found.append((str(page.relative_to(ROOT)), span))
    return found


# -- Python ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("docs") / "model", num_hidden_layers=4)


class World(dict[str, Any]):
    """What a snippet may take for granted; the trainer is built only when it is asked for."""

    def __init__(self, folder: Path) -> None:
        from datasets import Dataset
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import SFTConfig

        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(folder).train()
        rows = [{"prompt": f"the colour of {i}" + "?" * (i % 3), "completion": " red" * (1 + i % 2)} for i in range(8)]
        super().__init__(
            model=model,
            tokenizer=AutoTokenizer.from_pretrained(folder),
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
            rows=Dataset.from_list(rows),
            args=SFTConfig(
                output_dir="out",
                max_steps=2,
                logging_steps=1,
                per_device_train_batch_size=4,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                bf16=False,
            ),
            batches=[self._batch(length) for length in (7, 4)],
            __name__="__snippet__",
        )

    def __missing__(self, name: str) -> Any:
        if name != "trainer":
            raise KeyError(name)
        from trl import SFTTrainer

        self["trainer"] = SFTTrainer(
            model=self["model"], args=self["args"], train_dataset=self["rows"], processing_class=self["tokenizer"]
        )
        return self["trainer"]

    @staticmethod
    def _batch(length: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(2, 250, (2, length))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


@pytest.mark.parametrize("snippet", snippets("python"), ids=str)
def test_python_snippet(snippet: Snippet, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = compile("\n" * (snippet.line - 1) + snippet.body, str(snippet.page), "exec")
    if snippet.not_run:
        return
    monkeypatch.chdir(tmp_path)
    world = World(folder)
    if "trainer" in code.co_names and not re.search(r"^trainer = ", snippet.body, re.MULTILINE):
        _ = world["trainer"]
    exec(code, world)


def test_there_are_snippets_and_few_are_not_run() -> None:
    found = snippets("python")
    assert len([snippet for snippet in found if snippet.page.name == "README.md"]) >= 2
    assert len(found) >= 10
    assert sum(snippet.not_run for snippet in found) <= 2


def test_the_two_lines_steer(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's TRL snippet, and what it promises about logs and files."""
    (snippet,) = [s for s in snippets("python") if s.page.name == "README.md" and "attach(" in s.body]
    monkeypatch.chdir(tmp_path)
    world = World(folder)
    exec(snippet.body, world)
    logged = {key for line in world["trainer"].state.log_history for key in line}
    keys = re.findall(r"`(infosteer/\w+)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert {"infosteer/penalty", "infosteer/entropy"} <= set(keys) <= logged
    world["trainer"].save_model("saved")
    assert (tmp_path / "saved" / "infosteer.json").is_file()


def test_the_guide_lists_what_is_logged(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import infosteer

    monkeypatch.chdir(tmp_path)
    trainer = World(folder)["trainer"]
    lift = infosteer.Intervention(strength={"points": [[0, 0.5], [9, 1.0]]})
    infosteer.attach(trainer, [lift, infosteer.EntropyRegularization()])
    trainer.train()
    logged = {key for line in trainer.state.log_history for key in line if key.startswith("infosteer/")}
    text = (ROOT / "docs" / "steering.md").read_text(encoding="utf-8")
    table = re.findall(r"`(infosteer/[^`]+)`", text[text.index("## What is logged") : text.index("## What is saved")])
    generic = {re.sub(r"layer_\d+", "layer_i", re.sub(r"strength/.*", "strength/<method>", key)) for key in logged}
    assert generic == set(table)


# -- commands -------------------------------------------------------------------------------------------------------


@functools.cache
def makefile_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return {name for line in re.findall(r"^([a-z][a-z -]*):(?!=)", text, re.MULTILINE) for name in line.split()}


@pytest.mark.parametrize(("place", "command"), sorted(set(commands())))
def test_command(place: str, command: str) -> None:
    program, *arguments = shlex.split(command, comments=True)
    if program == "infosteer":
        check_infosteer(arguments)
    elif program == "make":
        targets = [word for word in arguments if "=" not in word]
        assert targets
        assert set(targets) <= makefile_targets()
    elif program == "python":
        check_python(arguments)
    elif program == "accelerate":
        assert any((ROOT / word).is_file() for word in arguments), command
    elif program.startswith("."):
        assert (ROOT / program).is_file()


def check_infosteer(arguments: list[str]) -> None:
    """The command line's own parser takes the arguments; cheap verbs are run."""
    import typer
    from typer.testing import CliRunner

    from infosteer.cli.main import app

    group: Any = typer.main.get_command(app)
    words = [word for word in arguments if word not in ("--debug", "--help", "--version", "...")]
    if not words or words[0] == "VERB":
        return  # prose about the command as a whole
    verb, *rest = words
    assert verb in group.commands, f"infosteer has no verb {verb}"
    if not rest and verb not in CHEAP:
        return  # prose that names the verb
    group.commands[verb].make_context(verb, list(rest))
    if verb in CHEAP and not any(word.isupper() for word in rest):  # METHOD: to be filled in by the reader
        result = CliRunner().invoke(app, [verb, *rest])
        assert result.exit_code == 0, result.output
        assert result.output.strip()


def check_python(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]) is not None
        arguments = arguments[2:]
    else:
        assert (ROOT / arguments[0]).is_file(), arguments[0]
    for word in arguments:
        if re.match(r"(tests|examples|benchmarks|docs)/", word):
            assert (ROOT / word).exists(), word


def test_there_are_commands() -> None:
    programs = [command.split()[0] for _, command in commands()]
    assert programs.count("infosteer") >= 10
    assert "make" in programs


def test_make_targets_are_explained_and_can_be_planned() -> None:

    def make(*words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        command = ["make", "--no-print-directory", *words]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    explained = make("help")
    assert {"demo", "test", "test-slow", "lint", "bench", "clean", "help"} <= makefile_targets()
    for target in makefile_targets():
        assert re.search(rf"^{target} ", explained, re.MULTILINE), target
    plan = make("-n", "-B", "test")
    steps = [plan.index(step) for step in ("-m venv", "torch==", "-r requirements.lock", "--editable .", "-m pytest")]
    assert steps == sorted(steps)


# -- links ----------------------------------------------------------------------------------------------------------


def slugs(text: str) -> set[str]:
    """Anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"(https?|mailto):", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in slugs(target.read_text(encoding="utf-8")), link


def test_every_page_is_reached_from_the_readme() -> None:
    reached, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page in reached or page.suffix != ".md" or not page.is_file():
            continue
        reached.add(page)
        queue += [(page.parent / link.partition("#")[0]).resolve() for link in links(page) if "://" not in link]
    # Error pages are named by their messages.
    expected = {page for page in [*PAGES, *CARDS] if page.parent.name != "errors"}
    assert expected <= reached, f"link these in docs/index.md: {sorted(map(str, expected - reached))}"


def test_every_method_is_listed() -> None:
    import infosteer

    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for key in infosteer.list_methods():
        assert f"methods/{key}/card.md" in text, key


# -- measured numbers -----------------------------------------------------------------------------------------------


@functools.cache
def renderer() -> types.ModuleType:
    return load_script("render_readme")


def test_pages_say_what_the_results_say() -> None:
    render = renderer()
    results = json.loads(render.RESULTS.read_text(encoding="utf-8")) if render.RESULTS.is_file() else None
    assert ROOT / "README.md" in render.pages()
    for page in render.pages():
        text = page.read_text(encoding="utf-8")
        assert render.render(text, results) == text, f"run python benchmarks/render_readme.py: {page}"


def made_up_results() -> dict[str, Any]:
    summary = [
        {"arm": arm, "metric": metric, "mean": mean, "low": mean - 0.02, "high": mean + 0.02, "n": 3}
        for arm, shift in (("plain", 0.0), ("lift", 0.0125))
        for metric, mean in (("people/answer_nll", 1.5 + shift), ("people/exact_match", 0.5 + shift))
    ]
    comparison = {"arm": "lift", "baseline": "plain", "low": -0.0001, "high": 0.025, "p_value": 0.04}
    return {
        "environment": {"packages": {"torch": "1", "transformers": "2", "trl": "3"}, "cpu_cores": 2},
        "summary": [*summary, {**summary[0], "metric": "people/option_accuracy"}],
        "comparisons": [
            {**comparison, "metric": "people/exact_match", "difference": 0.0125},
            {**comparison, "metric": "people/answer_nll", "difference": 0.0125},
        ],
        "notes": ["p-values are not corrected"],
    }


def test_rendering_of_results() -> None:
    render = renderer()
    page = (
        "a\n<!-- demo-table:begin -->\nold\n<!-- demo-table:end -->\nb\n<!-- measured: demo lift -->\n\n## Deviations\n"
    )
    results = made_up_results()
    full = render.render(page, results)
    assert "old" not in full
    assert "| `people`: right answers, % | 50.0 (48.0 to 52.0) | 51.2; +1.2 (0.0 to +2.5) |" in full.replace(
        "+0.0", "0.0"
    )
    assert "| `people`: right answers, % | 50.0 | 51.2 | " in full
    assert "| 0.040 |" in full
    assert "option_accuracy" not in full
    assert "3 seeds" in full
    assert "p-values are not corrected" in full
    assert full.index("right answers") < full.index("loss on the answer")
    assert "| | plain | lift |" in render.demo_table({**results, "summary": results["summary"][::-1]}), "baseline first"
    assert full.endswith("<!-- measured: end -->\n\n## Deviations\n")
    assert render.render(full, made_up_results()) == full, "rendering twice changes nothing"
    other = made_up_results()
    other["summary"][1]["mean"] = 0.6
    assert render.render(full, other) != full
    assert "right answers" not in render.render(full, None)
    with pytest.raises(KeyError, match="no arm 'lift'"):
        render.render(page, {**made_up_results(), "comparisons": []})


def test_cards_show_other_studies_with_corrected_p_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render, results = renderer(), made_up_results()
    for pair, p_holm in zip(results["comparisons"], (0.5, None), strict=True):
        pair["p_holm"] = p_holm
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "results.json").write_text(json.dumps({**results, "sweep": {}}))
    monkeypatch.setattr(render, "EVIDENCE", tmp_path)
    card = render.render("<!-- measured: main lift -->\n", None)
    assert "| `people`: right answers, % | 50.0 | 51.2 | +1.2 (+0.0 to +2.5) | 0.500 |" in card
    assert "loss on the answer" not in card
    assert "not corrected" not in card
    with pytest.raises(KeyError, match="no arm 'other'"):
        render.render("<!-- measured: main other -->\n", None)
