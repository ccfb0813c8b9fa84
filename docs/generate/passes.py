"""The page of a pass: the sections of its docstring, its example, and its reasons to refuse."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bnfold.record.data import Record
from bnfold.rewriting.contract import ANY, Pass
from docs.generate.drawing import draw_pair
from docs.generate.examples import Example
from docs.generate.remedies import remedy_of
from docs.generate.tables import cell

SECTIONS = ("Identity", "Conditions", "Profit", "Exactness", "Example", "Reasons to refuse")
"""The headings that each page has, in this order."""

_STARTS = {
    "Conditions": r"Conditions\b[:,]",
    "Profit": r"Profit\b[:,]",
    "Exactness": r"(?:BITWISE|ROUNDED|SEMANTIC)\b",
}
_EXACTNESS = {
    "BITWISE": "The bits of the result are the same for every input without NaN, except for the "
    "sign of zeros.",
    "ROUNDED": "The result is the same in exact arithmetic; floating-point rounding differs.",
}
_LEGEND = (
    "Coloured frames mark what changes. Below an operator are the sizes of its weights (or small "
    "constants themselves) and its attributes."
)


@dataclass(frozen=True)
class Documentation:
    """The docstring of a pass in parts: its first sentence, and Markdown by heading."""

    lead: str
    sections: dict[str, str]


def documentation_of(pass_: Pass) -> Documentation:
    """Take the docstring of a pass apart. A section that it lacks is missing here, too."""
    lead, *paragraphs = pass_.documentation.strip().split("\n\n")
    sections: dict[str, list[str]] = {}
    current = "Identity"
    for paragraph in paragraphs:
        for heading, start in _STARTS.items():
            if re.match(start, paragraph):
                current = heading
                paragraph = re.sub(r"^(?:Conditions|Profit): ", "", paragraph)
        sections.setdefault(current, []).append(_markdown(paragraph))
    return Documentation(
        " ".join(lead.split()), {name: "\n\n".join(text) for name, text in sections.items()}
    )


def _markdown(paragraph: str) -> str:
    """Let formulas, which are indented, be blocks of code, and begin sentences in upper case."""
    if re.match(r" {4}|- ", paragraph):
        return re.sub(r"^ {4}", "    ", paragraph, flags=re.MULTILINE)
    first, rest = paragraph[0], paragraph[1:]
    is_word = re.match(r"[a-z]\w* ", paragraph) is not None
    return f"{first.upper() if is_word else first}{rest}".replace("<", "&lt;")


def page_of(pass_: Pass, example: Example) -> str:
    """Return the page of a pass as Markdown.

    Raises:
        KeyError: if its docstring lacks a section.
    """
    parts = documentation_of(pass_)
    sections = {
        **parts.sections,
        "Exactness": _exactness(parts.sections["Exactness"]),
        "Example": _example(pass_, example),
        "Reasons to refuse": _refusals(pass_),
    }
    page = [f"# {pass_.name}", parts.lead, _facts(pass_)]
    for heading in SECTIONS:
        page += [f"## {heading}", sections[heading]]
    return "\n\n".join(page) + "\n"


def _facts(pass_: Pass) -> str:
    roots = "any operator" if ANY in pass_.roots else ", ".join(pass_.roots)
    return (
        f"It starts at {roots}. To run it alone: `bnfold optimize MODEL --only {pass_.name}`; "
        f"to leave it out: `--skip {pass_.name}`."
    )


def _exactness(text: str) -> str:
    """Say what the words in capitals stand for."""
    meanings = [meaning for word, meaning in _EXACTNESS.items() if word in text]
    return "\n\n".join([text, *meanings])


def _example(pass_: Pass, example: Example) -> str:
    drawing = draw_pair(example.before, example.after, pass_.name)
    made = [
        f"{rewrite.op_type} {rewrite.detail}".strip()
        for rewrite in example.record.rewrites
        if rewrite.pass_name == pass_.name
    ]
    lines = [f"{len(made)} rewrite{'s' * (len(made) != 1)}: {'; '.join(dict.fromkeys(made))}."]
    lines += _verdict(example.record)
    return f"{drawing}\n\n{_LEGEND}\n\n{' '.join(lines)}"


def _verdict(record: Record) -> list[str]:
    """Say what the check found, if there was one."""
    if record.equivalence is None:
        return []
    kinds = {rewrite.certificate.kind for rewrite in record.rewrites if rewrite.certificate}
    return [
        f"The check: *{record.equivalence.verdict}*; certified for all inputs as "
        f"[{', '.join(sorted(kinds))}](../certificates.md)."
    ]


def _refusals(pass_: Pass) -> str:
    if not pass_.refusals:
        return "It reports none: where its conditions do not hold, it leaves the operators alone."
    rows = [
        f"| `{reason.name}` | {cell(reason.message)} | {cell(remedy_of(reason))} |"
        for reason in sorted(pass_.refusals, key=lambda reason: reason.name)
    ]
    return "\n".join(["| reason | kept, because | what to do |", "|---|---|---|", *rows])
