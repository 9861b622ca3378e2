"""Pages in a headless Chromium, for the tests of what runs in a browser."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HOW = "Chromium is missing: install it (apt install chromium), or run `playwright install chromium`"
NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a network; the test is skipped if there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="drives the browser")
    with api.sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        path = Path(found or playwright.chromium.executable_path)
        if not path.exists():
            pytest.skip(HOW)
        browser = playwright.chromium.launch(executable_path=str(path), args=OPTIONS)
        yield browser
        browser.close()
