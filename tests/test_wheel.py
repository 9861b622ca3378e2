"""The wheel contains the whole library, and works with what it requires."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

CHECK = """
import contextlib, importlib, io, pkgutil
import atlaslib
from atlaslib.__main__ import main
from atlaslib.data.volumes import brain_mask
from atlaslib.files import shipped
from atlaslib.paper.sweep import read_table
names = [module.name for module in pkgutil.walk_packages(atlaslib.__path__, "atlaslib.")]
for name in names:
    importlib.import_module(name)
for name in atlaslib.__all__:
    getattr(atlaslib, name)
networks = sorted(path.stem for path in shipped("weights").glob("*.safetensors"))
for name in networks:
    atlaslib.load_pretrained(name)
assert brain_mask().any()
assert len(read_table(shipped("results") / "quick", "scans"))  # chapters on Colab read these
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    main(["--help"])
assert "synth" in shown.getvalue()
print(atlaslib.__file__, len(names), *networks, sep="\\n")
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the repository without what is ignored: building writes to the folder it is in."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names.split("\0"):
        if (ROOT / name).is_file():
            target = tmp_path / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    return tmp_path / "source"


def build(source: Path, *options: str) -> Path:
    """The wheel, made from a source archive."""
    command = [
        sys.executable,
        "-m",
        "build",
        *options,
        "--outdir",
        str(source / "dist"),
        str(source),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = (source / "dist").glob("*.whl")
    return wheel


def assert_complete(python: list[str], installed: Path, **environment: str) -> None:
    """An installed wheel has every module, network and table, and they can be used."""
    run = subprocess.run(
        [*python, "-c", CHECK],
        cwd=installed,
        env=os.environ | environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    place, modules, *networks = run.stdout.splitlines()
    assert installed in Path(place).parents
    sources = [p for p in (ROOT / "atlaslib").rglob("*.py") if p.name != "__init__.py"]
    packages = list((ROOT / "atlaslib").rglob("*/__init__.py"))
    assert int(modules) == len(sources) + len(packages)
    assert networks == sorted(p.stem for p in (ROOT / "data" / "weights").glob("*.safetensors"))


def imported(package: Path) -> set[str]:
    """The top-level names of other packages that the modules of a package import at once."""
    names = set()
    for path in package.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {package.name}


def required(first: Distribution) -> dict[str, Distribution]:
    """What a distribution requires, and what that requires, as installed in this environment."""
    found, waiting = dict[str, Distribution](), [(first, {""})]
    for each, extras in waiting:
        for requirement in map(Requirement, each.requires or ()):
            marker, name = requirement.marker, canonicalize_name(requirement.name)
            applies = not marker or any(marker.evaluate({"extra": extra}) for extra in extras)
            if applies and (name not in found or requirement.extras):
                found[name] = importlib.metadata.distribution(name)
                waiting.append((found[name], {"", *requirement.extras}))
    return found


def link(distribution: Distribution, folder: Path) -> None:
    """Link an installed distribution's packages and modules into another folder."""
    tops = {path.parts[0] for path in distribution.files or ()} - {"..", "__pycache__"}
    for top in tops - {path.name for path in folder.iterdir()}:
        (folder / top).symlink_to(str(distribution.locate_file(top)))


def test_the_wheel_is_complete_and_works_with_what_it_requires(
    source: Path, tmp_path: Path
) -> None:
    """Beside those packages of this environment that it requires, and no other."""
    wheel = build(source, "--no-isolation")
    installed, packages = tmp_path / "installed", tmp_path / "packages"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
    subprocess.run([*install, str(installed), str(wheel)], check=True)
    (metadata,) = importlib.metadata.distributions(name="atlaslib", path=[str(installed)])
    packages.mkdir()
    for distribution in required(metadata).values():
        link(distribution, packages)
    assert not (packages / "pytest").exists()
    # without the site module, which would add this environment's packages
    path = os.pathsep.join([str(installed), str(packages)])
    assert_complete([sys.executable, "-S"], installed, PYTHONPATH=path)
    licences = " ".join(path.read_text() for path in metadata.files if "licenses" in path.parts)
    for notice in ("MIT License", "BSD 2-Clause License", "Louis Collins"):
        assert notice in licences
    declared = {
        canonicalize_name(each.name)
        for each in map(Requirement, metadata.requires)
        if not each.marker
    }
    owners = importlib.metadata.packages_distributions()
    needed = {canonicalize_name(owners[name][0]) for name in imported(installed / "atlaslib")}
    assert needed - declared == set()


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(source: Path, tmp_path: Path) -> None:
    """Slow, because a new environment gets all that the library requires from the index."""
    wheel = build(source)
    venv.create(tmp_path / "empty", with_pip=True)
    python = str(tmp_path / "empty" / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*install, str(wheel)], check=True)
    assert_complete([python], tmp_path / "empty", PYTHONPATH="")
