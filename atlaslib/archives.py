"""Unpacking ATLAS as it is distributed: a tar.gz, tar or zip, encrypted by ``openssl``.

Decryption streams into extraction: the disk never holds a decrypted archive, save for a zip,
whose table of contents stands at its end.
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

from atlaslib.cohort import DataError

KEY_VARIABLE = "ATLAS_KEY"
_DIGESTS = ("sha256", "md5")  # of release 2.0 and of releases 1.x: openssl's default has changed
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError,
            EOFError)  # fmt: skip


def unpack(
    archive: str | Path, folder: str | Path, key: str | None = None, progress: bool = True
) -> Path:
    """Decrypt and extract an archive of ATLAS into a new or empty folder.

    All is extracted beside the folder, under the name ``.FOLDER.xxxx.part``, and renamed when
    complete. The resource files of macOS (``._*``, ``__MACOSX``) are left out.

    Parameters
    ----------
    archive : path
        A tar.gz, tar or zip, plain or encrypted with AES-256-CBC and base64 by ``openssl``.
    folder : path
        Where the content goes; its parent must exist.
    key : str, optional
        The key that came with the archive (:func:`read_key`); a plain archive needs none.
    progress : bool
        Show a bar.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    DataError
        If the key is wrong; the archive is damaged, incomplete, or has a member that could write
        outside the folder; the folder is not empty; the disk is full; ``openssl`` is missing.
        Nothing is left behind, and the folder stays as it was.
    """
    archive, folder = Path(archive), Path(folder)
    if not hasattr(tarfile, "data_filter"):
        raise DataError("unpacking safely needs Python 3.11.4 or later; update Python")
    locked = is_encrypted(archive)
    if locked and not key:
        raise DataError(f"{archive}: is encrypted, and no key was given", "key")
    size = archive.stat().st_size
    target = folder.resolve()  # where a link leads, so that the last step is a mere renaming
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir()) or target.is_mount()):
            raise DataError(f"{folder}: not an empty folder, or a mount point; name a new folder")
        # base64 has 65 characters, the line's end among them, for 48 bytes
        total = size * 48 // 65 if locked else size
        if (free := shutil.disk_usage(target.parent).free) < total:
            raise DataError(
                f"{folder}: not enough disk, {archive.name} needs over {total / 1e9:.1f} GB, "
                f"{free / 1e9:.1f} GB are free",
                "disk",
            )
        digest, kind = _probed(archive, key if locked else None)
        bar = {"total": total, "desc": archive.name, "disable": not progress}
        with tempfile.TemporaryDirectory(
            dir=target.parent, prefix=f".{target.name}.", suffix=".part", ignore_cleanup_errors=True
        ) as part:
            content = Path(part, target.name)  # not part itself, which only its owner may enter
            content.mkdir()
            with (
                _opened(archive, key, digest) as stream,
                tqdm.wrapattr(stream, "read", **bar) as counted,
            ):
                if kind != "zip":
                    _extract_tar(counted, kind == "gzip", content)
                elif not locked:
                    _extract_zip(counted, content)
                else:
                    with tempfile.TemporaryFile(dir=part) as whole:
                        shutil.copyfileobj(counted, whole)
                        _extract_zip(whole, content)
            if target.exists():
                target.rmdir()
            content.rename(target)
    except _DAMAGED:  # before OSError, of which BadGzipFile is one
        raise DataError(
            f"{archive}: incomplete or damaged (it has {size:,} bytes); download it again",
            "damaged",
        ) from None
    except OSError as error:
        raise DataError(f"{folder}: not unpacked ({error.strerror or error})", "disk") from None
    except DataError:
        raise
    except (ValueError, OverflowError) as error:  # names and dates that no file can have
        raise DataError(
            f"{archive}: not unpacked, a member is damaged ({error})", "damaged"
        ) from None
    return folder


def is_encrypted(archive: str | Path) -> bool:
    """Whether an archive needs a key; :class:`DataError` if the file is no archive at all."""
    try:
        with open(archive, "rb") as file:
            head = file.read(tarfile.BLOCKSIZE)
    except OSError as error:
        raise DataError(f"{archive}: cannot be opened ({error.strerror})", "unreadable") from None
    if _kind(head):
        return False
    if head.startswith(b"U2FsdGVkX1"):  # "Salted__" in base64
        return True
    # what was found is not quoted: it may be the key's file, given in the wrong place
    raise DataError(f"{archive}: neither a tar.gz, tar or zip nor one encrypted by openssl")


def read_key(key_file: str | Path | None = None) -> str:
    """The key of an encrypted archive, from a file, else ``ATLAS_KEY``, else asked for.

    Parameters
    ----------
    key_file : path, optional
        A text file with the key as its only line.

    Returns
    -------
    str
        The key without the end of its line.

    Raises
    ------
    DataError
        If the key is empty or has several lines, its file cannot be read, or there is no terminal
        on which to ask for it.
    """
    if key_file is not None:
        where = "the key's file"  # not its name: it may be the key itself, given in its place
        try:
            key = _text(Path(key_file).read_bytes())
        except OSError as error:
            raise DataError(f"{where} cannot be opened ({error.strerror})", "key") from None
    elif KEY_VARIABLE in os.environ:
        where, key = f"environment variable {KEY_VARIABLE}", os.environ[KEY_VARIABLE]
    elif sys.stdin and sys.stdin.isatty():
        where, key = "key", ""
        with contextlib.suppress(EOFError):
            key = getpass.getpass("Key of the archive (not shown): ")
    else:
        raise DataError(
            "the archive is encrypted: give its key by --key-file FILE, in the environment "
            f"variable {KEY_VARIABLE}, or at a terminal",
            "key",
        )
    key = key.removesuffix("\n").removesuffix("\r")
    if not key or "\n" in key:
        found = "several" if key else "nothing"
        raise DataError(f"{where}: expected one line with the key, found {found}", "key")
    return key


def _text(content: bytes) -> str:
    """Any bytes, as from the environment; without the marks that Windows' editors put first."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    return os.fsdecode(content.removeprefix(codecs.BOM_UTF8))


# --- decryption ---------------------------------------------------------------------------------


def _kind(head: bytes) -> str | None:
    """By magic bytes; three at least, as a wrong key's garbage has the first two now and then."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    return "tar" if head[257:262] == b"ustar" else None


def _probed(archive: Path, key: str | None) -> tuple[str | None, str]:
    """The digest with which the key opens the archive, and the kind of archive inside."""
    for digest in _DIGESTS if key else (None,):
        # openssl's own verdict comes after the last byte, and passes one wrong key in 256
        with contextlib.suppress(EOFError), _opened(archive, key, digest) as stream:
            head = stream.read(tarfile.BLOCKSIZE)
        if kind := _kind(head):
            return digest, kind
    text = f"wrong key (tried with {' and '.join(_DIGESTS)})"
    if key and key != key.strip():
        text += "; it has spaces at its ends"
    raise DataError(f"{archive}: {text}, or the archive's first bytes are damaged", "key")


@contextlib.contextmanager
def _opened(archive: Path, key: str | None, digest: str | None) -> Iterator[IO[bytes]]:
    """The archive's bytes, decrypted if there is a digest; EOFError if ``openssl`` complains."""
    if not key or not digest:
        with open(archive, "rb") as file:
            yield file
        return
    # the key goes through a pipe: anyone on the machine may see a process's arguments
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
    """A stream that remembers what was read last."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile) -> None:
        self.stream = stream
        self.last = b""

    def read(self, size: int) -> bytes:
        self.last = self.stream.read(size)
        return self.last


def _extract_tar(stream: IO[bytes], gzipped: bool, folder: Path) -> None:
    # not tarfile's own "r|gz", which compares no checksum
    blocks: Any = _Blocks(gzip.GzipFile(fileobj=stream) if gzipped else stream)
    with tarfile.open(fileobj=blocks, mode="r|", bufsize=tarfile.BLOCKSIZE) as tar:
        tar.extractall(folder, filter=_accepted)
    # tarfile ends quietly at a header that is missing or unreadable; a whole tar ends with zeros
    if blocks.last != bytes(tarfile.BLOCKSIZE):
        raise EOFError
    while blocks.read(1 << 20):  # on to gzip's checksum and openssl's verdict
        pass


def _accepted(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """``data_filter`` and more: older Pythons follow some symbolic links out of the folder."""
    wanted = _wanted(member.name)
    known = member.islnk() and Path(folder, member.linkname).is_file()
    if not (member.isfile() or member.isdir() or known):
        raise _refusal(member.name, "is neither a file nor a folder")
    try:
        checked = tarfile.data_filter(member, folder)
    except tarfile.FilterError:
        raise _refusal(member.name, "leads out of the folder") from None
    return checked if wanted else None


def _extract_zip(file: IO[bytes], folder: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if not _wanted(member.filename):
                continue
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refusal(member.filename, "is neither a file nor a folder")
            try:
                archive.extract(member, folder)
            except RuntimeError as error:  # a password, or an unknown compression
                raise _refusal(member.filename, f"cannot be read ({error})") from None


def _wanted(name: str) -> bool:
    """False for what macOS adds; an error for a name that leads out of the folder."""
    path = PureWindowsPath(name)  # knows both kinds of slash, and drives
    if path.anchor or ".." in path.parts:
        raise _refusal(name, "leads out of the folder")
    return "__MACOSX" not in path.parts and not path.name.startswith("._")


def _refusal(name: str, why: str) -> DataError:
    return DataError(f"the archive's member {name!r} {why}; nothing was unpacked", "refused")
