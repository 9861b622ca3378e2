"""The form says in a browser what `check` says in a notebook; played in a headless Chromium."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atlaslib.exercises import check
from atlaslib.exercises.answers import NO_CHOICE, NO_NUMBER, NOT_A_NUMBER
from atlaslib.exercises.form import form
from atlaslib.exercises.questions import exercises, letters


@contextlib.contextmanager
def opened(browser: Any, folder: Path, *numbers: str) -> Iterator[Any]:
    """A page with the forms of some exercises, without a network."""
    path = folder / "page.html"
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
    head += 'content="width=device-width"><title>Exercises</title>'
    path.write_text(head + "".join(check(each).html for each in numbers), encoding="utf-8")
    page, errors = browser.new_page(), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    yield page
    assert errors == []
    page.close()


def test_a_number_by_mouse_and_by_keyboard(browser: Any, tmp_path: Path) -> None:
    with opened(browser, tmp_path, "2.2") as page:
        field, said = page.get_by_label("Dice for the square of 3 × 3"), page.get_by_role("status")
        button = page.get_by_role("form", name="Exercise 2.2").get_by_role("button", name="Check")
        button.click()
        assert said.inner_text() == NO_NUMBER
        field.fill("many")
        button.click()
        assert said.inner_text() == NOT_A_NUMBER
        field.fill("0.5")
        button.click()
        assert said.inner_text() == check("2.2", 0.5).text
        page.keyboard.press("Shift+Tab")  # back to the field, whose text is then selected
        page.keyboard.type("0,667")
        assert said.inner_text() == ""  # the hint was to another answer
        page.keyboard.press("Enter")
        assert said.inner_text() == check("2.2", 0.667).text
        assert said.inner_text().startswith("Right: ")


def test_a_choice_by_mouse_and_by_keyboard(browser: Any, tmp_path: Path) -> None:
    with opened(browser, tmp_path, "1.1") as page:
        said = page.get_by_role("status")
        assert page.get_by_role("group", name="Where does the voxel").count() == 1
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert said.inner_text() == NO_CHOICE
        page.get_by_label("a) in the left hemisphere").check()
        page.get_by_role("button", name="Check").click()
        assert said.inner_text() == check("1.1", "a").text
        page.get_by_label("a) in the left hemisphere").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        assert said.inner_text() == ""
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        assert said.inner_text() == check("1.1", "c").text


ODD = ["1,560", "1.234.567", "73 856", "51 %", "5e-4", ",5", "1e3", "1 2", "-12345", " 7 ", "1/2"]
# enters each answer in an exercise's form; what the form says to each
PLAY = """([number, answers]) => answers.map((answer) => {
  const form = document.querySelector(`form[aria-label="Exercise ${number}"]`);
  form.elements.answer.value = answer;
  form.requestSubmit();
  return form.querySelector("output").textContent;
})"""


def test_the_page_says_what_check_says(browser: Any, tmp_path: Path) -> None:
    """To every accepted answer, every hint and odd ways to write a number."""
    with opened(browser, tmp_path, *exercises()) as page:
        for number, exercise in exercises().items():
            if "options" in exercise:
                answers = list(letters(exercise))
            else:
                known = [exercise["answer"], *(hint["to"] for hint in exercise["hints"])]
                answers = [f"{each:.12g}" for each in known]
                answers += [each.replace(".", ",") for each in answers]
                answers += [f"{exercise['answer']:,}", *ODD]
            said = page.evaluate(PLAY, [number, answers])
            assert said == [check(number, answer).text for answer in answers]


def test_forms_fit_a_phone_and_two_of_one_exercise_do_not_disturb_each_other(
    browser: Any, tmp_path: Path
) -> None:
    with opened(browser, tmp_path, "2.1", "2.1", "3.4", "4.4") as page:
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_role("textbox").nth(1).fill("73856")
        page.get_by_role("button").nth(1).click()
        assert [text[:6] for text in page.get_by_role("status").all_inner_texts()][:2] == [
            "",
            "Right:",
        ]


def test_print_shows_the_question_without_the_button(browser: Any, tmp_path: Path) -> None:
    with opened(browser, tmp_path, "1.1") as page:
        assert page.locator("button").is_visible()
        page.emulate_media(media="print")
        assert page.get_by_text("in row 132").count() == 2
        assert not page.locator("button").is_visible()


def test_text_of_an_exercise_is_never_markup() -> None:
    option = {"text": "<b>a</b>", "say": "</script><b>"}
    html = form("1.1", {"asks": "a < b?", "answer": "a", "options": [option]}, {}).html
    assert "<b>" not in html
    assert html.count("</script>") == 2  # of the form's own script and of its settings
    assert "a &lt; b?" in html
