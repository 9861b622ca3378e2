"""Facts stated in several files agree."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import links
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import atlaslib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


# --- the repository's address -----------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "/", ".git"])
def test_the_address_of_a_repository_may_be_that_of_its_clone(end: str, tmp_path: Path) -> None:
    (tmp_path / "_config.yml").write_text(f"repository: {{url: https://github.com/me/atlas{end}}}")
    assert links.repository(tmp_path) == "me/atlas"


def test_another_address_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_config.yml").write_text("repository: {url: git@github.com:me/atlas.git}")
    with pytest.raises(SystemExit, match="expected https://github.com/owner/name"):
        links.repository(tmp_path)


def test_all_links_name_the_same_repository() -> None:
    url = f"https://github.com/{links.repository(ROOT)}"
    assert links.current_repository(ROOT) == links.repository(ROOT)
    for name in ("README.md", "CONTRIBUTING.md", "CITATION.cff"):
        assert url in (ROOT / name).read_text(encoding="utf-8")
    for path in links.linked_files(ROOT):
        text = path.read_text(encoding="utf-8")
        installed = re.findall(r"git\+https://github\.com/([\w.-]+/[\w.-]+)", text)
        assert set(installed) <= {links.repository(ROOT)}, path.name


def test_a_fork_has_to_change_only_one_line(tmp_path: Path) -> None:
    for path in [ROOT / "_config.yml", *links.linked_files(ROOT)]:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    before = links.repository(ROOT)
    assert links.relink(tmp_path) == []  # nothing to do before the address changes
    config = (tmp_path / "_config.yml").read_text(encoding="utf-8")
    (tmp_path / "_config.yml").write_text(config.replace(before, "someone/else"), encoding="utf-8")
    changed = links.relink(tmp_path)
    assert links.current_repository(tmp_path) == "someone/else"
    assert {path.name for path in changed} >= {"README.md", "CITATION.cff", "CONTRIBUTING.md"}
    assert [p.name for p in tmp_path.rglob("*.*") if before.encode() in p.read_bytes()] == []


# --- versions ---------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)", changelog, re.MULTILINE)
    assert newest is not None
    assert citation["version"] == newest[1] == PROJECT["version"]
    assert str(citation["date-released"]) == newest[2]


def test_the_citation_names_the_report_and_atlas() -> None:
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"]
    assert [r["year"] for r in references] == [2018, 2018, 2022]
    assert {r.get("doi") for r in references} == {None, "10.1038/sdata.2018.11",
                                                  "10.1038/s41597-022-01401-7"}  # fmt: skip


def test_every_direct_dependency_has_a_pin_that_satisfies_it() -> None:
    listed = [*PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        listed += extra
    for requirement in map(Requirement, listed):
        version = pins().get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement}, pinned to {version}"


def test_constraints_are_plain_exact_versions() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert pins()["torch"] == "2.13.0"
    assert re.findall(r"://|^-|\+|^(?:nvidia|triton)", text, re.MULTILINE) == []


def test_every_pin_installs_on_the_oldest_supported_python() -> None:
    """That is 3.11.0: Debian has 3.11.2, and some packages require a later 3.11."""
    oldest = f"{PROJECT['requires-python'].removeprefix('>=')}.0"
    pinned, refuse = pins(), {}
    for package in importlib.metadata.distributions():
        needs = package.metadata["Requires-Python"] or ""
        if canonicalize_name(package.name) in pinned and not SpecifierSet(needs).contains(oldest):
            refuse[package.name] = needs
    assert refuse == {}


def test_this_environment_has_the_pinned_versions() -> None:
    """The checks hold only for the versions that they ran with."""
    other = {}
    for name in {Requirement(text).name for text in PROJECT["dependencies"]}:
        version = importlib.metadata.version(name).split("+")[0]
        if version != pins()[canonicalize_name(name)]:
            other[name] = version
    assert other == {}


def test_dependencies_have_minimum_versions_and_no_maximum() -> None:
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert {s.operator for s in requirement.specifier} == {">="}, str(requirement)


def test_pre_commit_pins_the_same_ruff() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==([\d.]+)", text)) == {pins()["ruff"]}


def test_conda_installs_the_same_packages() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["dependencies"][-1]["pip"] == ["-c constraints.txt", "-e .[book,test]"]


# --- the folders of the library ---------------------------------------------------------------


@pytest.mark.parametrize("folder", sorted((ROOT / "atlaslib").glob("*/__init__.py")))
def test_each_folder_says_what_it_may_import(folder: Path) -> None:
    """The docstring repeats the contract in pyproject.toml, where a newcomer looks first.

    Whether the code keeps to it is checked by import-linter, in `make lint`.
    """
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    layers = [re.findall(r"atlaslib\.(\w+)", layer) for layer in contract["layers"]]
    own = next(place for place, names in enumerate(layers) if folder.parent.name in names)
    below = [name for names in layers[own + 1 :] for name in names]
    text = ast.get_docstring(ast.parse(folder.read_text(encoding="utf-8"))) or ""
    assert re.search(r"^In: .*Out: ", text, re.DOTALL | re.MULTILINE)
    said = re.search(r"^May import: ([\w, ]+)", text, re.MULTILINE)
    assert said is not None
    assert said[1] == ", ".join(below) if below else said[1].startswith("nothing")


# --- what the files promise -------------------------------------------------------------------


def test_make_help_lists_every_target() -> None:
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)", make, re.MULTILINE)
    assert phony is not None
    out = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r"^make (\w+) +\S", out.stdout, re.MULTILINE)) == set(phony[1].split())


def test_texts_name_only_make_targets_that_exist() -> None:
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", make, re.MULTILINE))
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md"]
    for path in (*texts, *(ROOT / "book").glob("*.ipynb")):
        named = re.findall(r"(?:`|^|\\n)make (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(named) <= targets, path.name


def test_the_check_script_is_executable() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_readme_has_no_todo() -> None:
    assert "TODO" not in (ROOT / "README.md").read_text(encoding="utf-8")


def test_relative_links_lead_to_existing_files() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
            assert (ROOT / name).parent.joinpath(target).exists(), f"{name} links to {target}"


def test_the_readme_example_runs(
    cohort: atlaslib.Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    assert len([line for line in code[1].splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(atlaslib, "open_cohort", lambda *, profile: {"smoke": cohort}[profile])
    exec(code[1], {})
    assert {path.name for path in tmp_path.iterdir()} == {"lesion.nii.gz", "mine"}
