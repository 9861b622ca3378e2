"""From a chapter's plain Markdown, which reads well anywhere, to the directives of the page.

Notebooks are also read on GitHub, in Jupyter and on Colab, which show MyST's roles and directives
as they are typed. So chapters write links, ``[@key]`` and ``<details>`` instead; no code in a text
may hold one of these.
"""

from __future__ import annotations

import re
from pathlib import Path

_TERM = re.compile(r"\[([^][]+)\]\(glossary\.md#([\w-]+)\)")
_FIGURE = re.compile(r"\[[Tt]he figure\]\(#(fig-[\w-]+)\)")
_CITATION = re.compile(r"\[(@[\w-]+(?:;\s*@[\w-]+)*)\]")
_UNIT = re.compile(r"(?<=\d) (?=(?:%|mm|cm|mL|GB|MB|ms)(?![\w$]))")
_CODE = re.compile(r"(```.*?```|`[^`]*`|\$[^$]*\$)", re.DOTALL)
_FOLDED = re.compile(r"<details><summary>(.+?)</summary>\n\n(.*?)\n\n</details>", re.DOTALL)


def glossary_terms(root: Path) -> dict[str, str]:
    """The terms of the glossary by the anchors that links give them, such as ``lesion-mask``."""
    path = root / "book" / "glossary.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    terms = re.findall(r"^\w.*", text.partition(":sorted:\n")[2], re.MULTILINE)
    return {"-".join(re.findall(r"[\w-]+", term.lower())): term for term in terms}


def to_myst(text: str, terms: dict[str, str]) -> str:
    """A Markdown cell with the roles and directives that Jupyter Book renders.

    Parameters
    ----------
    text : str
    terms : dict
        From :func:`glossary_terms`. A link to any other term stays a link: Sphinx reports it.
    """

    def term(link: re.Match[str]) -> str:
        shown, anchor = " ".join(link[1].split()), link[2]
        if anchor not in terms:
            return link[0]
        name = terms[anchor]
        return f"{{term}}`{name}`" if shown == name else f"{{term}}`{shown} <{name}>`"

    def citation(found: re.Match[str]) -> str:
        return "{cite}`" + ",".join(re.findall(r"@([\w-]+)", found[1])) + "`"

    parts = _CODE.split(text)  # at odd places stands code or a formula
    text = "".join(p if k % 2 else _UNIT.sub("\N{NO-BREAK SPACE}", p) for k, p in enumerate(parts))
    text = _TERM.sub(term, text)
    text = _FIGURE.sub(r"{numref}`\1`", text)
    text = _CITATION.sub(citation, text)
    return _FOLDED.sub(r":::{admonition} \1\n:class: dropdown\n\2\n:::", text)
