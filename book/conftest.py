"""``pytest --nbval book`` checks the chapters at the smallest profile, in this environment."""

import os

import pytest

from atlaslib import home

os.environ.setdefault("ATLASLIB_PROFILE", "smoke")

# With -n 2, no chapter may meet a training that another has locked, or wait for its threads.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["ATLASLIB_HOME"] = str(home() / f"chapters-{worker}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Set ``--nbval-current-env``: use this environment's kernel, not one installed elsewhere."""
    config.option.nbval_current_env = True
