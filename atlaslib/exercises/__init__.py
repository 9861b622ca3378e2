"""The exercises at the end of each chapter take an answer, in a notebook and on the page.

In: an exercise's number and an answer. Out: whether it is right, or a hint; without an answer, a
form that asks for it. What is asked, the answers and the hints are in ``exercises.toml``.
May import: training, evaluation, runs, synthetic, data, networks, profiles, recipes, models, files.
"""

from atlaslib.exercises.answers import Verdict, check

__all__ = ["Verdict", "check"]
