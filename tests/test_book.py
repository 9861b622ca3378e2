"""Rules for all chapters, and tests that these rules catch violations."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable
from pathlib import Path

import links
import markup
import nbformat
import pages
import pytest
import reference
import yaml
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [f"{page}.ipynb" for page in pages.notebooks(ROOT)]
UNCHECKED = "nbval-ignore-output"
PARAMETERS = """\
import os

# smoke, quick, colab or paper
profile = os.environ.get("ATLASLIB_PROFILE", "quick")
# "": the synthetic cohort, made on first use
data_dir = os.environ.get("ATLASLIB_DATA", "")"""
BOOTSTRAP = """\
# On Colab alone: fetch the library. Elsewhere this cell does nothing.
try:
    import atlaslib
except ImportError:
    library = "git+https://github.com/{}"
    %pip install -q {{library}}"""
# home, temporary and working folders, and drive letters: paths of one machine only
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|Users|tmp|work|mnt|scratch)/\w|\b[A-Z]:\\\\")


# terms of the glossary that are everyday words too, or mean something else in some chapters
EVERYDAY = {
    "affine", "baseline", "fingerprint", "profile", "session", "split", "stroke", "width"
}  # fmt: skip
NO_PROSE = re.compile(
    r"```.*?```|\$[^$\n]+\$|`[^`]*`|!?\[[^]]*\]\([^)]*\)|\*\*[^*]*\*\*|^[#|>].*?$",
    re.DOTALL | re.MULTILINE,
)


def read(name: str) -> NotebookNode:
    return nbformat.read(ROOT / name, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def ambiguous_cells(notebook: NotebookNode) -> list[str]:
    """Code cells that nbval would neither compare nor deliberately skip."""
    found = []
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code":
            continue
        run, stored = cell.execution_count is not None, bool(cell.outputs)
        if UNCHECKED in tags(cell):
            if run or stored:
                found.append(f"cell {number}: tagged {UNCHECKED}, but an output is stored")
        elif not (run and stored):
            found.append(f"cell {number}: neither a reference output nor the tag {UNCHECKED}")
    return found


def shown(cell: NotebookNode) -> str:
    """The source of the expression whose value a code cell shows; "" if it shows none."""
    if cell.cell_type != "code":
        return ""
    statements = ast.parse(re.sub(r"^( *)[%!].*", r"\1pass", cell.source, flags=re.MULTILINE)).body
    last = statements[-1] if statements else None
    return ast.unparse(last) if isinstance(last, ast.Expr) else ""


def figures_without_alt(notebook: NotebookNode) -> list[str]:
    """Cells that show a figure without an alternative text of at least four words."""
    found = []
    for number, cell in enumerate(notebook.cells, 1):
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if re.search(r"\bplot_\w+\(|\bfig(ure)?$", shown(cell)) and len(alt.split()) < 4:
            found.append(f"cell {number}: a figure without alternative text")
    return found


@pytest.fixture(params=NOTEBOOKS)
def notebook(request: pytest.FixtureRequest) -> NotebookNode:
    found = read(request.param)
    found.metadata["name"] = Path(request.param).stem
    return found


def test_the_contents_list_exactly_the_existing_pages() -> None:
    listed = pages.contents(ROOT)
    existing = {
        path.relative_to(ROOT).with_suffix("").as_posix()
        for path in (ROOT / "book").iterdir()
        if path.suffix in (".ipynb", ".md")
    }
    assert set(listed) == existing | set(reference.pages())
    assert len(listed) == len(set(listed))


def test_every_code_cell_is_compared_or_tagged(notebook: NotebookNode) -> None:
    assert ambiguous_cells(notebook) == []


def _run_without_output(cell: NotebookNode) -> None:
    cell.outputs = []


def _output_without_run(cell: NotebookNode) -> None:
    cell.execution_count = None


def _output_under_the_tag(cell: NotebookNode) -> None:
    cell.metadata["tags"] = [UNCHECKED]


def _never_run(cell: NotebookNode) -> None:
    cell.outputs, cell.execution_count = [], None


@pytest.mark.parametrize(
    "make_ambiguous", [_run_without_output, _output_without_run, _output_under_the_tag, _never_run]
)
def test_an_ambiguous_cell_is_caught(make_ambiguous: Callable[[NotebookNode], None]) -> None:
    original = read(next(name for name in NOTEBOOKS if "02_" in name))
    assert ambiguous_cells(original) == []
    changed = copy.deepcopy(original)
    make_ambiguous(next(cell for cell in code_cells(changed) if cell.outputs))
    assert len(ambiguous_cells(changed)) == 1


def test_chapters_have_reference_outputs(notebook: NotebookNode) -> None:
    """At least two, because a book without any would pass nbval without a check."""
    compared = [cell for cell in code_cells(notebook) if UNCHECKED not in tags(cell)]
    assert len(compared) >= (2 if notebook.metadata["name"][0].isdigit() else 0)


def headings(notebook: NotebookNode) -> list[str]:
    """Those of the second level, in their order."""
    texts = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return [found for text in texts for found in re.findall(r"^## (.+)$", text, re.MULTILINE)]


def test_notebook_is_valid(notebook: NotebookNode) -> None:
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.metadata.kernelspec.name) == (4, "python3")
    identities = [cell.id for cell in notebook.cells]
    assert len(identities) == len(set(identities))


def test_notebooks_begin_with_the_same_cells(notebook: NotebookNode) -> None:
    title, bootstrap, parameters = notebook.cells[:3]
    assert title.cell_type == "markdown"
    assert title.source.startswith("# ")
    assert "> **What it takes.**" in title.source
    if "Exercises" in headings(notebook):
        assert re.search(r"To read: \d+ minutes\. To run", title.source)
    assert bootstrap.source.strip() == BOOTSTRAP.format(links.repository(ROOT))
    assert set(tags(bootstrap)) == {"remove-cell", "bootstrap", UNCHECKED}
    assert parameters.source.strip() == PARAMETERS
    assert set(tags(parameters)) == {"parameters", "hide-input", UNCHECKED}


def test_a_chapter_is_summed_up_in_three_lines(notebook: NotebookNode) -> None:
    found = headings(notebook)
    if not notebook.metadata["name"][0].isdigit():
        assert "In short" not in found
        return
    assert found.index("In short") == found.index("Exercises") - 1
    (text,) = (cell.source for cell in notebook.cells if cell.source.startswith("## In short\n"))
    assert len(re.findall(r"^- ", text, re.MULTILINE)) == 3


def reading_minutes(notebook: NotebookNode) -> float:
    """At 130 words and 15 lines of unfolded code a minute."""
    words = sum(len(c.source.split()) for c in notebook.cells if c.cell_type == "markdown")
    folded = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
    shown = [cell for cell in code_cells(notebook) if not folded & set(tags(cell))]
    return words / 130 + sum(len(cell.source.splitlines()) for cell in shown) / 15


def test_the_time_to_read_is_about_right(notebook: NotebookNode) -> None:
    said = re.search(r"To read: (\d+) minutes", notebook.cells[0].source)
    assert said is None or 2 / 3 < int(said[1]) / reading_minutes(notebook) < 3 / 2


def test_only_one_cell_holds_parameters(notebook: NotebookNode) -> None:
    assert sum("parameters" in tags(cell) for cell in notebook.cells) == 1


def test_cells_are_short(notebook: NotebookNode) -> None:
    lengths = {cell.id: len(cell.source.splitlines()) for cell in code_cells(notebook)}
    assert {name: lines for name, lines in lengths.items() if lines > 20} == {}


def test_cells_that_check_the_text_say_so_and_are_not_printed(notebook: NotebookNode) -> None:
    for cell in code_cells(notebook):
        shown = cell.metadata.get("mystnb", {}).get("code_prompt_show")
        if "hide-cell" in tags(cell):
            assert shown in ("Show the computation", "Show the checks of the text"), cell.id
        assert ("no-print" in tags(cell)) == (shown == "Show the checks of the text"), cell.id


def test_figures_have_alternative_text(notebook: NotebookNode) -> None:
    assert figures_without_alt(notebook) == []
    assert pages.page_errors(notebook) == []


def test_a_figure_without_alternative_text_is_caught() -> None:
    cell = nbformat.v4.new_code_cell("figures.plot_volumes(table)")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert len(figures_without_alt(notebook)) == 1
    cell.metadata["mystnb"] = {"image": {"alt": "A histogram of the lesion volumes."}}
    assert figures_without_alt(notebook) == []


def test_no_stored_error(notebook: NotebookNode) -> None:
    kinds = [output.output_type for cell in code_cells(notebook) for output in cell.outputs]
    assert "error" not in kinds


def test_no_machine_specific_path() -> None:
    written = [path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.[im][pd]*")]
    assert len(written) > 10
    for text in (*written, *reference.pages().values()):
        assert MACHINE_PATH.findall(text) == []


def test_chapters_end_with_exercises_and_a_link_to_the_next(notebook: NotebookNode) -> None:
    if not notebook.metadata["name"][0].isdigit():
        return
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    _, exercises = text.split("\n## Exercises", maxsplit=1)
    assert exercises.count("<details><summary>Solution") >= 3
    order = [Path(page).name for page in pages.contents(ROOT)]
    following = order[order.index(notebook.metadata["name"]) + 1]
    assert re.search(rf"\]\({following}(\.\w+)?\)", exercises), f"no link to {following}"


def test_each_page_links_the_terms_that_it_uses_to_the_glossary(notebook: NotebookNode) -> None:
    anchors = markup.glossary_terms(ROOT)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    prose = NO_PROSE.sub("", text)
    terms = {term for term in anchors.values() if "," not in term} - EVERYDAY
    assert {"voxel", "cross entropy", "U-Net"} <= terms
    used = {term for term in terms if re.search(rf"(?<![\w-]){term}(?![\w-])", prose)}
    targets = set(re.findall(r"\]\(glossary\.md#([^)]*)\)", text))
    assert targets <= set(anchors)
    assert used <= {anchors[target] for target in targets}


def test_chapters_read_well_where_only_plain_markdown_is_shown(notebook: NotebookNode) -> None:
    """GitHub, Jupyter and Colab show MyST's roles and directives as they are typed."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert re.findall(r"\{\w+\}`|^:::", text, re.MULTILINE) == []
    page = markup.to_myst(text, markup.glossary_terms(ROOT))
    assert re.findall(r"\[@|glossary\.md#|\]\(#fig-|</?details", page) == []  # none was overlooked


def test_plain_markdown_becomes_roles_and_directives() -> None:
    terms = {"voxel": "voxel", "lesion-mask": "lesion mask"}
    text = (
        "A [voxel](glossary.md#voxel) of [the\nmask](glossary.md#lesion-mask)"
        " [@liew2022; @who1984], in [the figure](#fig-mask),"
        " [a link](#heading), [none](glossary.md#no-term): 4 mm, not `4 mm`.\n"
        "<details><summary>Solution</summary>\n\nAnswer **b**.\n\n</details>"
    )
    assert markup.to_myst(text, terms) == (
        "A {term}`voxel` of {term}`the mask <lesion mask>` {cite}`liew2022,who1984`,"
        " in {numref}`fig-mask`, [a link](#heading), [none](glossary.md#no-term):"
        " 4\N{NO-BREAK SPACE}mm, not `4 mm`.\n"
        ":::{admonition} Solution\n:class: dropdown\nAnswer **b**.\n:::"
    )


def test_the_book_loads_its_own_extensions() -> None:
    """A list of extensions replaces those that Jupyter Book would add by itself."""
    sphinx = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]
    for name, folder in sphinx["local_extensions"].items():
        assert name in sphinx["config"]["extensions"]
        assert (ROOT / "_build" / "source" / folder / f"{name}.py").resolve().is_file()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_line_of_code_is_cut_off_on_the_page(name):
    for cell in nbformat.read(ROOT / name, 4).cells:
        if cell.cell_type == "code":
            assert max(map(len, cell.source.splitlines()), default=0) <= 72, cell.id
