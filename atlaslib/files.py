"""File helpers: atomic writes, clear errors on reading, and the folder where data is kept."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

Content = TypeVar("Content")


def one_line(text: object) -> str:
    """A text without line breaks; for an error without text, the name of its type."""
    joined = " ".join(str(text).split())
    return joined or type(text).__name__


def expect(name: str, value: object, *kinds: type) -> None:
    """Raise ValueError unless an argument is of its type, or of one of several."""
    if not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{name}: expected a {expected}, got {type(value).__name__}")


class DataError(ValueError):
    """Something is wrong with a data folder or file; the message is a single line.

    Attributes
    ----------
    kind : str
        The kind of fault in one or two words, for use by programs: "no mask", "shape", ...
    blocks : bool
        False for a warning: it deserves a look, but training can start.
    """

    def __init__(self, message: str, kind: str = "data", blocks: bool = True) -> None:
        super().__init__(one_line(message))
        self.kind = kind
        self.blocks = blocks


def home() -> Path:
    """The folder where generated data, cached slices and runs are kept.

    The environment variable ``ATLASLIB_HOME`` if it is set; in a checkout of the repository,
    its ``data`` folder; otherwise ``~/.cache/atlaslib``.
    """
    if chosen := os.environ.get("ATLASLIB_HOME"):
        return user_path(chosen)
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "_toc.yml").is_file():
        return checkout / "data"
    return user_path("~/.cache/atlaslib")


def user_path(path: str | os.PathLike[str], shown: str = "") -> Path:
    """A path that the user gave, with ``~`` expanded.

    Parameters
    ----------
    path : path
    shown : str
        What an error calls the path, if it must not be printed.

    Raises
    ------
    DataError
        If it is not a path, or starts with the home folder of an unknown user.
    """
    try:
        expanded = Path(path).expanduser()
    except TypeError:
        raise DataError(f"expected a path, got {type(path).__name__}", "path") from None
    except RuntimeError:
        raise DataError(f"{shown or path}: unknown home folder", "path") from None
    if "\0" in str(expanded):
        raise DataError(f"{shown or repr(path)}: a path cannot contain a NUL character", "path")
    return expanded


def shipped(name: str) -> Path:
    """A data folder shipped with the library: ``data/NAME`` in a clone, else the package's copy."""
    package = Path(__file__).resolve().parent
    clone = package.parent / "data" / name
    return clone if clone.is_dir() else package / name


def read_bytes(path: Path) -> bytes:
    """The contents of a file; :class:`DataError` if it cannot be read."""
    try:
        _check_regular(path, path.stat())
        return path.read_bytes()
    except OSError as error:
        raise open_error(path, error) from None


def open_error(path: Path, error: OSError) -> DataError:
    """Turn the OSError of a file or folder that cannot be opened into a :class:`DataError`."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: no such file", "missing")
    if isinstance(error, PermissionError):
        return DataError(f"{path}: permission denied", "permission")
    return DataError(f"{path}: cannot be opened ({error.strerror})", "unreadable")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, read once per process unless the file changes."""
    try:
        found = path.stat()
        _check_regular(path, found)
        return _file_digest(path, found.st_mtime_ns, found.st_size)
    except OSError as error:
        raise open_error(path, error) from None


def _check_regular(path: Path, found: os.stat_result) -> None:
    """Refuse a pipe or a device, which would be read for ever."""
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise DataError(f"{path}: not a regular file", "unreadable")


@cache
def _file_digest(path: Path, mtime_ns: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def atomic_write(path: Path, write: Callable[[str], object]) -> None:
    """Let ``write(name)`` write a file under a temporary name, then rename it into place.

    The folder is created if it is missing.

    Raises
    ------
    DataError
        If the disk is full. No temporary file is left behind; an existing file stays unchanged.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch(exist_ok=False)  # with the user's default permissions
        write(str(part))
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            raise DataError(f"{path}: not written, the disk is full", "disk") from None
        raise


def check_writable(path: Path) -> None:
    """Raise :class:`DataError` if no file of this name could be written, before work begins."""
    if path.exists():
        raise DataError(f"{path}: exists already and is not overwritten", "exists")
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: its folder does not exist", "missing") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})", "permission") from None


def make_folder(folder: Path) -> None:
    """Make a folder in which files can be written, or raise :class:`DataError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror})", "permission") from None
    check_writable(folder / secrets.token_hex(8))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically."""
    text = json.dumps(content, indent=2) + "\n"
    atomic_write(path, lambda name: Path(name).write_bytes(text.encode()))


def checked(kind: type[Content], content: object) -> Content:
    """Check what was read from a file; ValueError names the first entry that is wrong.

    Parameters
    ----------
    kind : TypedDict
        The entries and their types. Other entries are left out.
    content : object
    """
    try:
        return _adapter(kind).validate_python(content, strict=True)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
