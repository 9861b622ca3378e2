"""Unpacking archives, encrypted as ATLAS is or plain, and reading the key."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from archived import (
    FILES,
    KEY,
    OPENSSL,
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

from atlaslib import DataError
from atlaslib.data import archives
from atlaslib.data.archives import is_encrypted, read_key, unpack


@pytest.fixture
def fake_openssl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an openssl on PATH that logs its arguments and environment, then runs the real one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "openssl"
    script.write_text(f'#!/bin/sh\n{{ echo "$@"; env; }} >> {folder}/seen\nexec {OPENSSL} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder / "seen"


# --- valid archives -----------------------------------------------------------------------------


@needs_openssl
@pytest.mark.parametrize(("kind", "digest"), VARIANTS)
@needs_filter
def test_encrypted_archives_are_unpacked(kind, digest, tmp_path):
    archive = encrypted(packed(tmp_path, kind), digest)
    assert is_encrypted(archive)
    assert unpack(archive, tmp_path / "out", KEY, progress=False) == tmp_path / "out"
    assert contents(tmp_path / "out") == FILES
    assert sorted(tmp_path.iterdir()) == sorted([archive, tmp_path / "out"])


@pytest.mark.parametrize("kind", ["tar.gz", "tar", "zip"])
@needs_filter
def test_plain_archives_need_neither_key_nor_openssl(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    archive = packed(tmp_path, kind)
    assert not is_encrypted(archive)
    unpack(str(archive), str(tmp_path / "out"))
    assert contents(tmp_path / "out") == FILES


@needs_openssl
@needs_filter
def test_a_decrypted_tar_is_never_stored_and_a_zip_only_temporarily(tmp_path, monkeypatch):
    places = []
    real = archives.tempfile.TemporaryFile

    def watched(dir):
        places.append(Path(dir))
        return real(dir=dir)

    monkeypatch.setattr(archives.tempfile, "TemporaryFile", watched)
    unpack(encrypted(packed(tmp_path, "tar.gz"), "md5"), tmp_path / "out", KEY, progress=False)
    assert not places
    unpack(encrypted(packed(tmp_path, "zip"), "md5"), tmp_path / "zip", KEY, progress=False)
    assert [place.parent for place in places] == [tmp_path]
    assert places[0].name.startswith(".zip.")


@needs_filter
def test_the_folder_has_default_permissions(tmp_path):
    (tmp_path / "plain").mkdir()
    unpack(packed(tmp_path, "tar"), tmp_path / "out", progress=False)
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


@needs_filter
def test_an_empty_folder_and_a_link_to_one_are_filled(tmp_path):
    archive = packed(tmp_path, "tar.gz")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    unpack(archive, tmp_path / "link", progress=False)
    assert contents(tmp_path / "elsewhere") == FILES
    assert (tmp_path / "link").is_symlink()


@needs_filter
def test_files_of_macos_are_left_out(tmp_path):
    extra = ["ATLAS/._b.csv", "__MACOSX/ATLAS/b.csv"]
    unpack(tarred(tmp_path / "a.tar", map(tarfile.TarInfo, extra)), tmp_path / "a", progress=False)
    unpack(zipped(tmp_path / "b.zip", extra), tmp_path / "b", progress=False)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == FILES


@needs_filter
def test_a_hard_link_to_a_member_is_kept(tmp_path):
    link = tarfile.TarInfo("ATLAS/same.csv")
    link.type, link.linkname = tarfile.LNKTYPE, "ATLAS/Site2/b.csv"
    unpack(tarred(tmp_path / "a.tar.gz", [link]), tmp_path / "out", progress=False)
    assert (tmp_path / "out/ATLAS/same.csv").read_bytes() == FILES["ATLAS/Site2/b.csv"]


@needs_openssl
@needs_filter
def test_the_progress_bar_counts_the_bytes_of_the_archive(tmp_path, capsys):
    unpack(encrypted(packed(tmp_path, "tar.gz"), "md5"), tmp_path / "out", KEY)
    shown = capsys.readouterr().err
    assert "ATLAS.tar.gz.encrypted: 100%" in shown
    assert KEY not in shown


# --- keys ---------------------------------------------------------------------------------------


@needs_openssl
@pytest.mark.parametrize("digest", ["md5", "sha256"])
@needs_filter
def test_wrong_keys(digest, tmp_path):
    archive = encrypted(packed(tmp_path, "tar.gz"), digest)
    for number in range(10):
        assert_refused(archive, r"wrong key \(tried with sha256 and md5\)", f"wrong {number}")
    assert_refused(archive, "no key was given")
    assert_refused(archive, "no key was given", "")


@needs_openssl
@needs_filter
def test_a_wrong_key_that_openssl_accepts_is_found(tmp_path, monkeypatch):
    """As with one wrong key in 256: the padding is valid by chance, and openssl succeeds."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "openssl").write_text("#!/bin/sh\nhead -c 5000 /dev/zero\n")
    (tmp_path / "bin" / "openssl").chmod(0o755)
    archive = encrypted(packed(tmp_path, "tar.gz"), "sha256")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    assert_refused(archive, "wrong key", KEY)


@needs_openssl
@needs_filter
def test_the_key_is_in_neither_arguments_nor_environment(tmp_path, fake_openssl, monkeypatch):
    monkeypatch.setenv("ATLAS_KEY", KEY)
    archive = encrypted(packed(tmp_path, "tar.gz"), "md5")
    unpack(archive, tmp_path / "out", read_key(), progress=False)
    seen = fake_openssl.read_text()
    assert seen.count("-md sha256") == 1  # probed
    assert seen.count("-md md5") == 2  # probed, then used
    assert KEY not in seen


@needs_filter
def test_openssl_missing(tmp_path, monkeypatch):
    archive = tmp_path / "a"
    archive.write_text("U2FsdGVkX18AAAAA\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert_refused(archive, "openssl, which decrypts .* not found: install it", KEY)


def test_the_key_file_comes_first_then_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "key"
    monkeypatch.setenv("ATLAS_KEY", "from the environment")
    for ending in ("", "\n", "\r\n"):
        file.write_bytes(f" {KEY} {ending}".encode())
        assert read_key(file) == f" {KEY} "
    assert read_key() == "from the environment"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_key_file_from_windows(encoding, tmp_path):
    (tmp_path / "key").write_bytes(f"{KEY}\r\n".encode(encoding))
    assert read_key(tmp_path / "key") == KEY


def test_the_prompt_comes_last(monkeypatch):
    monkeypatch.delenv("ATLAS_KEY", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("typed\n"))
    with pytest.raises(DataError, match=r"--key-file FILE.* ATLAS_KEY, or by typing it"):
        read_key()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(archives.getpass, "getpass", lambda prompt: "typed")
    assert read_key() == "typed"


@pytest.mark.parametrize("text", ["", "\n", "hush\nhush\n", "hush\n\n"], ids=range(4))
def test_a_key_is_one_line(text, tmp_path, monkeypatch):
    (tmp_path / "key").write_text(text)
    with pytest.raises(DataError, match="expected one line with the key") as error:
        read_key(tmp_path / "key")
    assert "hush" not in str(error.value)
    monkeypatch.setenv("ATLAS_KEY", text)
    with pytest.raises(DataError, match="ATLAS_KEY: expected one line"):
        read_key()


def test_key_file_missing(tmp_path):
    with pytest.raises(DataError, match=r"the key file cannot be opened \(No such file"):
        read_key(tmp_path / "nothing")
