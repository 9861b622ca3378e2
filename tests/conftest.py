"""What the tests share: a home of their own and a tiny cohort."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from volumes import write_scan

import atlaslib

HAS_GPU = torch.cuda.is_available()


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing that a test makes lands in the user's data folder."""
    os.environ["ATLASLIB_HOME"] = str(tmp_path_factory.mktemp("home"))
    torch.set_num_threads(2)


@pytest.fixture(scope="session", autouse=True)
def _on_the_cpu() -> Iterator[None]:
    """Where there is a GPU, only the tests that ask for it see it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU; without one the test is skipped."""
    if not HAS_GPU:
        pytest.skip("needs a GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return torch.device("cuda")


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> atlaslib.Cohort:
    """Seven subjects at two sites; the first has two sessions."""
    root = tmp_path_factory.mktemp("data") / "ATLAS_R1.1"
    for number in range(7):
        site = "Site1" if number < 3 else "Site2"
        write_scan(root, f"03184{number}", seed=number, site=site)
    write_scan(root, "031840", seed=0, site="Site1", session="t02")
    return atlaslib.load_cohort(root)


@pytest.fixture
def scan_writer(tmp_path: Path) -> Callable[..., tuple[Path, list[Path]]]:
    """Write one more scan below ``tmp_path``."""
    return lambda subject="031844", **options: write_scan(tmp_path, subject, **options)


@pytest.fixture
def without_rights(tmp_path: Path) -> Callable[[Path], contextlib.AbstractContextManager[None]]:
    """Make a file or folder unreadable; root, who may read all, becomes nobody meanwhile."""

    @contextlib.contextmanager
    def closed(path: Path) -> Iterator[None]:
        mode, user = path.stat().st_mode, os.geteuid()
        path.chmod(0)
        if user == 0:
            for folder in (tmp_path, *tmp_path.parents):
                if folder.owner() == "root" and folder.stat().st_mode & 0o077 == 0:
                    folder.chmod(0o711)
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)
            path.chmod(mode)

    return closed
