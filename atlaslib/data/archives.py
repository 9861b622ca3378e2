"""Unpacking ATLAS as it is distributed: a tar.gz, tar or zip, encrypted by ``openssl``.

Decryption streams straight into extraction, so that the decrypted archive is never stored on disk;
the exception is a zip, whose table of contents is at its end.
"""

from __future__ import annotations

import codecs
import contextlib
import getpass
import gzip
import lzma
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import IO, Any

from tqdm.auto import tqdm

from atlaslib.files import DataError, user_path

_DEEPEST = 50  # folders; releases have up to eight
KEY_VARIABLE = "ATLAS_KEY"
_DIGESTS = ("sha256", "md5")  # for release 2.0 and for 1.x: openssl's default has changed
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError,
            EOFError)  # fmt: skip


def unpack(
    archive: str | Path, folder: str | Path, key: str | None = None, progress: bool = True
) -> Path:
    """Decrypt an archive of ATLAS and extract it into a new or empty folder.

    Everything is extracted into a temporary folder beside it, ``.FOLDER.xxxx.part``, and renamed
    when complete. The resource files of macOS (``._*``, ``__MACOSX``) are left out.

    Parameters
    ----------
    archive : path
        A tar.gz, tar or zip, plain or encrypted by ``openssl`` with AES-256-CBC and base64.
    folder : path
        Where the contents go; its parent must exist.
    key : str, optional
        The key of the archive (see :func:`read_key`); a plain archive needs none.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    DataError
        If the key is wrong; if the archive is damaged, incomplete, or has a member that could
        write outside the folder; if the folder is not empty; if the disk is full; if ``openssl``
        is missing. Nothing is left behind, and the folder stays unchanged.
    """
    archive, folder = user_path(archive), user_path(folder)
    if not hasattr(tarfile, "data_filter"):
        raise DataError("unpacking safely needs Python 3.11.4 or later; update Python")
    encrypted = is_encrypted(archive)
    if encrypted and not key:
        raise DataError(f"{archive}: is encrypted, but no key was given", "key")
    size = archive.stat().st_size
    target = folder.resolve()  # follows a link, so that the last step is only a rename
    try:
        if target.exists() and (
            not target.is_dir() or any(target.iterdir()) or os.path.ismount(target)
        ):
            raise DataError(f"{folder}: not an empty folder, or a mount point; choose a new one")
        # a line of base64 has 65 characters, including the newline, for 48 bytes
        total = size * 48 // 65 if encrypted else size
        if (free := shutil.disk_usage(target.parent).free) < total:
            raise DataError(
                f"{folder}: not enough disk space, {archive.name} needs over {total / 1e9:.1f} GB, "
                f"{free / 1e9:.1f} GB are free",
                "disk",
            )
        digest, kind = _probe(archive, key if encrypted else None)
        bar = {"total": total, "desc": archive.name, "disable": not progress}
        with tempfile.TemporaryDirectory(
            dir=target.parent, prefix=f".{target.name}.", suffix=".part", ignore_cleanup_errors=True
        ) as part:
            content = Path(part, target.name)  # not part itself, which only its owner can enter
            content.mkdir()
            with (
                _open(archive, key, digest) as stream,
                tqdm.wrapattr(stream, "read", **bar) as counted,
            ):
                if kind != "zip":
                    _extract_tar(counted, kind == "gzip", content)
                elif not encrypted:
                    _extract_zip(counted, content)
                else:
                    with tempfile.TemporaryFile(dir=part) as whole:
                        shutil.copyfileobj(counted, whole)
                        _extract_zip(whole, content)
            if target.exists():
                target.rmdir()
            content.rename(target)
    except _DAMAGED:  # before OSError, as BadGzipFile is a subclass of it
        raise DataError(
            f"{archive}: incomplete or damaged (it has {size:,} bytes); download it again",
            "damaged",
        ) from None
    except OSError as error:
        raise DataError(f"{folder}: not unpacked ({error.strerror or error})", "disk") from None
    except DataError:
        raise
    except (ValueError, OverflowError) as error:  # invalid file names or dates
        raise DataError(
            f"{archive}: not unpacked, a member is damaged ({error})", "damaged"
        ) from None
    return folder


def is_encrypted(archive: str | Path) -> bool:
    """Whether an archive needs a key; :class:`DataError` if the file is not an archive."""
    archive = user_path(archive)
    try:
        with open(archive, "rb") as file:
            head = file.read(tarfile.BLOCKSIZE)
    except OSError as error:
        raise DataError(f"{archive}: cannot be opened ({error.strerror})", "unreadable") from None
    if _kind(head):
        return False
    if head.startswith(b"U2FsdGVkX1"):  # "Salted__" in base64
        return True
    # the content is not quoted: the file may be the key file, given in place of the archive
    raise DataError(f"{archive}: neither a tar.gz, tar or zip nor one encrypted by openssl")


def read_key(key_file: str | Path | None = None) -> str:
    """The key of an encrypted archive: from a file, else ``ATLAS_KEY``, else a prompt.

    Parameters
    ----------
    key_file : path, optional
        A text file with the key as its only line.

    Returns
    -------
    str
        The key, without the trailing newline.

    Raises
    ------
    DataError
        If the key is empty or has several lines, if its file cannot be read, or if there is no
        terminal for the prompt.
    """
    if key_file is not None:
        where = "the key file"  # not its name, which may be the key itself, given by mistake
        try:
            key = _text(user_path(key_file, where).read_bytes())
        except OSError as error:
            raise DataError(f"{where} cannot be opened ({error.strerror})", "key") from None
    elif KEY_VARIABLE in os.environ:
        where, key = f"environment variable {KEY_VARIABLE}", os.environ[KEY_VARIABLE]
    elif sys.stdin and sys.stdin.isatty():
        where, key = "key", ""
        with contextlib.suppress(EOFError):
            key = getpass.getpass("Key of the archive (not shown while typing): ")
    else:
        raise DataError(
            "the archive is encrypted: give its key with --key-file FILE, in the environment "
            f"variable {KEY_VARIABLE}, or by typing it in a terminal",
            "key",
        )
    key = key.removesuffix("\n").removesuffix("\r")
    if not key or "\n" in key:
        found = "several" if key else "nothing"
        raise DataError(f"{where}: expected one line with the key, found {found}", "key")
    return key


def _text(content: bytes) -> str:
    """Decode as the environment is; without the byte-order mark of Windows editors."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    return os.fsdecode(content.removeprefix(codecs.BOM_UTF8))


# --- decryption ---------------------------------------------------------------------------------


def _kind(head: bytes) -> str | None:
    """From three or more magic bytes: two would match a wrong key's garbage now and then."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    return "tar" if head[257:262] == b"ustar" else None


def _probe(archive: Path, key: str | None) -> tuple[str | None, str]:
    """The digest with which the key decrypts the archive, and the kind of archive inside."""
    for digest in _DIGESTS if key else (None,):
        # openssl reports a wrong key only after the last byte, and misses one in 256
        with contextlib.suppress(EOFError), _open(archive, key, digest) as stream:
            head = stream.read(tarfile.BLOCKSIZE)
        if kind := _kind(head):
            return digest, kind
    text = f"wrong key (tried with {' and '.join(_DIGESTS)})"
    if key and key != key.strip():
        text += "; it starts or ends with whitespace"
    raise DataError(f"{archive}: {text}, or the archive's first bytes are damaged", "key")


@contextlib.contextmanager
def _open(archive: Path, key: str | None, digest: str | None) -> Iterator[IO[bytes]]:
    """The archive's bytes, decrypted if a digest is given; EOFError if ``openssl`` fails."""
    if not key or not digest:
        with open(archive, "rb") as file:
            yield file
        return
    # the key goes through a pipe: every user of the machine can see a process's arguments
    command = ["openssl", "enc", "-d", "-a", "-aes-256-cbc", "-md", digest, "-pass", "stdin"]
    try:
        process = subprocess.Popen(
            [*command, "-in", str(archive)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name != KEY_VARIABLE},
        )
    except FileNotFoundError:
        raise DataError(
            "openssl, which decrypts the archive, was not found: install it with "
            "apt install openssl, brew install openssl or conda install openssl",
            "openssl",
        ) from None
    with process:
        assert process.stdin
        assert process.stdout
        with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(os.fsencode(key) + b"\n")
        yield process.stdout
    if process.returncode:
        raise EOFError


# --- extraction ---------------------------------------------------------------------------------


class _Blocks:
    """A stream that remembers the last block read."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile) -> None:
        self.stream = stream
        self.last = b""

    def read(self, size: int) -> bytes:
        self.last = self.stream.read(size)
        return self.last


def _extract_tar(stream: IO[bytes], gzipped: bool, folder: Path) -> None:
    # not tarfile's own "r|gz", which does not verify the checksum
    blocks: Any = _Blocks(gzip.GzipFile(fileobj=stream) if gzipped else stream)
    with tarfile.open(fileobj=blocks, mode="r|", bufsize=tarfile.BLOCKSIZE) as tar:
        tar.extractall(folder, filter=_tar_filter)
    # tarfile stops silently at a missing or unreadable header; a complete tar ends with zeros
    if blocks.last != bytes(tarfile.BLOCKSIZE):
        raise EOFError
    while blocks.read(1 << 20):  # to the end, for gzip's checksum and openssl's exit status
        pass


def _tar_filter(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Stricter than ``data_filter``, which on older Pythons lets some symbolic links escape."""
    wanted = _is_wanted(member.name)
    if member.issparse():  # its size may be anything
        raise _member_error(member.name, "is sparse")
    hard_link = member.islnk() and Path(folder, member.linkname).is_file()
    if not (member.isfile() or member.isdir() or hard_link):
        raise _member_error(member.name, "is neither a file nor a folder")
    try:
        checked = tarfile.data_filter(member, folder)
    except tarfile.FilterError:
        raise _member_error(member.name, "leads out of the folder") from None
    return checked if wanted else None


def _extract_zip(file: IO[bytes], folder: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if not _is_wanted(member.filename):
                continue
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _member_error(member.filename, "is neither a file nor a folder")
            try:
                archive.extract(member, folder)
            except RuntimeError as error:  # password-protected, or an unknown compression
                raise _member_error(member.filename, f"cannot be read ({error})") from None


def _is_wanted(name: str) -> bool:
    """False for files that macOS adds; an error for a name that leads out of the folder."""
    path = PureWindowsPath(name)  # understands both kinds of slash, and drives
    if path.anchor or ".." in path.parts:
        raise _member_error(name, "leads out of the folder")
    if len(path.parts) > _DEEPEST:
        raise _member_error(name, f"lies more than {_DEEPEST} folders deep")
    return "__MACOSX" not in path.parts and not path.name.startswith("._")


def _member_error(name: str, why: str) -> DataError:
    shown = name if len(name) <= 80 else f"{name[:80]}..."
    return DataError(f"archive member {shown!r} {why}; nothing was unpacked", "refused")
