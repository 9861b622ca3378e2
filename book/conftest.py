"""``pytest --nbval book`` checks the chapters at the smallest profile, in this environment."""

import os

import pytest

os.environ.setdefault("ATLASLIB_PROFILE", "smoke")


def pytest_configure(config: pytest.Config) -> None:
    """Set ``--nbval-current-env``: use this environment's kernel, not one installed elsewhere."""
    config.option.nbval_current_env = True
