"""The page around the sections: head with its content policy, question and answer, contents, style and script inlined.

Nothing is fetched and nothing but the page's own script runs: the policy names the script and the styles by their
hashes, model text arrives as escaped text or as JSON that the script puts into text nodes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

import infosteer
from infosteer.inspection.report.answer import Answer
from infosteer.inspection.report.gather import BASE, Run
from infosteer.inspection.report.markup import Markup, bdi, clip, el, embedded_json, visible
from infosteer.inspection.report.palette import style_variables, swatch_rules
from infosteer.inspection.report.section import Context, Section, chip

_LEGEND = 24  # arms named under the answer


def render(context: Context, found: Answer, sections: Sequence[Section]) -> str:
    """The whole document."""
    style = _style()
    script = _asset("report.js")
    run = context.run
    title = f"{clip(visible(run.name), 80)} \u2013 InfoSteer"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="generator", content=f"InfoSteer {infosteer.__version__}"),
        el("title", title),
        Markup('<link rel="icon" href="data:,">'),
        Markup(f"<style>{style}</style>"),
    )
    body = el(
        "body",
        el("a", "Skip to the answer", href="#answer", class_="skip"),
        _top(run, sections),
        el("main", _answer(context, found), [_section(section) for section in sections]),
        _foot(run),
        [embedded_json(name, value) for section in sections for name, value in section.data.items()],
        Markup(f"<script>{script}</script>"),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


def _top(run: Run, sections: Sequence[Section]) -> Markup:
    links = [el("li", el("a", section.id.capitalize(), href=f"#{section.id}")) for section in sections]
    toggle = el("button", "Dark", id="theme", type="button", aria_pressed="false", title="Light or dark", hidden=True)
    return el(
        "header",
        el("p", el("span", "InfoSteer", class_="brand"), " ", bdi(clip(run.name, 80)), class_="run"),
        el("nav", el("ul", links), aria_label="Sections"),
        toggle,
        class_="top",
    )


def _answer(context: Context, found: Answer) -> Markup:
    run = context.run
    description = (run.recipe or {}).get("description")
    arms = [arm for arm in context.looks if arm != BASE or _has_base(run)]
    chips = [el("li", chip(arm, context.look(arm))) for arm in arms[:_LEGEND]]
    if len(arms) > _LEGEND:
        chips.append(el("li", f"and {len(arms) - _LEGEND} more"))
    return el(
        "section",
        el("p", "The question", class_="kicker"),
        el("h1", found.question),
        el("p", "The answer", class_="kicker"),
        el("p", found.answer, class_="answer"),
        el("ul", [el("li", caveat) for caveat in found.caveats], class_="caveats") if found.caveats else None,
        el("p", bdi(clip(str(description), 600)), class_="description") if description else None,
        el("ul", chips, class_="legend", aria_label="Arms and their colours") if chips else None,
        _facts(run),
        id="answer",
        tabindex="-1",
    )


def _has_base(run: Run) -> bool:
    return any(row["arm"] == BASE for row in (run.results or {}).get("summary", []))


def _facts(run: Run) -> Markup | None:
    recipe = run.recipe or {}
    seeds = recipe.get("seeds")
    sets = recipe.get("evaluate")
    facts = [
        ("model", recipe.get("model")),
        ("arms", len(run.arms) or None),
        ("seeds", len(seeds) if isinstance(seeds, list) else None),
        ("sets", len(sets) if isinstance(sets, dict) else None),
    ]
    shown = [el("div", el("dt", name), el("dd", bdi(clip(str(value), 60)))) for name, value in facts if value]
    return el("dl", shown, class_="facts") if shown else None


def _section(section: Section) -> Markup:
    title = f"{section.id}-title"
    return el("section", el("h2", section.title, id=title), section.body, id=section.id, aria_labelledby=title)


def _foot(run: Run) -> Markup:
    return el(
        "footer",
        el("p", f"Made by InfoSteer {infosteer.__version__} from ", el("code", clip(str(run.path), 200)), ". ",
           "This page is one file and loads nothing."),
    )  # fmt: skip


def _style() -> str:
    light, dark = style_variables("light"), style_variables("dark")
    variables = (
        f":root{{{light}}}@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}"
        f":root[data-theme=dark]{{{dark}}}{swatch_rules()}"
    )
    return f"{variables}\n{_asset('report.css')}"


def _asset(name: str) -> str:
    return (files("infosteer.inspection.report") / "assets" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
