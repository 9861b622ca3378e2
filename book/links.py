"""The repository's address: set in ``_config.yml``, copied elsewhere by ``make links``."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CITED = re.compile(r'^repository-code: "https://github\.com/([^"]+)"$', re.MULTILINE)


def repository(root: Path) -> str:
    """The repository as ``owner/name``, from ``_config.yml``."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    url = str(config["repository"]["url"])
    found = re.fullmatch(r"https://github\.com/([\w-]+/[\w.-]+?)(?:\.git)?/?", url.strip())
    if found is None:
        text = f"repository.url: expected https://github.com/owner/name, got {url}"
        raise SystemExit(f"_config.yml: {text}")
    return found[1]


def linked_files(root: Path) -> list[Path]:
    """Every file that may name the repository."""
    named = [root / name for name in ("CITATION.cff", "README.md", "CONTRIBUTING.md")]
    return [*named, *sorted((root / "book").glob("*.ipynb")), *sorted((root / "book").glob("*.md"))]


def current_repository(root: Path) -> str:
    """The repository named in CITATION.cff, to which the links currently point."""
    found = CITED.search((root / "CITATION.cff").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit('CITATION.cff: no line repository-code: "https://github.com/..."')
    return found.group(1)


def relink(root: Path) -> list[Path]:
    """Update every link to match ``_config.yml``; return the files that changed."""
    old, new = current_repository(root), repository(root)
    changed = []
    for path in linked_files(root):
        before = path.read_text(encoding="utf-8")
        after = before.replace(old, new)
        after = after.replace(old.replace("/", ".github.io/"), new.replace("/", ".github.io/"))
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path)
    return changed


if __name__ == "__main__":
    for path in relink(ROOT):
        print(path.relative_to(ROOT))
    print(f"All links point to {repository(ROOT)}")
