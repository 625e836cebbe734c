"""A comparison as Markdown, CSV and LaTeX. Names come from recipes and files of others: none of them can break a table.

Controls and marks of direction are shown by their code point, and each format's own special characters are escaped; a
CSV cell that a spreadsheet would take for a formula begins with an apostrophe.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from typing import Any

from infosteer.inspection.comparison.sheet import legend, sheets, verdict
from infosteer.inspection.report.markup import visible

CSV_COLUMNS = (
    "run", "reference", "arm", "reference_arm", "set", "measure", "tasks", "seeds", "examples", "paired_by",
    "reference_mean", "reference_mean_low", "reference_mean_high", "mean", "mean_low", "mean_high",
    "difference", "low", "high", "test", "p_value", "p_holm", "p_bh", "significant", "detectable",
    "detectable_corrected", "verdict",
)  # fmt: skip
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~&$!])")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "^": r"\textasciicircum{}",
    "_": r"\_", "%": r"\%", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}", "[": "{[}", "]": "{]}", "-": "{-}",
    "*": "{*}",
}  # fmt: skip
_NUMBER = re.compile(r"(?<![\w.])-(?=\d)")


def to_markdown(found: Mapping[str, Any]) -> str:
    """Tables with their titles, then the notes as a list."""
    parts = []
    for sheet in sheets(found):
        lines = [f"**{_markdown(sheet.title)}**", ""]
        marks = ["---" if i < sheet.texts or i == len(sheet.columns) - 1 else "---:" for i in range(len(sheet.columns))]
        lines += [_row(map(_markdown, sheet.columns)), _row(marks)]
        lines += [_row(map(_markdown, row)) for row in sheet.rows]
        parts.append("\n".join(lines))
    parts.append("\n".join(f"- {_markdown(note)}" for note in legend(found)))
    return "\n\n".join(part for part in parts if part) + "\n"


def to_csv(found: Mapping[str, Any]) -> str:
    """One line for every comparison, macro averages included, in full precision and in the units of the scores."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in [*found["comparisons"], *found["macro"]]:
        name, _, measure = row.get("metric", "").rpartition("/")
        group = "group" in row
        line = {
            **row,
            "set": f"mean of {row['group']}" if group else name,
            "measure": row["measure"] if group else measure,
            "tasks": " ".join(row["tasks"]) if group else "",
            "seeds": row["n"],
            "verdict": verdict(row),
        }
        writer.writerow([_cell(line[column]) for column in CSV_COLUMNS])
    return file.getvalue()


def to_latex(found: Mapping[str, Any]) -> str:
    """Tables with booktabs rules, one ``table`` a measure, notes below the last."""
    parts = ["% Needs \\usepackage{booktabs}, and \\usepackage[T1]{fontenc} and \\usepackage{textcomp} for names."]
    for sheet in sheets(found):
        kinds = "l" * sheet.texts + "r" * (len(sheet.columns) - sheet.texts - 1) + "l"
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering\footnotesize",
                    rf"\caption{{{_latex(sheet.title)}}}",
                    rf"\begin{{tabular}}{{{kinds}}}",
                    r"\toprule",
                    _line(sheet.columns),
                    r"\midrule",
                    *map(_line, sheet.rows),
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    notes = legend(found)
    if notes:
        items = "\n".join(rf"\item {_latex(note)}" for note in notes)
        parts.append(f"{{\\footnotesize\n\\begin{{itemize}}\n{items}\n\\end{{itemize}}\n}}")
    return "\n\n".join(parts) + "\n"


WRITERS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {  # name -> file's suffix, writer
    "markdown": ("md", to_markdown),
    "csv": ("csv", to_csv),
    "latex": ("tex", to_latex),
}


def _flat(text: object) -> str:
    """One line, with everything that is not drawn made visible."""
    return " ".join(visible(text).split())


def _markdown(text: object) -> str:
    return _MARKDOWN.sub(r"\\\1", _flat(text))


def _row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return repr(value)
    text = _flat(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "|", "%") else text


def _line(cells: list[str]) -> str:
    return " & ".join(_latex(cell) for cell in cells) + r" \\"


def _latex(text: object) -> str:
    """Special characters escaped; a minus before a number set as one; letters beyond Latin by their code point."""
    flat = _NUMBER.sub("\0", _flat(text))
    made = []
    for character in flat:
        if character == "\0":
            made.append("$-$")
        elif character in _LATEX:
            made.append(_LATEX[character])
        elif " " <= character <= "~" or "\u00c0" <= character <= "\u017f":
            made.append(character)
        else:
            made.append(f"U+{ord(character):04X}")
    return "".join(made)
