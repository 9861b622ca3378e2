"""The file of exercises is checked where it is read."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from atlaslib.exercises.questions import close, exercises
from atlaslib.files import DataError

SOLUTION = "<details><summary>Solution</summary>\n\n"
BOOK = Path(__file__).resolve().parent.parent.parent / "book"
NUMBER = """
asks = "How many?"
answer = 2
tolerance = 0.1
right = "one and one."
hints = [{ to = 1, say = "and another one." }]
otherwise = "count."
"""
CHOICE = """
asks = "Which?"
answer = "b"
options = [{ text = "this", say = "no." }, { text = "that", say = "yes." }]
"""


def read(folder: Path, text: str) -> dict:
    path = folder / "exercises.toml"
    path.write_text(text, encoding="utf-8")
    exercises.cache_clear()
    return exercises(path)


def test_numbers_and_choices_are_read(tmp_path: Path) -> None:
    found = read(tmp_path, f'["1.1"]{NUMBER}["P.2"]{CHOICE}')
    assert list(found) == ["1.1", "P.2"]


@pytest.mark.parametrize(
    ("number", "entry", "expected"),
    [
        ("1.1", NUMBER.replace("answer = 2", 'answer = "2"'), "answer"),
        ("1.1", NUMBER.replace("otherwise", "other"), "otherwise"),
        ("1.1", NUMBER.replace("to = 1", "to = 2.05"), "2.05 is accepted"),
        ("1.1", NUMBER.replace("tolerance = 0.1", "tolerance = -1"), "tolerance"),
        ("1.1", CHOICE.replace('answer = "b"', 'answer = "c"'), "expected a letter of ab"),
        ("1.1", CHOICE.replace(', say = "no."', ""), "options.0.say"),
        ("one", NUMBER, "a number such as 2.3"),
        ("P1", NUMBER, "a number such as 2.3"),
        ("1.1", NUMBER + "answer = 3\n", "exercises.toml"),
    ],
)
def test_a_faulty_exercise_is_named_in_one_line(
    tmp_path: Path, number: str, entry: str, expected: str
) -> None:
    with pytest.raises(DataError, match=re.escape(expected)) as caught:
        read(tmp_path, f'["{number}"]{entry}')
    assert str(caught.value).startswith("exercises.toml")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        exercises(tmp_path / "nowhere.toml")


# --- the chapters -----------------------------------------------------------------------------


def cells(path: Path) -> list[nbformat.NotebookNode]:
    """The cells of a chapter from its exercises on."""
    found = nbformat.read(path, 4).cells
    start = next((k for k, cell in enumerate(found) if "## Exercises" in cell.source), len(found))
    return found[start:]


def asked(source: str) -> list[str]:
    return re.findall(r'^check\("([\w.]+)", \.\.\.\)', source, re.MULTILINE)


#: What numbers begin with on pages that are no chapters.
LETTERS = {"intro": "P", "real_heads": "H"}
PAGES = [*sorted(BOOK.glob("[01]*.ipynb")), *(BOOK / f"{name}.ipynb" for name in LETTERS)]


def test_every_exercise_is_in_exactly_one_chapter_and_the_other_way_round() -> None:
    counted = Counter(
        n for path in BOOK.glob("*.ipynb") for c in cells(path) for n in asked(c.source)
    )
    assert set(counted) == set(exercises())
    assert set(counted.values()) == {1}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_an_exercise_has_its_number_a_title_a_grade_a_form_and_a_folded_solution(
    path: Path,
) -> None:
    found = cells(path)
    chapter = LETTERS.get(path.stem) or int(path.stem[:2])
    heads = [k for k, cell in enumerate(found) if cell.source.startswith("### ")]
    assert len(heads) >= 3
    for place, k in enumerate(heads, 1):
        assert re.match(
            rf"### {chapter}\.{place} \S[^★]*\N{{NO-BREAK SPACE}}★{{1,3}}\n", found[k].source
        )
        assert asked(found[k + 1].source) == [f"{chapter}.{place}"]
        assert set(found[k + 1].metadata.tags) == {"remove-input", "nbval-ignore-output"}
        assert found[k + 2].source.startswith(SOLUTION)


def told(solution: str) -> list[float]:
    """The numbers in a solution; commas group their digits."""
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", solution)
    return [float(each) for each in re.findall(r"\d+(?:\.\d+)?", plain)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_solution_tells_the_accepted_answer(path: Path) -> None:
    found = cells(path)
    for cell, following in itertools.pairwise(found):
        for number in asked(cell.source):
            exercise, solution = exercises()[number], following.source
            if "options" in exercise:
                assert set(re.findall(r"\b[Aa]nswer ([a-h])\b", solution)) == {exercise["answer"]}
            else:
                near = [close(x, exercise["answer"], exercise["tolerance"]) for x in told(solution)]
                assert any(near), number


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_visible_cell_prints_a_solution(path: Path) -> None:
    for cell in cells(path):
        if cell.cell_type == "code" and not asked(cell.source):
            assert "hide-cell" in cell.metadata.tags
            assert cell.metadata.jupyter == {"outputs_hidden": True, "source_hidden": True}
            assert cell.metadata.mystnb.code_prompt_show == "Show the computation"
