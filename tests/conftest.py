"""Shared fixtures: a temporary home folder, no GPU by default, and a tiny cohort."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from chromium import chromium
from heads import write_heads
from volumes import write_scan

import atlaslib

HAS_GPU = torch.cuda.is_available()


@pytest.fixture(scope="session", autouse=True)
def _temporary_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the tests out of the user's data folder."""
    os.environ["ATLASLIB_HOME"] = str(tmp_path_factory.mktemp("home"))
    # each of several test processes has a core of its own; 1 is also what OMP_NUM_THREADS asks for
    alone = os.environ.keys().isdisjoint({"PYTEST_XDIST_WORKER", "OMP_NUM_THREADS"})
    torch.set_num_threads(2 if alone else 1)


@pytest.fixture(scope="session", autouse=True)
def _hide_gpu() -> Iterator[None]:
    """Hide the GPU, if there is one, from tests that do not ask for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The GPU; the test is skipped if there is none."""
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


@pytest.fixture(scope="session")
def heads_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny folder of heads; a test that changes it makes a copy."""
    return write_heads(tmp_path_factory.mktemp("heads"))


@pytest.fixture
def scan_writer(tmp_path: Path) -> Callable[..., tuple[Path, list[Path]]]:
    """A function that writes a scan below ``tmp_path``."""
    return lambda subject="031844", **options: write_scan(tmp_path, subject, **options)


@pytest.fixture
def unreadable(tmp_path: Path) -> Callable[[Path], contextlib.AbstractContextManager[None]]:
    """A context in which a path is unreadable; root, who can read everything, acts as nobody."""

    @contextlib.contextmanager
    def without_permission(path: Path) -> Iterator[None]:
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

    return without_permission


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; not kept longer, since its event loop would stand in others' way."""
    with chromium() as opened:
        yield opened
