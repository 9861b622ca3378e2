"""Unpacking rejects hostile archives, and broken or interrupted ones leave nothing behind."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archived import (
    FILES,
    KEY,
    VARIANTS,
    assert_refused,
    encrypted,
    needs_filter,
    needs_openssl,
    packed,
    tarred,
    zipped,
)
from folders import contents
from process import exit_code, signalled

from atlaslib import DataError
from atlaslib.data.archives import unpack

pytestmark = needs_filter

# --- hostile archives ---------------------------------------------------------------------------


def hostile(name: str, type_: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = type_, to
    return member


@pytest.mark.parametrize(
    "member",
    [
        hostile("/absolute"),
        hostile("../up"),
        hostile("ATLAS/../../up"),
        hostile("..\\up"),
        hostile("C:\\up"),
        hostile("._up/../../up"),
        hostile("link", tarfile.SYMTYPE, "../outside"),
        hostile("link", tarfile.SYMTYPE, "/etc/passwd"),
        hostile("._link", tarfile.SYMTYPE, "/etc/passwd"),
        hostile("link", tarfile.LNKTYPE, "../../outside"),
        hostile("link", tarfile.LNKTYPE, "/etc/passwd"),
        hostile("link", tarfile.LNKTYPE, "ATLAS/nowhere"),
        hostile("pipe", tarfile.FIFOTYPE),
        hostile("device", tarfile.CHRTYPE),
        hostile("device", tarfile.BLKTYPE),
    ],
    ids=lambda member: f"{member.name}-{member.type.decode()}-{member.linkname}",
)
def test_hostile_members_of_a_tar(member, tmp_path):
    (tmp_path / "outside").write_text("x")
    name = member.name.replace("\\", ".*")
    assert_refused(
        tarred(tmp_path / "a.tar.gz", [member]), f"member '{name}' .*nothing was unpacked"
    )


def test_an_impossible_date(tmp_path):
    member = hostile("late")
    member.mtime = 1e20
    assert_refused(tarred(tmp_path / "a.tar.gz", [member]), "a member is damaged")


@pytest.mark.parametrize("name", ["/absolute", "../up", "ATLAS/../../up", "..\\up", "C:\\up", "l"])
def test_hostile_members_of_a_zip(name, tmp_path):
    member = zipfile.ZipInfo(name)
    if name == "l":
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = zipped(tmp_path / "a.zip", [member])
    assert_refused(archive, f"member '{name[0]}.*nothing was unpacked")


@needs_openssl
def test_a_hostile_member_of_an_encrypted_archive(tmp_path):
    archive = encrypted(tarred(tmp_path / "a.tar.gz", [hostile("../up")]), "sha256")
    assert_refused(archive, "member '../up' leads out of the folder", KEY)


# --- broken archives ----------------------------------------------------------------------------


@needs_openssl
@pytest.mark.parametrize(("kind", "digest"), VARIANTS)
def test_incomplete_archives(kind, digest, tmp_path):
    archive = encrypted(packed(tmp_path, kind), digest)
    text = archive.read_bytes()
    for size in (5_000, len(text) // 2, len(text) - 200, len(text) - 20):
        archive.write_bytes(text[:size])
        assert_refused(archive, rf"incomplete or damaged \(it has {size:,} bytes\)", KEY)


def test_a_plain_tar_that_ends_between_two_members(tmp_path):
    archive = packed(tmp_path, "tar")
    with tarfile.open(archive) as tar:
        starts = [member.offset for member in tar][1:]
    whole = archive.read_bytes()
    for start in starts:
        archive.write_bytes(whole[:start])
        assert_refused(archive, "incomplete or damaged")
        archive.write_bytes(whole[:start] + b"x" * 512 + whole[start + 512 :])
        assert_refused(archive, "incomplete or damaged")


@needs_openssl
@pytest.mark.parametrize(("kind", "digest"), VARIANTS[1:2] + VARIANTS[3:])
def test_damaged_archives(kind, digest, tmp_path):
    archive = encrypted(packed(tmp_path, kind), digest)
    text = bytearray(archive.read_bytes())
    middle = len(text) // 2
    text[middle : middle + 4] = b"AAAA" if text[middle : middle + 4] != b"AAAA" else b"BBBB"
    archive.write_bytes(text)
    assert_refused(archive, "incomplete or damaged", KEY)


def test_a_file_that_is_not_an_archive(tmp_path):
    archive = tmp_path / "page.html"
    archive.write_text("<html>please log in</html>")
    assert_refused(archive, "page.html: neither a tar.gz, tar or zip nor one encrypted by openssl")
    assert_refused(tmp_path / "missing", r"missing: cannot be opened \(No such file")
    assert_refused(tmp_path, r"cannot be opened \(Is a directory")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_an_existing_file_or_folder_is_not_overwritten(make, tmp_path):
    make(tmp_path / "out")
    if (tmp_path / "out").is_dir():
        (tmp_path / "out" / "mine").touch()
    assert_refused(packed(tmp_path, "tar"), "out: not an empty folder")


def test_the_parent_folder_must_exist(tmp_path):
    with pytest.raises(DataError, match=r"out: not unpacked \(No such file or directory\)"):
        unpack(packed(tmp_path, "tar"), tmp_path / "no" / "out", progress=False)


def test_too_little_disk_space_is_reported_at_the_start(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert_refused(
        packed(tmp_path, "tar"), "out: not enough disk space, ATLAS.tar needs over 0.0 GB"
    )


def interrupting(error: BaseException) -> Callable[..., None]:
    """A replacement for ``TarFile.makefile`` that writes a little, then fails."""

    def makefile(self: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        Path(path).write_text("a little")
        raise error

    return makefile


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_disk_fills_up(number, tmp_path, monkeypatch):
    error = OSError(number, os.strerror(number))
    monkeypatch.setattr(tarfile.TarFile, "makefile", interrupting(error))
    assert_refused(packed(tmp_path, "tar"), rf"out: not unpacked \({os.strerror(number)}\)")


@needs_openssl
def test_ctrl_c_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tarfile.TarFile, "makefile", interrupting(KeyboardInterrupt()))
    archive = encrypted(packed(tmp_path, "tar.gz"), "md5")
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "out", KEY, progress=False)
    assert list(tmp_path.iterdir()) == [archive]


@needs_openssl
def test_a_killed_run_leaves_only_a_temporary_folder(tmp_path):
    """It is killed before it writes the second file."""
    archive = encrypted(packed(tmp_path, "tar.gz"), "md5")
    job = ("tarfile.TarFile.makefile", 2, unpack, archive, tmp_path / "out", KEY, False)
    assert exit_code(signalled, signal.SIGKILL, *job) == -signal.SIGKILL
    [left] = set(tmp_path.iterdir()) - {archive}
    assert left.name.startswith(".out.")
    assert left.name.endswith(".part")
    unpack(archive, tmp_path / "out", KEY, progress=False)
    assert contents(tmp_path / "out") == FILES


def test_members_that_are_sparse_or_too_deep_are_refused(tmp_path):
    sparse = tarfile.TarInfo("ATLAS/sparse.nii")
    sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 0
    deep = tarfile.TarInfo("a/" * 3000 + "b")
    for member, says in ((deep, "lies more than 50 folders deep"), (sparse, "sparse|damaged")):
        archive = tarred(tmp_path / f"{len(member.name)}.tar", [member])
        with pytest.raises(DataError, match=says) as error:
            unpack(archive, tmp_path / "out", progress=False)
        assert len(str(error.value)) < 400
        assert not (tmp_path / "out").exists()
