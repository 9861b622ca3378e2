"""Reads ``exercises.toml``: what each exercise asks, which answers it takes, and the hints."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypeAlias, final

from annotated_types import Ge
from typing_extensions import TypedDict

from atlaslib.files import DataError, checked, read_bytes

FILE = Path(__file__).with_name("exercises.toml")
LETTERS = "abcdefgh"


class Hint(TypedDict):
    """What to say to one wrong number."""

    to: float
    say: str


@final
class Number(TypedDict):
    """An exercise that is answered with a number; a hint has its tolerance, or less."""

    asks: str
    answer: float
    tolerance: Annotated[float, Ge(0)]
    unit: NotRequired[str]  # shown behind the field
    right: str  # why it is right
    hints: list[Hint]
    otherwise: str  # the hint to every other number


class Option(TypedDict):
    """One answer to choose, and what to say to it."""

    text: str
    say: str


@final
class MultipleChoice(TypedDict):
    """An exercise that is answered with a letter: "a" for the first option."""

    asks: str
    answer: str
    options: list[Option]


Exercise: TypeAlias = Number | MultipleChoice


@cache
def exercises(path: Path | None = None) -> dict[str, Exercise]:
    """All exercises, by their number: "chapter.exercise", where P is the preface, H the real heads.

    Parameters
    ----------
    path : path, optional
        The file that is read; by default, the library's own.

    Raises
    ------
    DataError
        If the file cannot be read, or an exercise in it cannot be answered; names the exercise.
    """
    path = path or FILE
    written = read_bytes(path)
    try:
        content = tomllib.loads(written.decode())
    except ValueError as error:  # not UTF-8, or not TOML
        raise DataError(f"{path.name}: {error}") from None
    return {
        number: _exercise(f"{path.name}, {number}", number, entry)
        for number, entry in content.items()
    }


def letters(exercise: MultipleChoice) -> str:
    """The letters of its options in order, such as "abcd"."""
    return LETTERS[: len(exercise["options"])]


def _exercise(where: str, number: str, entry: Any) -> Exercise:
    if not re.fullmatch(r"(?:[1-9]\d*|[A-Z])\.[1-9]\d*", number):
        raise DataError(f"{where}: expected a number such as 2.3")
    try:
        if isinstance(entry, dict) and "options" in entry:
            choice = checked(MultipleChoice, entry)
            if choice["answer"] not in tuple(letters(choice)):
                raise ValueError(f"answer: expected a letter of {letters(choice)}")
            return choice
        found = checked(Number, entry)
        for hint in found["hints"]:
            if close(hint["to"], found["answer"], found["tolerance"]):
                raise ValueError(f"hints: {hint['to']:g} is accepted, so its hint is never seen")
        return found
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def close(value: float, answer: float, tolerance: float) -> bool:
    """Whether a number is an answer; the last bits of a decimal fraction do not matter."""
    return abs(value - answer) <= tolerance + 1e-9 * abs(answer)
