"""Archives for the tests of unpacking, and a check that a refusal leaves nothing behind."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from atlaslib import DataError
from atlaslib.data.archives import unpack

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")
needs_filter = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="unpacking needs Python 3.11.4 or later"
)
KEY = "pass word$1 'ü'"
FILES = {
    "ATLAS/Site1/031840/t01/a.nii.gz": random.Random(0).randbytes(300_000),
    "ATLAS/Site2/b.csv": b"subject,session\n" * 9,
    "ATLAS/empty": b"",
}
VARIANTS = [("tar.gz", "md5"), ("tar.gz", "sha256"), ("tar", "sha256"), ("zip", "md5")]


def tarred(path: Path, members: Iterable[tarfile.TarInfo] = ()) -> Path:
    """A tar or tar.gz of FILES, followed by hostile members."""
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


def encrypted(path: Path, digest: str) -> Path:
    """Encrypt an archive as the releases are, and delete the plain one."""
    assert OPENSSL
    out = path.with_name(f"{path.name}.encrypted")
    call = [OPENSSL, "aes-256-cbc", "-a", "-md", digest, "-in", path, "-out", out]
    subprocess.run([*call, "-pass", "stdin"], input=KEY.encode(), check=True, capture_output=True)
    path.unlink()
    return out


def assert_refused(archive: Path, says: str, key: str | None = None) -> None:
    """Unpacking fails with a one-line error and leaves the archive's folder unchanged."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(DataError, match=says) as error:
        unpack(archive, archive.parent / "out", key, progress=False)
    assert "\n" not in str(error.value)
    assert not key or key not in str(error.value)
    assert sorted(archive.parent.rglob("*")) == before
