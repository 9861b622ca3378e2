"""``pytest --nbval book`` checks the chapters at the smallest profile, in this environment."""

import os

import pytest

os.environ.setdefault("ATLASLIB_PROFILE", "smoke")


def pytest_configure(config: pytest.Config) -> None:
    """As ``--nbval-current-env``: a kernel installed elsewhere on the machine is not asked."""
    config.option.nbval_current_env = True
