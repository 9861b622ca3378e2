"""The builder: what is rerun, what is kept, how failures are reported. No page is rendered."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from types import SimpleNamespace

import build
import nbformat
import pages
import pytest
from IPython.core.inputtransformer2 import TransformerManager

TOC = {"root": "book/intro", "parts": [{"chapters": [{"file": "book/a"}, {"file": "book/text"}]}]}


def write(root: Path, page: str, *sources: str) -> None:
    """A chapter with a title, the parameter cell, and one cell for each source."""
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell("profile = ''")]
    cells[1].metadata["tags"] = ["parameters"]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, root / f"{page}.ipynb")


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project in a folder whose name has a space and braces."""
    root = tmp_path / "a {b} c"
    for folder in ("book", "atlaslib"):
        (root / folder).mkdir(parents=True)
    (root / "_toc.yml").write_text(json.dumps(TOC))
    (root / "_config.yml").write_text("title: x\n")
    (root / "book" / "text.md").write_text("# Text\n")
    (root / "atlaslib" / "module.py").write_text("x = 1\n")
    write(root, "book/a", "print(profile)")
    write(root, "book/intro", "1 + 1")
    monkeypatch.chdir(root)
    monkeypatch.setattr(build, "AT_ONCE", 1)  # in this process, whose prints can be read
    return root


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pages that would have run; nothing is executed, to save time."""
    pages_run: list[str] = []

    def fake_execute(
        root: Path, page: str, parameters: dict[str, str], watch: build.Progress
    ) -> str:
        target = pages.executed(root, page)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((root / f"{page}.ipynb").read_bytes())
        pages_run.append(page)
        return ""

    monkeypatch.setattr(build, "execute", fake_execute)
    return pages_run


def test_the_preface_runs_last(book: Path) -> None:
    assert pages.contents(book) == ["book/intro", "book/a", "book/text"]
    assert pages.notebooks(book) == ["book/a", "book/intro"]


def test_unchanged_chapters_are_kept(book: Path, runs: list[str]) -> None:
    build.run_all(book, "smoke", "")
    again = build.run_all(book, "smoke", "")
    assert runs == ["book/a", "book/intro"]
    assert all(outcome.kept for outcome in again.values())


def test_only_a_changed_chapter_is_rerun(book: Path, runs: list[str]) -> None:
    build.run_all(book, "smoke", "")
    write(book, "book/a", "print(2)")
    build.run_all(book, "smoke", "")
    assert runs == ["book/a", "book/intro", "book/a"]


@pytest.mark.parametrize(
    "change", ["library", "hints", "profile", "data", "results", "output lost"]
)
def test_what_else_causes_a_rerun(book: Path, runs: list[str], change: str, tmp_path: Path) -> None:
    build.run_all(book, "smoke", "")
    profile, data = "smoke", ""
    if change == "library":
        (book / "atlaslib" / "module.py").write_text("x = 2\n")
    elif change == "hints":
        (book / "atlaslib" / "exercises.toml").write_text("tolerance = 1\n")
    elif change == "profile":
        profile = "quick"
    elif change == "data":
        data = str(tmp_path)
    elif change == "results":
        (book / "data" / "results").mkdir(parents=True)
        (book / "data" / "results" / "table.csv").write_text("a\n1\n")
    else:
        pages.executed(book, "book/a").unlink()
    build.run_all(book, profile, data)
    assert runs[2:] == (["book/a"] if change == "output lost" else ["book/a", "book/intro"])


def test_a_changed_data_file_changes_the_digest(book: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "scan.nii").write_bytes(b"1")
    before = build.shared_digest(book, "smoke", str(data))
    os.utime(data / "scan.nii", ns=(1, 1))
    assert build.shared_digest(book, "smoke", str(data)) != before


def test_a_failure_is_reported_and_the_rest_runs(
    book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs two kernels. The failed chapter is not kept, and its page says that it failed."""
    write(book, "book/a", "print(profile)", "1 / 0", "print('never')")
    outcomes = build.run_all(book, "smoke", "")
    assert outcomes["book/a"].error == "cell 4 (In [4]): ZeroDivisionError: division by zero"
    assert outcomes["book/intro"].error == ""
    assert "book/a.ipynb, cell 4 (In [4]): ZeroDivisionError" in capsys.readouterr().out
    known = json.loads((book / "_build" / "manifest.json").read_text())
    assert known["book/a"]["error"] != ""
    pages.stage(book, {page: (outcome.error, "origin") for page, outcome in outcomes.items()})
    page = nbformat.read(book / "_build" / "source" / "book" / "a.ipynb", as_version=4)
    assert ":::{error}\nThis chapter failed in its last run" in page.cells[1].source
    assert "injected-parameters" not in str(page)
    assert str(book) not in str(page)
    assert "papermill" not in str(page.metadata)
    printed = [out.text for cell in page.cells for out in cell.get("outputs", []) if "text" in out]
    assert printed == ["smoke\n"]


def test_chapters_run_beside_each_other(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits until the other has begun, which it never would if they ran in turn."""
    monkeypatch.setattr(build, "AT_ONCE", 2)
    meet = "import os, pathlib, time\npathlib.Path(f'{me}').touch()\nfor _ in range(600):\n"
    meet += "    if pathlib.Path(f'{other}').exists(): break\n    time.sleep(0.1)\nelse: 1 / 0\n"
    write(book, "book/a", "me, other = 'one', 'two'", meet, "print(os.cpu_count())")
    write(book, "book/b", "me, other = 'two', 'one'", meet)
    chapters = [{"file": "book/a"}, {"file": "book/b"}]
    (book / "_toc.yml").write_text(json.dumps(TOC | {"parts": [{"chapters": chapters}]}))
    outcomes = build.run_all(book, "smoke", "")
    assert [outcome.error for outcome in outcomes.values()] == ["", "", ""]
    known = json.loads((book / "_build" / "manifest.json").read_text())
    assert set(known) == {"book/a", "book/b", "book/intro"}


def test_chapters_that_may_train_the_same_run_in_turn(
    book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a training that they read failed; each fails if the other is running."""
    monkeypatch.setattr(build, "AT_ONCE", 2)
    alone = "import os, time\nos.mkdir('busy')\ntime.sleep(2)\nos.rmdir('busy')"
    write(book, "book/02_baseline", "1 / 0")
    for page in ("book/05_results", "book/06_paper_and_code", "book/intro"):
        write(book, page, alone)
    chapters = [{"file": f"book/{n}"} for n in ("02_baseline", "05_results", "06_paper_and_code")]
    (book / "_toc.yml").write_text(json.dumps(TOC | {"parts": [{"chapters": chapters}]}))
    failed, *others = build.run_all(book, "smoke", "").values()
    assert "ZeroDivisionError" in failed.error
    assert [outcome.error for outcome in others] == ["", "", ""]


def test_chapters_wait_for_the_trainings_that_they_read() -> None:
    chapters = pages.notebooks(build.ROOT)
    shared = {page for page in chapters if trains_for_others(build.ROOT / f"{page}.ipynb")}
    assert shared == {*build.TRAIN, *build.READ}
    order = [page for _, groups in build.phases(chapters) for group in groups for page in group]
    assert sorted(order) == sorted(chapters)
    assert order[0] == "book/01_dataset"  # makes the data
    assert order[-len(build.READ) :] == list(build.READ)


def trains_for_others(chapter: Path) -> bool:
    """Whether it trains in the library's folder of runs, where others find them."""
    cells = nbformat.read(chapter, as_version=4).cells
    plain = TransformerManager().transform_cell  # without "%pip"
    trees = [ast.parse(plain(cell.source)) for cell in cells if cell.cell_type == "code"]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    trainings = [call for call in calls if ast.unparse(call.func) == "atlaslib.train"]
    return any("out" not in [k.arg for k in call.keywords] for call in trainings)


def test_a_dead_kernel_is_a_failure(book: Path) -> None:
    write(book, "book/a", "import os", "os._exit(1)")
    error = build.execute(book, "book/a", {"profile": "smoke"}, build.Progress("a"))
    assert error.startswith("stopped by DeadKernelError")


def test_a_picture_needs_alternative_text() -> None:
    output = nbformat.v4.new_output("display_data", data={"image/png": "iVBOR"})
    cell = nbformat.v4.new_code_cell("draw()", outputs=[output])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert pages.page_errors(notebook) == ["cell 1: a picture without alternative text"]
    cell.metadata["mystnb"] = {"image": {"alt": "A slice."}}
    assert pages.page_errors(notebook) == []


def test_warnings_are_reported() -> None:
    bar = nbformat.v4.new_output("stream", name="stderr", text="\r 10%|#   | 1/10")
    warning = nbformat.v4.new_output("stream", name="stderr", text="x.py:3: UserWarning: odd\n")
    cell = nbformat.v4.new_code_cell("go()", outputs=[bar, warning])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert pages.printed_warnings(notebook) == ["cell 1: x.py:3: UserWarning: odd"]


def test_staging_touches_only_what_changed(book: Path, runs: list[str]) -> None:
    notes = dict.fromkeys(build.run_all(book, "smoke", ""), ("", "origin"))
    pages.stage(book, notes)
    source = book / "_build" / "source"
    os.utime(source / "book" / "a.ipynb", ns=(1, 1))
    (source / "book" / "left.md").write_text("a page that left the book")
    pages.stage(book, notes)
    assert (source / "book" / "a.ipynb").stat().st_mtime_ns == 1
    assert not (source / "book" / "left.md").exists()


def test_pages_that_load_from_other_hosts_are_listed(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        '<a href="https://example.org">a link is fine</a>'
        '<script async src="https://example.org/x.js"></script>'
        '<link rel="stylesheet" href="https://example.org/x.css"/><script src="_static/y.js">'
    )
    assert pages.remote_loads(tmp_path) == [
        "page.html loads https://example.org/x.js",
        "page.html loads https://example.org/x.css",
    ]


def test_pages_that_name_the_machines_folder_are_listed(tmp_path: Path) -> None:
    (tmp_path / "sound.html").write_text("data/results")
    (tmp_path / "page.html").write_text(f"folder = '{tmp_path}/data'")
    assert pages.machine_paths(tmp_path, tmp_path) == [f"page.html names {tmp_path}"]
    (tmp_path / "page.html").write_text("<a href='file:///my%20folder/x'></a>")
    assert pages.machine_paths(tmp_path, Path("/my folder")) == ["page.html names /my folder"]
    (tmp_path / "page.html").write_text("<i>'/my</i> <i>folder/data'</i>")
    assert pages.machine_paths(tmp_path, Path("/my folder")) == ["page.html names /my folder"]


def test_the_foot_of_a_page_says_what_it_was_made_from() -> None:
    assert build.provenance("quick", "").startswith("Computed from the synthetic cohort at the")
    stored = build.provenance("quick", "", opens_cohort=False)
    assert stored.startswith("Made from results that come with the book by atlaslib")


def test_a_wrong_data_folder_gives_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        build.checked_data(str(tmp_path / "nowhere"))
    assert "nowhere: no such folder" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "broken", ["<<<<<<< HEAD\n{", "", "[]", '{"nbformat": 4, "metadata": {}, "cells": [{}]}']
)
def test_a_chapter_that_is_no_notebook_is_named_in_one_line(book: Path, broken: str) -> None:
    (book / "book" / "a.ipynb").write_text(broken)
    with pytest.raises(SystemExit) as stopped:
        build.build(book, "smoke", "")
    assert str(stopped.value).startswith("book/a.ipynb is not a valid notebook: ")
    assert "\n" not in str(stopped.value)


def test_pages_share_the_scripts_of_demonstrations() -> None:
    """A script that can wait is not in any page."""
    text = (
        '<div>a</div>\n<script data-file="now.js">\nlet a = "<b>";\n</script>\n'
        '<script data-file="weights.js" data-later>\nlet w = 1;\n</script>\n<script>go()</script>\n'
    )
    output = nbformat.v4.new_output("display_data", {"text/html": text})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output])])
    files = pages.share_scripts(notebook, "book/a")
    assert files == {"now.js": 'let a = "<b>";\n', "weights.js": "let w = 1;\n"}
    assert output.data["text/html"] == (
        '<div>a</div>\n<script src="../_static/now.js"></script>\n<script>go()</script>\n'
    )


def test_another_static_file_alone_renders_the_book_again(tmp_path, monkeypatch):
    """Sphinx would not copy it."""
    static = tmp_path / "_build" / "source" / "book" / "_static"
    static.mkdir(parents=True)
    monkeypatch.setattr(pages, "contents", lambda root: ["book/intro"])
    monkeypatch.setattr(pages, "copy_mathjax", lambda html: None)
    monkeypatch.setattr(pages.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
    marker = tmp_path / "_build" / "html" / "old"
    kept = []
    for colour in ("red", "red", "blue"):
        (static / "book.css").write_text(f"p {{ color: {colour} }}")
        pages.render(tmp_path)
        kept.append(marker.exists())
        marker.parent.mkdir(exist_ok=True)
        marker.touch()
    assert kept == [False, True, False]
