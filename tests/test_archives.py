"""Unpacking: archives locked as ATLAS's are, wrong keys, hostile members, interruptions."""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from atlaslib import DataError, archives
from atlaslib.archives import is_encrypted, read_key, unpack

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")
KEY = "pass word$1 'ü'"
FILES = {
    "ATLAS/Site1/031840/t01/a.nii.gz": random.Random(0).randbytes(300_000),
    "ATLAS/Site2/b.csv": b"subject,session\n" * 9,
    "ATLAS/empty": b"",
}
WAYS = [("tar.gz", "md5"), ("tar.gz", "sha256"), ("tar", "sha256"), ("zip", "md5")]


def tarred(path: Path, members: Iterable[tarfile.TarInfo] = ()) -> Path:
    """A tar or tar.gz of the files, then of hostile members."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in members:
            tar.addfile(member)
    return path


def zipped(path: Path, members: Iterable[zipfile.ZipInfo | str] = ()) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in FILES.items():
            file.writestr(name, content)
        for member in members:
            file.writestr(member, "x")
    return path


def packed(folder: Path, kind: str) -> Path:
    return (zipped if kind == "zip" else tarred)(folder / f"ATLAS.{kind}")


def locked(path: Path, digest: str) -> Path:
    """Encrypted as the releases are; the plain archive is gone."""
    assert OPENSSL
    out = path.with_name(f"{path.name}.encrypted")
    call = [OPENSSL, "aes-256-cbc", "-a", "-md", digest, "-in", path, "-out", out]
    subprocess.run([*call, "-pass", "stdin"], input=KEY.encode(), check=True, capture_output=True)
    path.unlink()
    return out


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(archive: Path, says: str, key: str | None = None) -> None:
    """One line of error, and the folder beside the archive looks as before."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(DataError, match=says) as error:
        unpack(archive, archive.parent / "out", key, progress=False)
    assert "\n" not in str(error.value)
    assert not key or key not in str(error.value)
    assert sorted(archive.parent.rglob("*")) == before


@pytest.fixture
def fake_openssl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """On the path, an openssl that notes its arguments and environment, then works."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "openssl"
    script.write_text(f'#!/bin/sh\n{{ echo "$@"; env; }} >> {folder}/seen\nexec {OPENSSL} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder / "seen"


# --- right archives -----------------------------------------------------------------------------


@needs_openssl
@pytest.mark.parametrize(("kind", "digest"), WAYS)
def test_opens_what_was_locked(kind, digest, tmp_path):
    archive = locked(packed(tmp_path, kind), digest)
    assert is_encrypted(archive)
    assert unpack(archive, tmp_path / "out", KEY, progress=False) == tmp_path / "out"
    assert content(tmp_path / "out") == FILES
    assert sorted(tmp_path.iterdir()) == sorted([archive, tmp_path / "out"])


@pytest.mark.parametrize("kind", ["tar.gz", "tar", "zip"])
def test_plain_archives_need_neither_key_nor_openssl(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    archive = packed(tmp_path, kind)
    assert not is_encrypted(archive)
    unpack(str(archive), str(tmp_path / "out"))
    assert content(tmp_path / "out") == FILES


@needs_openssl
def test_a_tar_is_never_on_the_disk_and_a_zip_in_the_part_alone(tmp_path, monkeypatch):
    places = []
    real = archives.tempfile.TemporaryFile

    def watched(dir):
        places.append(Path(dir))
        return real(dir=dir)

    monkeypatch.setattr(archives.tempfile, "TemporaryFile", watched)
    unpack(locked(packed(tmp_path, "tar.gz"), "md5"), tmp_path / "out", KEY, progress=False)
    assert not places
    unpack(locked(packed(tmp_path, "zip"), "md5"), tmp_path / "zip", KEY, progress=False)
    assert [place.parent for place in places] == [tmp_path]
    assert places[0].name.startswith(".zip.")


def test_the_folder_is_as_open_as_any_other(tmp_path):
    (tmp_path / "usual").mkdir()
    unpack(packed(tmp_path, "tar"), tmp_path / "out", progress=False)
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_an_empty_folder_and_a_link_to_one_are_filled(tmp_path):
    archive = packed(tmp_path, "tar.gz")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    unpack(archive, tmp_path / "link", progress=False)
    assert content(tmp_path / "elsewhere") == FILES
    assert (tmp_path / "link").is_symlink()


def test_files_of_macos_are_left_out(tmp_path):
    extra = ["ATLAS/._b.csv", "__MACOSX/ATLAS/b.csv"]
    unpack(tarred(tmp_path / "a.tar", map(tarfile.TarInfo, extra)), tmp_path / "a", progress=False)
    unpack(zipped(tmp_path / "b.zip", extra), tmp_path / "b", progress=False)
    assert content(tmp_path / "a") == content(tmp_path / "b") == FILES


def test_a_hard_link_to_a_member_is_kept(tmp_path):
    link = tarfile.TarInfo("ATLAS/same.csv")
    link.type, link.linkname = tarfile.LNKTYPE, "ATLAS/Site2/b.csv"
    unpack(tarred(tmp_path / "a.tar.gz", [link]), tmp_path / "out", progress=False)
    assert (tmp_path / "out/ATLAS/same.csv").read_bytes() == FILES["ATLAS/Site2/b.csv"]


@needs_openssl
def test_the_bar_counts_the_archive(tmp_path, capsys):
    unpack(locked(packed(tmp_path, "tar.gz"), "md5"), tmp_path / "out", KEY)
    shown = capsys.readouterr().err
    assert "ATLAS.tar.gz.encrypted: 100%" in shown
    assert KEY not in shown


# --- keys ---------------------------------------------------------------------------------------


@needs_openssl
@pytest.mark.parametrize("digest", ["md5", "sha256"])
def test_wrong_keys(digest, tmp_path):
    archive = locked(packed(tmp_path, "tar.gz"), digest)
    for number in range(10):
        refused(archive, r"wrong key \(tried with sha256 and md5\)", f"wrong {number}")
    refused(archive, "no key was given")
    refused(archive, "no key was given", "")


@needs_openssl
def test_garbage_is_known_without_a_word_from_openssl(tmp_path, monkeypatch):
    """As with one wrong key in 256: the padding is right by chance, and openssl content."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "openssl").write_text("#!/bin/sh\nhead -c 5000 /dev/zero\n")
    (tmp_path / "bin" / "openssl").chmod(0o755)
    archive = locked(packed(tmp_path, "tar.gz"), "sha256")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    refused(archive, "wrong key", KEY)


@needs_openssl
def test_the_key_is_in_neither_arguments_nor_environment(tmp_path, fake_openssl, monkeypatch):
    monkeypatch.setenv("ATLAS_KEY", KEY)
    archive = locked(packed(tmp_path, "tar.gz"), "md5")
    unpack(archive, tmp_path / "out", read_key(), progress=False)
    seen = fake_openssl.read_text()
    assert seen.count("-md sha256") == 1  # probed
    assert seen.count("-md md5") == 2  # probed, then used
    assert KEY not in seen


def test_openssl_missing(tmp_path, monkeypatch):
    archive = tmp_path / "a"
    archive.write_text("U2FsdGVkX18AAAAA\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(archive, "openssl, which decrypts .* not found: install it", KEY)


def test_the_key_file_comes_first_then_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "key"
    monkeypatch.setenv("ATLAS_KEY", "from the environment")
    for ending in ("", "\n", "\r\n"):
        file.write_bytes(f" {KEY} {ending}".encode())
        assert read_key(file) == f" {KEY} "
    assert read_key() == "from the environment"


def test_the_terminal_comes_last(monkeypatch):
    monkeypatch.delenv("ATLAS_KEY", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("typed\n"))
    with pytest.raises(DataError, match=r"--key-file FILE.* ATLAS_KEY, or at a terminal"):
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
    with pytest.raises(DataError, match=r"nothing: cannot be opened \(No such file"):
        read_key(tmp_path / "nothing")


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
    refused(tarred(tmp_path / "a.tar.gz", [member]), f"member '{name}' .*nothing was unpacked")


@pytest.mark.parametrize("name", ["/absolute", "../up", "ATLAS/../../up", "..\\up", "C:\\up", "l"])
def test_hostile_members_of_a_zip(name, tmp_path):
    member = zipfile.ZipInfo(name)
    if name == "l":
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = zipped(tmp_path / "a.zip", [member])
    refused(archive, f"member '{name[0]}.*nothing was unpacked")


@needs_openssl
def test_a_hostile_member_behind_a_lock(tmp_path):
    archive = locked(tarred(tmp_path / "a.tar.gz", [hostile("../up")]), "sha256")
    refused(archive, "member '../up' leads out of the folder", KEY)


# --- broken archives ----------------------------------------------------------------------------


@needs_openssl
@pytest.mark.parametrize(("kind", "digest"), WAYS)
def test_incomplete_archives(kind, digest, tmp_path):
    archive = locked(packed(tmp_path, kind), digest)
    text = archive.read_bytes()
    for size in (5_000, len(text) // 2, len(text) - 200, len(text) - 20):
        archive.write_bytes(text[:size])
        refused(archive, rf"incomplete or damaged \(it has {size:,} bytes\)", KEY)


def test_a_plain_tar_that_ends_between_two_members(tmp_path):
    archive = packed(tmp_path, "tar")
    with tarfile.open(archive) as tar:
        starts = [member.offset for member in tar][1:]
    whole = archive.read_bytes()
    for start in starts:
        archive.write_bytes(whole[:start])
        refused(archive, "incomplete or damaged")
        archive.write_bytes(whole[:start] + b"x" * 512 + whole[start + 512 :])
        refused(archive, "incomplete or damaged")


@needs_openssl
@pytest.mark.parametrize(("kind", "digest"), WAYS[1:2] + WAYS[3:])
def test_damaged_archives(kind, digest, tmp_path):
    archive = locked(packed(tmp_path, kind), digest)
    text = bytearray(archive.read_bytes())
    middle = len(text) // 2
    text[middle : middle + 4] = b"AAAA" if text[middle : middle + 4] != b"AAAA" else b"BBBB"
    archive.write_bytes(text)
    refused(archive, "incomplete or damaged", KEY)


def test_what_is_no_archive(tmp_path):
    archive = tmp_path / "page.html"
    archive.write_text("<html>please log in</html>")
    refused(archive, "page.html: neither a tar.gz, tar or zip nor one encrypted by openssl")
    refused(tmp_path / "missing", r"missing: cannot be opened \(No such file")
    refused(tmp_path, r"cannot be opened \(Is a directory")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_what_exists_is_refused_and_kept(make, tmp_path):
    make(tmp_path / "out")
    if (tmp_path / "out").is_dir():
        (tmp_path / "out" / "mine").touch()
    refused(packed(tmp_path, "tar"), "out: not an empty folder")


def test_a_folder_in_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"out: not unpacked \(No such file or directory\)"):
        unpack(packed(tmp_path, "tar"), tmp_path / "no" / "out", progress=False)


def test_too_little_disk_is_told_at_the_start(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused(packed(tmp_path, "tar"), "out: not enough disk, ATLAS.tar needs over 0.0 GB")


def interrupting(error: BaseException) -> Callable[..., None]:
    """Instead of ``TarFile.makefile``: write a little, then fail."""

    def makefile(self: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        Path(path).write_text("a little")
        raise error

    return makefile


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_disk_fills_up(number, tmp_path, monkeypatch):
    error = OSError(number, os.strerror(number))
    monkeypatch.setattr(tarfile.TarFile, "makefile", interrupting(error))
    refused(packed(tmp_path, "tar"), rf"out: not unpacked \({os.strerror(number)}\)")


@needs_openssl
def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tarfile.TarFile, "makefile", interrupting(KeyboardInterrupt()))
    archive = locked(packed(tmp_path, "tar.gz"), "md5")
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "out", KEY, progress=False)
    assert list(tmp_path.iterdir()) == [archive]


@needs_openssl
def test_a_killed_run_leaves_no_folder_of_that_name(tmp_path):
    archive = locked(packed(tmp_path, "tar.gz"), "md5")
    program = (
        "import sys, tarfile, time\n"
        "from atlaslib.archives import unpack\n"
        "def slow(self, member, path):\n"
        "    open(path, 'w').close()\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
        "tarfile.TarFile.makefile = slow\n"
        "unpack(sys.argv[1], sys.argv[2], sys.stdin.read(), progress=False)\n"
    )
    call = [sys.executable, "-c", program, str(archive), str(tmp_path / "out")]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(KEY.encode())
        process.stdin.close()
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    [left] = set(tmp_path.iterdir()) - {archive}
    assert left.name.startswith(".out.")
    assert left.name.endswith(".part")
    unpack(archive, tmp_path / "out", KEY, progress=False)
    assert content(tmp_path / "out") == FILES
