"""Checks an answer: the same rules and words as ``form.js``, which checks it on the page."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from types import EllipsisType
from typing import SupportsFloat

from atlaslib.exercises.form import Form, form
from atlaslib.exercises.questions import Exercise, MultipleChoice, Number, close, exercises, letters

RIGHT, WRONG = "Right: ", "Not yet: "
# what both say to an answer that is none
NO_NUMBER = "Type a number first, such as 12, 0.5 or 0,5."
NOT_A_NUMBER = "This is not a number. Write it like 12, 0.5, 0,5 or 5e-4, not as a fraction."
NO_CHOICE = "Choose one of the answers first."
WORDS = {
    "right": RIGHT, "wrong": WRONG,
    "noNumber": NO_NUMBER, "notANumber": NOT_A_NUMBER, "noChoice": NO_CHOICE,
}  # fmt: skip

# 1,560 may be meant as one thousand five hundred and sixty
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:[,. ']\d{3})+", re.ASCII)


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and why, or a hint; shows itself as its text."""

    right: bool
    text: str

    def __repr__(self) -> str:
        return self.text


def check(number: str | float, answer: str | SupportsFloat | EllipsisType = ...) -> Verdict | Form:
    """Check the answer to an exercise.

    Parameters
    ----------
    number : str
        Chapter and exercise, such as "2.3".
    answer : number or str, default: ...
        A number, or the letter of an answer to choose. ``...`` stands for no answer yet.

    Returns
    -------
    Verdict or Form
        Without an answer a form, which checks what is entered in it by itself.

    Raises
    ------
    ValueError
        If there is no such exercise, or its answer is of another type.

    Examples
    --------
    >>> check("3.3", 64)
    Not yet: these are the weights. A convolution also has a bias.
    """
    known = exercises()
    if str(number) not in known:
        raise ValueError(f"no exercise {number!s}; there are {', '.join(known)}")
    exercise = known[str(number)]
    if isinstance(answer, EllipsisType):
        return form(str(number), exercise, WORDS)
    return verdict(str(number), exercise, answer)


def verdict(number: str, exercise: Exercise, answer: object) -> Verdict:
    """What is said to an answer."""
    if "options" in exercise:
        return _verdict_on_choice(number, exercise, answer)
    return _verdict_on_number(number, exercise, answer)


def readings(text: str) -> list[float]:
    """The numbers that a text can mean: "0,5" is one half, "1,560" is 1.56 or 1560, "5 %" 5 or .05.

    Returns
    -------
    list
        Empty if it is not a number.
    """
    plain = re.sub(r"[\s\ufeff]+", " ", text).strip().replace("\N{MINUS SIGN}", "-")
    plain, in_per_cent = re.subn(r" ?%$", "", plain)
    found = []
    if re.fullmatch(r"[+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:e[+-]?\d+)?", plain, re.IGNORECASE | re.ASCII):
        found.append(float(plain.replace(",", ".")))
    if re.fullmatch(GROUPED, plain):
        found.append(float(re.sub(r"[,. ']", "", plain)))
    return found + [value / 100 for value in found] if in_per_cent else found


def _verdict_on_number(number: str, exercise: Number, answer: object) -> Verdict:
    if isinstance(answer, str):
        if not answer.strip():
            return Verdict(False, NO_NUMBER)
        values = readings(answer)
        if not values:
            return Verdict(False, NOT_A_NUMBER)
    elif isinstance(answer, SupportsFloat) and not isinstance(answer, bool):
        values = [_as_float(number, answer)]
    else:
        raise ValueError(f"exercise {number} takes a number, got {type(answer).__name__}")

    def any_is(target: float) -> bool:
        # as near as to the answer, or in proportion to a smaller number
        share = min(1.0, abs(target / exercise["answer"])) if exercise["answer"] else 1.0
        return any(close(value, target, exercise["tolerance"] * share) for value in values)

    if any_is(exercise["answer"]):
        return Verdict(True, RIGHT + exercise["right"])
    hints = (hint["say"] for hint in exercise["hints"] if any_is(hint["to"]))
    return Verdict(False, WRONG + next(hints, exercise["otherwise"]))


def _as_float(number: str, answer: SupportsFloat) -> float:
    try:
        value = float(answer)
    except (TypeError, ValueError, RuntimeError):  # an array or a tensor of several
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"exercise {number} takes one finite number, got {answer!r}")
    return value


def _verdict_on_choice(number: str, exercise: MultipleChoice, answer: object) -> Verdict:
    choices = letters(exercise)
    expected = f"exercise {number} takes one of the letters {', '.join(choices)}"
    if not isinstance(answer, str):
        raise ValueError(f"{expected}, got {type(answer).__name__}")
    letter = answer.strip().lower()
    if not letter:
        return Verdict(False, NO_CHOICE)
    if letter not in tuple(choices):
        raise ValueError(f"{expected}, got {answer!r}")
    right = letter == exercise["answer"]
    said = exercise["options"][choices.index(letter)]["say"]
    return Verdict(right, (RIGHT if right else WRONG) + said)
