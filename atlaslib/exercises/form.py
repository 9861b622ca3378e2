"""The form that asks for an exercise's answer and checks it in the reader's browser."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from atlaslib.exercises.questions import Exercise, MultipleChoice, Number, letters


@dataclass(frozen=True)
class Form:
    """Asks for an answer and checks it; shows itself as the last line of a cell.

    It needs neither a kernel nor a network. In print, and where there are no scripts, the question
    is left, without the button.
    """

    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return "An exercise that waits for an answer in place of the dots."


def form(number: str, exercise: Exercise, words: Mapping[str, str]) -> Form:
    """The form of an exercise.

    Parameters
    ----------
    number : str
    exercise : Number or MultipleChoice
    words : mapping
        What is said besides the hints.

    Returns
    -------
    Form
        The builder of the book moves every ``<script data-file=...>`` of it to a file of its own.
    """
    identity = f"exercise-{number.replace('.', '-')}-{uuid.uuid4().hex[:8]}"
    fields = _choices(identity, exercise) if "options" in exercise else _field(exercise)
    settings = json.dumps({"exercise": exercise, "words": words}).replace("<", r"\u003c")
    return Form(
        f'<div class="atlaslib-exercise" id="{identity}">\n<style>\n{_text("form.css")}</style>\n'
        f'<form aria-label="Exercise {number}" autocomplete="off" novalidate>\n{fields}\n'
        '<button type="submit" hidden disabled>Check</button>\n<output></output>\n</form>\n</div>\n'
        f'<script data-file="exercise.js">\n{_text("form.js")}</script>\n'
        f'<script>atlaslib.exercise("{identity}", {settings});</script>\n'
    )


def _field(exercise: Number) -> str:
    unit = f" {escape(exercise['unit'])}" if "unit" in exercise else ""
    return (
        f"<label><span>{escape(exercise['asks'])}</span> "
        f'<span class="field"><input name="answer" type="text" inputmode="decimal">{unit}</span>'
        "</label>"
    )


def _choices(identity: str, exercise: MultipleChoice) -> str:
    options = "\n".join(
        f'<label><input type="radio" name="answer" value="{letter}"> '
        f"<span>{letter}) {escape(option['text'])}</span></label>"
        for letter, option in zip(letters(exercise), exercise["options"], strict=True)
    )
    return f"<fieldset>\n<legend>{escape(exercise['asks'])}</legend>\n{options}\n</fieldset>"


def _text(name: str) -> str:
    """The text of the script or the style sheet beside this module."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
