"""Joining a release's metadata to its scans, whatever the layout of the tables.

Nothing here depends on the classes for scans and cohorts.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import itertools
import json
import os
import re
import warnings
from collections.abc import Hashable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

from atlaslib.files import DataError, read_bytes


def subject_key(text: object) -> str:
    """A subject's name, without prefixes and zeros that differ between releases and tables.

    "031844", 31844 and "31844.0" are the same subject, and so are "sub-r001s001" and "r001s001".
    """
    name = str(text).strip().casefold().removeprefix("sub-").removesuffix(".0")
    return name.lstrip("0")


def _session_key(text: object) -> str:
    """The session's number: "1" for "t01", " t01", "ses-1", 1 and 1.0."""
    found = _SESSION.fullmatch(str(text).strip())
    return str(int(found[1])) if found else ""


PARTICIPANTS = "participants.tsv"  # of a BIDS folder
HIDDEN = (".", "~$")  # names left by macOS (._) and by Excel (~$)
_MOST_COLUMNS = 1000  # of a table of subjects; that of release 1.1 has 13
_SESSION = re.compile(r"(?i)(?:ses-)?(?:t|ses-?|session ?)?(\d+)(?:\.0)?")
_SUBJECT = re.compile(r"(?i)subj|participant|\bid\b|_id$")  # of columns that match alike
_SESSIONS = ("session", "sessions", "session id", "ses", "visit", "timepoint", "time point")


def _scan_key(text: object) -> str:
    """Subject and session in one, whatever the separator."""
    return re.sub(r"ses-(?=t\d)|[\s_/-]", "", subject_key(text))  # a derivative's "ses-t01"


def join_metadata(table: pd.DataFrame, metadata: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join metadata to the scans; its columns are empty for scans that it does not list.

    The join uses the column whose values match the most scans, whatever its name, in any of the
    tables. It may hold subjects ("031844"), with or without a separate column of sessions, or
    subject and session in one ("c0003s0002t01", "031844_t01"). If several different rows match
    a scan, none is used.

    Parameters
    ----------
    table : DataFrame
        One row per scan: subject, session, and more.
    metadata : sequence of DataFrame
        As returned by :func:`read_tables`.

    Returns
    -------
    DataFrame
        The table, followed by the columns of the metadata; the table itself if no column
        matches a scan.
    """
    scans = table.subject + "-" + table.session
    keys = {subject_key: table.subject.map(subject_key), _scan_key: scans.map(_scan_key)}
    candidates = [
        (
            values.isin(set(sheet[name].map(key))).sum(),  # scans, not rows
            bool(_SUBJECT.search(str(name))),
            len(sheet.columns),
            key,
            name,
            sheet,
        )
        for sheet in metadata
        for name in sheet
        for key, values in keys.items()
    ]
    best = max(candidates, key=itemgetter(0, 1, 2), default=None)
    if best is None or best[0] == 0:
        return table
    *_, key, column, chosen = best
    left, right = {"_key": keys[key]}, {"_key": chosen[column].map(key)}
    kept = chosen.drop(columns=column)
    sessions = _session_column(kept, right["_key"], table) if key is subject_key else None
    if sessions is not None:
        left["_session"] = table.session.map(_session_key)
        right["_session"] = kept[sessions].map(_session_key)
        kept = kept.drop(columns=sessions)
    kept = kept.rename(columns={name: f"{name} (metadata)" for name in kept if name in table})
    other = kept.assign(**right).drop_duplicates()
    other = other[~other.duplicated(list(right), keep=False)]
    merged = table.assign(**left).merge(other, "left", list(left), validate="many_to_one")
    return merged.drop(columns=list(left))


def join_sidecars(table: pd.DataFrame, images: Sequence[Path]) -> pd.DataFrame:
    """Add what the JSON files beside images say: a column for each key with a single value.

    Raises
    ------
    DataError
        If a JSON file is damaged.
    """
    rows = []
    for image in images:
        path = image.with_name(image.name.removesuffix(".gz").removesuffix(".nii") + ".json")
        about = read_json(path) if path.exists() else {}
        single = {key: value for key, value in about.items()
                  if isinstance(value, str | int | float) and key not in table}  # fmt: skip
        rows.append(single)
    return pd.concat([table, pd.DataFrame(rows, index=table.index)], axis=1)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; DataError if the file holds anything else."""
    content = read_bytes(path)
    try:
        about = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})", "metadata") from None
    if not isinstance(about, dict):
        raise DataError(f"{path}: expected a JSON object", "metadata")
    return about


def _session_column(
    metadata: pd.DataFrame, subjects: pd.Series, table: pd.DataFrame
) -> Hashable | None:
    """The session column that, with the subjects, matches the most scans; None if there is none.

    A column of bare numbers counts only if its name says that they are sessions.
    """
    known = set(zip(table.subject.map(subject_key), table.session.map(_session_key), strict=True))
    hits = {}
    for name in metadata:
        values = metadata[name].dropna().astype(str).str.strip()
        named = str(name).strip().casefold().replace("_", " ") in _SESSIONS
        if named or (len(values) and values.str.fullmatch(r"(?i)(t|ses-?|session )\d+").all()):
            pairs = zip(subjects, metadata[name].map(_session_key), strict=True)
            hits[name] = (sum(pair in known for pair in pairs), named)
    best = max(hits, key=lambda name: hits[name], default=None)
    return best if best is not None and hits[best][0] else None


def read_tables(path: Path) -> list[pd.DataFrame]:
    """The tables of a CSV or TSV file, for every separator, or of a workbook, for every sheet.

    A title above the column names is allowed; sheets with the same columns become one table.

    Raises
    ------
    DataError
        If the file cannot be read.
    ValueError
        If it contains no table.
    """
    found = []
    content = read_bytes(path)
    if path.suffix.casefold() in (".csv", ".tsv"):
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Excel's "Unicode"
        text = content.decode("utf-16" if utf16 else "utf-8-sig", errors="replace")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # rows longer than the header
            for separator, header in itertools.product(",;\t", (0, 1)):
                with contextlib.suppress(ValueError):  # pandas' ParserError is one
                    first = text.split("\n", 2)[:2]  # above the names there may be a title
                    _check_width(max(line.count(separator) for line in first))
                    file = io.StringIO(text)
                    found.append(pd.read_csv(file, sep=separator, header=header, index_col=False))
        if not found:
            raise ValueError("no columns found")
        return found
    try:
        for header in (0, 1):
            found += pd.read_excel(io.BytesIO(content), sheet_name=None, header=header).values()
            _check_width(max((len(table.columns) for table in found), default=0))
    except Exception as error:  # a damaged workbook can raise almost anything
        raise ValueError(str(error)) from None
    alike = [[table for table in found if list(table) == list(first)] for first in found]
    return [pd.concat(tables, ignore_index=True) for tables in alike]


def _check_width(columns: int) -> None:
    if columns > _MOST_COLUMNS:
        raise ValueError(f"more than {_MOST_COLUMNS} columns")


def find_table(root: Path, inside: list[Path], participants: bool = False) -> Path | None:
    """The table of metadata of a folder: in it, or else in one of the three above it.

    Parameters
    ----------
    root : Path
    inside : list of Path
        The tables in the folder, as by :func:`is_table`.
    participants : bool, default=False
        Whether it may be ``participants.tsv``, which then comes before others.
    """
    above = list(Path(os.path.abspath(root)).parents)[:3]
    for found in (inside, *map(_tables_in, above)):
        if not participants:
            found = [path for path in found if path.name != PARTICIPANTS]
        if found:
            return min(found, key=_table_order)
    return None


def _table_order(path: Path) -> tuple[bool, bool, Path]:
    """The best of several tables first."""
    return path.name != PARTICIPANTS, "standard" not in path.name.casefold(), path


def is_table(name: str) -> bool:
    """Whether a file holds metadata, by its name."""
    known = name.casefold()
    named = known == PARTICIPANTS or ("meta" in known and known.endswith((".csv", ".xlsx")))
    return named and not name.startswith(HIDDEN)


def _tables_in(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [folder / name for name in names if is_table(name)]
