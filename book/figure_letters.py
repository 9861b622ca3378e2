"""A Sphinx extension: figures of pages without a chapter number are counted page by page.

Sphinx counts them in one series, so that the first figure of an appendix may be "Fig. 5".
"""

from __future__ import annotations

from typing import Any

#: Stands where a chapter has its number. The preface needs none.
LETTERS = {"book/real_heads": "H", "book/appendix_ledger": "A", "book/appendix_speed": "B"}


def renumber(app: Any, env: Any) -> list[str]:
    """After Sphinx's own counting, which is done afresh in every build."""
    for page, letter in LETTERS.items():
        figures = env.toc_fignumbers.get(page, {}).get("figure", {})
        for number, name in enumerate(figures, 1):
            figures[name] = (letter, number)
    return []  # no page has to be read again


def setup(app: Any) -> dict[str, bool]:
    app.connect("env-get-updated", renumber, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
