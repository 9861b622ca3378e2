"""The examples in the docstrings of public names do what they show."""

from __future__ import annotations

import doctest
import sys

import pytest

import atlaslib


def examples():
    """The public names whose docstrings hold examples."""
    finder = doctest.DocTestFinder(recurse=False)
    for name in atlaslib.__all__:
        for found in finder.find(getattr(atlaslib, name), name, globs={}):
            if found.examples:
                yield found


@pytest.mark.parametrize("example", examples(), ids=lambda found: found.name)
def test_an_example_prints_what_it_shows(example, cohort):
    module = sys.modules[getattr(atlaslib, example.name).__module__]
    example.globs = {**vars(module), "cohort": cohort[:2]}
    printed = []
    doctest.DocTestRunner().run(example, out=printed.append, clear_globs=False)
    assert printed == []


def test_a_loop_of_ones_own_is_among_them():
    assert "SliceDataset" in {found.name for found in examples()}
