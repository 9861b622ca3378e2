"""The rules that every chapter keeps, and that the rules catch what breaks them."""

from __future__ import annotations

import ast
import copy
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path

import links
import nbformat
import pages
import pytest
from nbformat import NotebookNode

import atlaslib

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [f"{page}.ipynb" for page in pages.notebooks(ROOT)]
UNCHECKED = "nbval-ignore-output"
PARAMETERS = """\
import os

profile = os.environ.get("ATLASLIB_PROFILE", "quick")  # smoke, quick or paper
data_dir = os.environ.get("ATLASLIB_DATA", "")  # "": the synthetic cohort, made on first use"""
BOOTSTRAP = """\
# On Colab alone: fetch the library. Elsewhere this cell does nothing.
try:
    import atlaslib
except ImportError:
    %pip install -q {}"git+https://github.com/{}\""""
# homes, temporary and working folders, and drives: what only one machine has
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|Users|tmp|work|mnt|scratch)/\w|\b[A-Z]:\\\\")


def read(name: str) -> NotebookNode:
    return nbformat.read(ROOT / name, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def loose_cells(notebook: NotebookNode) -> list[str]:
    """Code cells that nbval would neither compare nor knowingly leave alone."""
    found = []
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code":
            continue
        run, kept = cell.execution_count is not None, bool(cell.outputs)
        if UNCHECKED in tags(cell):
            if run or kept:
                found.append(f"cell {number}: tagged {UNCHECKED}, but an output is kept")
        elif not (run and kept):
            found.append(f"cell {number}: neither a reference output nor the tag {UNCHECKED}")
    return found


def shown(cell: NotebookNode) -> str:
    """The source of the expression whose value a code cell shows; "" if it shows none."""
    if cell.cell_type != "code":
        return ""
    statements = ast.parse(re.sub(r"^( *)[%!].*", r"\1pass", cell.source, flags=re.MULTILINE)).body
    last = statements[-1] if statements else None
    return ast.unparse(last) if isinstance(last, ast.Expr) else ""


def wordless_figures(notebook: NotebookNode) -> list[str]:
    """Cells that show a figure and have no alternative text worth the name."""
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


def test_the_contents_name_every_page_and_nothing_else() -> None:
    listed = pages.contents(ROOT)
    there = {
        path.relative_to(ROOT).with_suffix("").as_posix()
        for path in (ROOT / "book").iterdir()
        if path.suffix in (".ipynb", ".md")
    }
    assert set(listed) == there
    assert len(listed) == len(set(listed))


def test_every_code_cell_is_compared_or_tagged(notebook: NotebookNode) -> None:
    assert loose_cells(notebook) == []


def _run_without_output(cell: NotebookNode) -> None:
    cell.outputs = []


def _output_without_run(cell: NotebookNode) -> None:
    cell.execution_count = None


def _output_under_the_tag(cell: NotebookNode) -> None:
    cell.metadata["tags"] = [UNCHECKED]


def _never_run(cell: NotebookNode) -> None:
    cell.outputs, cell.execution_count = [], None


@pytest.mark.parametrize(
    "spoil", [_run_without_output, _output_without_run, _output_under_the_tag, _never_run]
)
def test_a_loose_cell_is_caught(spoil: Callable[[NotebookNode], None]) -> None:
    sound = read(next(name for name in NOTEBOOKS if "02_" in name))
    assert loose_cells(sound) == []
    spoilt = copy.deepcopy(sound)
    spoil(next(cell for cell in code_cells(spoilt) if cell.outputs))
    assert len(loose_cells(spoilt)) == 1


def test_chapters_check_facts(notebook: NotebookNode) -> None:
    """At least two reference outputs, for a book without any would pass nbval unchecked."""
    compared = [cell for cell in code_cells(notebook) if UNCHECKED not in tags(cell)]
    assert len(compared) >= (2 if notebook.metadata["name"][0].isdigit() else 0)


def test_notebook_is_valid(notebook: NotebookNode) -> None:
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.metadata.kernelspec.name) == (4, "python3")
    identities = [cell.id for cell in notebook.cells]
    assert len(identities) == len(set(identities))


def test_notebook_opens_as_all_do(notebook: NotebookNode) -> None:
    title, bootstrap, parameters = notebook.cells[:3]
    assert title.cell_type == "markdown"
    assert title.source.startswith("# ")
    assert "> **What it takes.**" in title.source
    searches = any("optuna" in cell.source for cell in code_cells(notebook)[2:])
    expected = BOOTSTRAP.format("optuna " if searches else "", links.repository(ROOT))
    assert bootstrap.source.strip() == expected
    assert set(tags(bootstrap)) == {"remove-cell", "bootstrap", UNCHECKED}
    assert parameters.source.strip() == PARAMETERS
    assert set(tags(parameters)) == {"parameters", "hide-input", UNCHECKED}


def test_only_one_cell_holds_parameters(notebook: NotebookNode) -> None:
    assert sum("parameters" in tags(cell) for cell in notebook.cells) == 1


def test_cells_are_short(notebook: NotebookNode) -> None:
    lengths = {cell.id: len(cell.source.splitlines()) for cell in code_cells(notebook)}
    assert {name: lines for name, lines in lengths.items() if lines > 20} == {}


def test_figures_have_alternative_text(notebook: NotebookNode) -> None:
    assert wordless_figures(notebook) == []
    assert pages.faults(notebook) == []


def test_a_wordless_figure_is_caught() -> None:
    cell = nbformat.v4.new_code_cell("figures.plot_volumes(table)")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert len(wordless_figures(notebook)) == 1
    cell.metadata["mystnb"] = {"image": {"alt": "A histogram of the lesion volumes."}}
    assert wordless_figures(notebook) == []


def test_no_stored_error(notebook: NotebookNode) -> None:
    kinds = [output.output_type for cell in code_cells(notebook) for output in cell.outputs]
    assert "error" not in kinds


@pytest.mark.parametrize("page", pages.contents(ROOT))
def test_no_path_of_a_machine(page: str) -> None:
    for path in (ROOT / "book").glob(f"{Path(page).name}.*"):
        assert MACHINE_PATH.findall(path.read_text(encoding="utf-8")) == []


def test_chapters_end_with_exercises_and_the_way_on(notebook: NotebookNode) -> None:
    if not notebook.metadata["name"][0].isdigit():
        return
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    _, exercises = text.split("\n## Exercises", maxsplit=1)
    assert exercises.count(":class: dropdown") >= 3
    order = [Path(page).name for page in pages.contents(ROOT)]
    following = order[order.index(notebook.metadata["name"]) + 1]
    assert re.search(rf"\]\({following}(\.\w+)?\)", exercises), f"no link to {following}"


def test_every_module_is_in_the_reference() -> None:
    """A module that the API page leaves out would also break links in docstrings."""
    text = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    modules = [m.name for m in pkgutil.walk_packages(atlaslib.__path__, "atlaslib.")]
    private = ("atlaslib.__main__",)
    missing = [m for m in modules if m not in private and f"automodule:: {m}\n" not in text]
    assert missing == []


def test_every_public_name_is_in_the_reference() -> None:
    text = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"auto\w+:: atlaslib\.(\w+)\n", text))
    unlisted = [name for name in atlaslib.__all__ if name not in documented]
    assert unlisted == []
