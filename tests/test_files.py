"""File helpers: the home folder, atomic writes, one-line errors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from folders import contents

import atlaslib
from atlaslib import DataError
from atlaslib.data.archives import is_encrypted, read_key, unpack
from atlaslib.data.check import check_folder
from atlaslib.evaluation.inference import probabilities
from atlaslib.files import (
    atomic_write,
    check_writable,
    file_digest,
    make_folder,
    read_bytes,
    write_json,
)


def test_home(monkeypatch):
    monkeypatch.setenv("ATLASLIB_HOME", "~/somewhere")
    assert atlaslib.home() == Path.home() / "somewhere"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("~nouser/x", "unknown home folder"),
        (3, "expected a path, got int"),
        (b"x", "expected a path, got bytes"),
        ("a\0b", "cannot contain a NUL character"),
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        atlaslib.load_cohort,
        atlaslib.load_run,
        check_folder,
        is_encrypted,
        read_key,
        lambda path: unpack("archive", path),
        lambda path: atlaslib.make_cohort(path, 3),
        lambda path: atlaslib.open_cohort(path),
        lambda path: probabilities(None, path),
    ],
)
def test_what_is_no_path_is_one_line(use, path, says):
    with pytest.raises(DataError, match=says):
        use(path)


@pytest.mark.parametrize("path", ["~nouser/x", 3])
def test_what_is_no_folder_for_a_run_is_one_line(path, cohort):
    with pytest.raises(DataError, match="unknown home folder|expected a path"):
        atlaslib.train(atlaslib.recipe("zero", "smoke"), cohort, out=path)


def test_a_home_folder_that_is_unknown_is_one_line(monkeypatch):
    monkeypatch.setenv("ATLASLIB_HOME", "~nouser/x")
    with pytest.raises(DataError, match="~nouser/x: unknown home folder"):
        atlaslib.home()


def test_a_key_file_is_not_named(monkeypatch):
    """Its name may be the key itself, given by mistake."""
    with pytest.raises(DataError, match="the key file: unknown home folder") as error:
        read_key("~geheim")
    assert "geheim" not in str(error.value)


def test_a_written_file_has_default_permissions(tmp_path):
    """So that others in the group can read a shared cache or run."""
    (tmp_path / "plain").touch()
    atomic_write(tmp_path / "written", lambda name: Path(name).write_text("text"))
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_an_error_is_one_line():
    assert str(DataError("damaged (got 1 byte\n - could it be cut?)")) == (
        "damaged (got 1 byte - could it be cut?)"
    )


def test_json_is_written_atomically(tmp_path):
    path = tmp_path / "provenance.json"
    content = {"site": "Zürich", "split": {"train": ["031840"]}, "seconds": 1.5, "none": None}
    write_json(path, content)
    assert json.loads(path.read_text()) == content
    with pytest.raises(TypeError):
        write_json(path, {"whole": 1, "array": np.zeros(2)})
    assert json.loads(path.read_text()) == content
    write_json(path, {"again": 1})
    assert contents(tmp_path) == {"provenance.json": b'{\n  "again": 1\n}\n'}


def test_a_pipe_is_refused_instead_of_being_read_for_ever(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (read_bytes, file_digest):
        with pytest.raises(DataError, match="pipe: not a regular file"):
            read(tmp_path / "pipe")


def test_what_cannot_be_written_is_known_before(tmp_path):
    (tmp_path / "there").touch()
    check_writable(tmp_path / "new")
    with pytest.raises(DataError, match="exists already"):
        check_writable(tmp_path / "there")
    with pytest.raises(DataError, match="its folder does not exist"):
        check_writable(tmp_path / "no" / "new")
    with pytest.raises(DataError, match="cannot be made"):
        make_folder(tmp_path / "there" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
