"""A briefly trained run, for the tests of inference and scoring."""

from __future__ import annotations

import pytest

from atlaslib import recipe, train


@pytest.fixture(scope="package")
def run(cohort):
    return train(
        recipe("baseline", "smoke", epochs=10, width=8, decay=False, flip=False, seed=1),
        cohort,
        progress=False,
    )
