"""From executed chapters to HTML pages that load nothing from other hosts."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import markup
import nbformat
import yaml
from nbformat import NotebookNode

WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURES = {"image/png", "image/jpeg", "image/svg+xml"}
REMOTE = re.compile(
    r"<(?:script|img|iframe)\b[^>]*\bsrc=\"(https?://[^\"]+)\""
    r"|<link\b[^>]*\brel=\"(?:stylesheet|preload|icon)\"[^>]*\bhref=\"(https?://[^\"]+)\""
)

# two thirds of what the theme would load on every page: icons, which its fonts draw as well, and
# the index of a search while typing, which is off; the search page brings its own
UNUSED = re.compile(
    r"<script\b[^>]*\bsrc=\"[^\"]*/?(?:scripts/fontawesome|searchtools|language_data|searchindex)"
    r"\.js[^\"]*\"></script>\n?"
)

# what a demonstration (atlaslib.figures.browser) brings along: name, whether it can wait, text
SCRIPT = re.compile(r'<script data-file="([\w.-]+)"( data-later)?>\n(.*?)</script>\n?', re.DOTALL)


def contents(root: Path) -> list[str]:
    """The pages of ``_toc.yml`` in order, as paths without suffix (``book/01_dataset``)."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    entries = [*toc.get("chapters", [])]
    for part in toc.get("parts", []):
        entries += part["chapters"]
    found = [toc["root"]]
    for entry in entries:
        found += [entry["file"], *(section["file"] for section in entry.get("sections", []))]
    return found


def notebooks(root: Path) -> list[str]:
    """The pages that are executed; the preface last, because it sums up the others' results."""
    first, *rest = contents(root)
    return [page for page in [*rest, first] if (root / f"{page}.ipynb").is_file()]


def executed(root: Path, page: str) -> Path:
    """Where papermill writes an executed chapter."""
    return root / "_build" / "executed" / f"{Path(page).name}.ipynb"


def page_errors(notebook: NotebookNode) -> list[str]:
    """Problems that no page may have: pictures without alternative text."""
    found = []
    for number, cell in enumerate(notebook.cells, 1):
        kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        hidden = {"remove-cell", "remove-output"} & set(cell.metadata.get("tags", []))
        if kinds & PICTURES and not alt.strip() and not hidden:
            found.append(f"cell {number}: a picture without alternative text")
    return found


def printed_warnings(notebook: NotebookNode) -> list[str]:
    """Warnings that a chapter printed: left out of its page, reported during the build."""
    return [
        f"cell {number}: {line.strip()}"
        for number, cell in enumerate(notebook.cells, 1)
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
        for line in output.text.splitlines()
        if "Warning" in line
    ]


def prepare_page(notebook: NotebookNode, error: str, origin: str) -> NotebookNode:
    """Prepare an executed chapter for rendering: drop execution metadata, add its origin.

    Parameters
    ----------
    notebook : NotebookNode
        As papermill wrote it; changed in place.
    error : str
        Why the chapter failed, shown below its title; "" if it did not.
    origin : str
        Data, profile and versions that made the page.
    """
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)  # without a kernel they look interactive but do nothing
    kept = []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags or any(tag.startswith("papermill-error") for tag in tags):
            continue
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if WIDGET not in out.get("data", {})]
        kept.append(cell)
    notebook.cells = kept
    if error:
        text = f":::{{error}}\nThis chapter failed in its last run:\n```text\n{error}\n```\n:::"
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(text, id="failed"))
    foot = nbformat.v4.new_markdown_cell(f":::{{div}} provenance\n{origin}\n:::", id="origin")
    notebook.cells.append(foot)
    return notebook


def share_scripts(notebook: NotebookNode, page: str) -> dict[str, str]:
    """Move the scripts that demonstrations bring along to files that all pages share.

    A script that can wait, such as a network's weights, is loaded by the others when it is needed.

    Parameters
    ----------
    notebook : NotebookNode
        Changed in place.
    page : str
        Its path without suffix.

    Returns
    -------
    dict
        The files' texts by their names.
    """
    files: dict[str, str] = {}
    static = "../" * page.count("/") + "_static/"

    def moved(found: re.Match[str]) -> str:
        name, later, text = found.groups()
        files[name] = text
        return "" if later else f'<script src="{static}{name}"></script>\n'

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                output.data["text/html"] = SCRIPT.sub(moved, output.data["text/html"])
    return files


def stage(root: Path, notes: dict[str, tuple[str, str]]) -> None:
    """Write to ``_build/source`` all that is rendered, and nothing else.

    A file with unchanged content is not touched, so that its page is not rendered again.
    `notes` maps each executed page to its error and its origin.
    """
    wanted = {name: (root / name).read_bytes() for name in ("_config.yml", "_toc.yml")}
    for path in (root / "book").rglob("*"):
        if path.is_file() and (path.suffix in (".md", ".bib") or path.parent.name == "_static"):
            wanted[path.relative_to(root).as_posix()] = path.read_bytes()
    for path in (root / "data" / "results").glob("*.md"):  # a page includes it
        wanted[path.relative_to(root).as_posix()] = path.read_bytes()
    if any(page.startswith("book/api/") for page in contents(root)):
        import reference  # only here, for it imports the library

        wanted |= {f"{page}.rst": text.encode() for page, text in reference.pages().items()}
    terms = markup.glossary_terms(root)
    for page, (error, origin) in notes.items():
        notebook = nbformat.read(executed(root, page), as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = markup.to_myst(cell.source, terms)
        for name, text in share_scripts(notebook, page).items():
            wanted[f"book/_static/{name}"] = text.encode()
        text = nbformat.writes(prepare_page(notebook, error, origin))
        wanted[f"{page}.ipynb"] = text.encode()
    source = root / "_build" / "source"
    for path in [path for path in source.rglob("*") if path.is_file()]:
        if path.relative_to(source).as_posix() not in wanted:
            path.unlink()
    for name, content in wanted.items():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_file() or target.read_bytes() != content:
            target.write_bytes(content)


def render(root: Path) -> bool:
    """Render ``_build/source`` to ``_build/html``; True if there was no warning or error."""
    html, doctrees = root / "_build" / "html", root / "_build" / ".doctrees"
    listed = root / "_build" / "pages.json"
    static = sorted((root / "_build" / "source" / "book" / "_static").glob("*"))
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in static}
    before = json.loads(listed.read_text()) if listed.is_file() else None
    if before != {"pages": contents(root), "static": files}:
        # what left the book must not linger, and static files are copied only along with pages
        shutil.rmtree(html, ignore_errors=True)
        shutil.rmtree(doctrees, ignore_errors=True)
        listed.write_text(json.dumps({"pages": contents(root), "static": files}))
    glossary = root / "_build" / "source" / "book" / "glossary.md"
    if glossary.is_file():
        os.utime(glossary)  # Sphinx's search loses its terms unless the page is written again
    program = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    options = ["--path-output", ".", "-n", "-W", "--keep-going", "-q"]
    code = subprocess.run([*program, "build", "_build/source", *options], cwd=root).returncode
    copy_mathjax(html)
    if code:
        # unchanged pages are not read again: their warnings would be missing from the next build
        shutil.rmtree(doctrees, ignore_errors=True)
        return False
    drop_unused(html)
    lines = [*remote_loads(html), *machine_paths(html, root)]
    for line in lines:
        print(line)
    return not lines


def drop_unused(html: Path) -> None:
    """Remove from the pages the scripts of the theme that none of them uses."""
    for path in html.glob("**/*.html"):
        text = path.read_text(encoding="utf-8")
        kept = text if path.name == "search.html" else UNUSED.sub("", text)
        if kept != text:
            path.write_text(kept, encoding="utf-8")


def copy_mathjax(html: Path) -> None:
    """Copy MathJax beside the pages; in ``book/_static`` all its files would be loaded."""
    spec = find_spec("jupyter_server_mathjax")
    if spec is None or spec.origin is None:
        raise SystemExit("jupyter-server-mathjax is missing: install the [book] extra")
    target = html / "_static" / "mathjax"
    if not (target / "MathJax.js").is_file():
        shutil.copytree(Path(spec.origin).parent / "static", target, dirs_exist_ok=True)


def remote_loads(html: Path) -> list[str]:
    """What the pages load from other hosts; must be empty for the book to work offline."""
    lines = []
    for path in sorted(html.glob("**/*.html")):
        for pair in REMOTE.findall(path.read_text(encoding="utf-8")):
            lines.append(f"{os.path.relpath(path, html)} loads {''.join(pair)}")
    return lines


def machine_paths(html: Path, root: Path) -> list[str]:
    """Pages that name this machine's folder of the project: none may."""
    lines = []
    for path in sorted(html.glob("**/*.html")):
        text = path.read_text(encoding="utf-8")
        shown = re.sub("<[^>]*>", "", text)  # Sphinx marks up each word of a path with spaces
        if any(str(root) in each or quote(str(root)) in each for each in (text, shown)):
            lines.append(f"{os.path.relpath(path, html)} names {root}")
    return lines
