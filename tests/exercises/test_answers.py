"""What `check` says to right answers, wrong ones, and things that are no answers."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch

from atlaslib.exercises import answers, check
from atlaslib.exercises.answers import NO_CHOICE, NO_NUMBER, NOT_A_NUMBER, readings
from atlaslib.exercises.questions import exercises


@pytest.mark.parametrize("answer", [73856, 73856.0, np.int64(73856), torch.tensor(73856), "73 856"])
def test_a_right_number_is_accepted_in_any_type(answer: object) -> None:
    said = check("2.1", answer)
    assert said.right
    assert repr(said).startswith("Right: 128 filters")


def test_a_known_mistake_gets_its_hint_and_any_other_the_general_one() -> None:
    assert repr(check("2.1", 147584)).startswith("Not yet: this is the full convolution")
    assert repr(check("2.1", 5)).startswith("Not yet: there are 128 filters")
    assert not check("2.1", 147584).right


def test_the_tolerance_is_kept() -> None:
    assert check("2.4", 0.745).right
    assert not check("2.4", 0.744).right


@pytest.mark.parametrize(("answer", "right"), [("c", True), (" C ", True), ("a", False)])
def test_a_choice_is_a_letter(answer: str, right: bool) -> None:
    assert check("1.1", answer).right is right


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0.5", [0.5]),
        ("0,5", [0.5]),
        (",5", [0.5]),
        ("51 %", [51, 0.51]),
        ("86.7%", [86.7, 0.867]),
        ("5e-4", [0.0005]),
        ("-3", [-3]),
        ("\N{MINUS SIGN}3", [-3]),
        ("\N{MINUS SIGN}5e\N{MINUS SIGN}4", [-0.0005]),
        ("\N{ZERO WIDTH NO-BREAK SPACE}1560", [1560]),
        ("73 856", [73856]),
        ("73\N{NARROW NO-BREAK SPACE}856", [73856]),
        ("1,560", [1.56, 1560]),
        ("1.234.567", [1234567]),
        ("0,667", [0.667]),
        ("two", []),
        ("1/2", []),
        ("1 2", []),
        ("nan", []),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, numbers: list[float]) -> None:
    assert readings(text) == pytest.approx(numbers)


def test_a_hint_is_for_numbers_near_its_own() -> None:
    assert check("6.2", "51%").right
    assert "the share itself" in check("6.2", 0.51).text
    assert "the share itself" not in check("6.2", 0.49).text
    assert "best constant" not in check("2.3", 0.5).text


def test_no_answer_is_asked_for_again() -> None:
    assert check("2.1", " ").text == NO_NUMBER
    assert check("2.1", "many").text == NOT_A_NUMBER
    assert check("1.1", "").text == NO_CHOICE


@pytest.mark.parametrize(
    ("number", "answer", "expected"),
    [
        ("2.1", [73856], "exercise 2.1 takes a number, got list"),
        ("2.1", None, "exercise 2.1 takes a number, got NoneType"),
        ("2.1", True, "exercise 2.1 takes a number, got bool"),
        ("2.1", np.array([1, 2]), "exercise 2.1 takes one finite number, got array"),
        ("2.1", float("nan"), "exercise 2.1 takes one finite number, got nan"),
        ("1.1", 3, "exercise 1.1 takes one of the letters a, b, c, d, got int"),
        ("1.1", "e", "exercise 1.1 takes one of the letters a, b, c, d, got 'e'"),
        ("1.1", "ab", "exercise 1.1 takes one of the letters a, b, c, d, got 'ab'"),
    ],
)
def test_a_wrong_type_gives_one_clear_line(number: str, answer: object, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        check(number, answer)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_an_unknown_exercise_lists_those_there_are() -> None:
    with pytest.raises(ValueError) as caught:
        check("2.9", 1)
    assert str(caught.value) == (f"no exercise 2.9; there are {', '.join(exercises())}")


def test_the_example_prints_what_it_shows() -> None:
    assert doctest.testmod(answers) == doctest.TestResults(failed=0, attempted=1)
