"""Joining metadata to the scans, whatever the layout of its table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trees

from atlaslib import DataError, load_cohort
from atlaslib.data.metadata import join_metadata


@pytest.mark.parametrize("inside", ["", "Site8"])
def test_metadata_of_1_1_is_joined_by_subject_and_session(inside, tmp_path):
    table = (
        load_cohort(trees.release_1_1(tmp_path) / inside).table().set_index(["subject", "session"])
    )
    kinds = table["Stroke type"].to_dict()
    assert kinds["000123", "t01"] == "Lacunar"
    assert kinds["000123", "t02"] == "Later"
    assert kinds["090012", "t01"] != kinds["090012", "t01"]  # not listed: empty
    assert inside or kinds["031844", "t01"] == "Embolic"
    assert len(table) == (3 if inside else 4)


@pytest.mark.parametrize(
    "columns",
    [
        {"Subject ID": ["sub-r001s001", "sub-r009s003"], "Session": ["ses-1", "ses-1"]},
        {"BIDS_ID": ["r009s003 ", "R001S001"][::-1]},
        {"participant": ["sub-r001s001", "sub-r009s003"], "Sessions": [1, 1]},
    ],
)
def test_metadata_of_2_0_is_joined_from_a_workbook(columns, tmp_path):
    top = trees.release_2_0(tmp_path)
    trees.workbook(top / "20200101_ATLAS_2.0_MetaData.xlsx", {**columns, "Days": [100, 2000]})
    for root in (tmp_path, top, top / "Training"):
        days = load_cohort(root).table().set_index("subject").Days
        assert days["sub-r001s001"] == 100
        assert days["sub-r009s003"] == 2000
        assert np.isnan(days["sub-r001s002"])


@pytest.mark.parametrize(
    "columns",
    [
        {"Subject": ["c0003s0002", "c0003s0002", "c0010s0001"], "Session": [" t01", "t02", "t01"]},
        {"INDI ID": ["C0003s0002", "c0003s0002", "c0010s0001"], "Visit": ["t01", "t02", "t01"]},
        {"Scan": ["c0003s0002t01", "c0003s0002t02", "c0010s0001t01"]},
    ],
)
def test_metadata_of_1_2_is_joined_from_any_sheet(columns, tmp_path):
    top = trees.release_1_2(tmp_path)
    with pd.ExcelWriter(top / "ATLAS_Meta-Data_Release_1.2.xlsx") as book:
        pd.DataFrame({"Legend": ["LH: left hemisphere"]}).to_excel(book, sheet_name="read me")
        data = pd.DataFrame({**columns, "Lesions": [1, 2, 3]})
        data.to_excel(book, sheet_name="data", index=False)
    table = load_cohort(top).table().set_index(["subject", "session"])
    assert table.Lesions.dropna().to_dict() == {
        ("c0003s0002", "t01"): 1, ("c0003s0002", "t02"): 2, ("c0010s0001", "t01"): 3,
    }  # fmt: skip
    assert len(table) == 4


@pytest.mark.parametrize("separator", [";", "\t"])
def test_csv_metadata_may_use_other_separators(separator, tmp_path):
    top = trees.release_1_1(tmp_path)
    path = next(top.glob("*.csv"))
    path.write_text(path.read_text().replace(",", separator))
    assert list(load_cohort(top).table()["Stroke type"].dropna()) == ["Embolic", "Lacunar", "Later"]


def kinds(top: Path) -> dict[tuple[str, str], object]:
    table = load_cohort(top).table()
    return table.set_index(["subject", "session"])["Stroke type"].dropna().to_dict()


EXPECTED = {("031844", "t01"): "Embolic", ("000123", "t01"): "Lacunar", ("000123", "t02"): "Later"}


@pytest.mark.parametrize(
    "text",
    [
        # an extra comma at the end of each row
        "Site,Subject,Session,Stroke type\n2,31844, t01,Embolic,\n8,123, t01,Lacunar,\n"
        "8,123, t02,Later,\n",
        # other columns that look like sessions, rows in another order
        "Subject,Modality,Session,Stroke type\n123,T1,t02,Later\n123,T1,t01,Lacunar\n"
        "31844,T1,t01,Embolic\n",
        "Subject,Session date,Session,Stroke type\n123,2011-02-03,2,Later\n"
        "123,2010-02-03,1,Lacunar\n31844,2010-02-03,1,Embolic\n",
        "Subject,Timepoint,Stroke type\n123,2,Later\n123,1,Lacunar\n31844,1,Embolic\n",
        # subject and session in one column
        "Scan,Stroke type\n031844_t01,Embolic\n000123-t01,Lacunar\n123 t02,Later\n",
        # a title above the table, and commas in a column name
        "Metadata of release 1.1\nSubject;Side (left, right, both);Session;Stroke type\n"
        "31844;left;t01;Embolic\n123;left;t01;Lacunar\n123;left;t02;Later\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_metadata_is_joined_whatever_its_layout(text, encoding, tmp_path):
    top = trees.release_1_1(tmp_path)
    next(top.glob("*.csv")).write_bytes(text.encode(encoding))
    assert kinds(top) == EXPECTED


def test_conflicting_rows_for_one_scan_are_not_used(tmp_path):
    top = trees.release_1_1(tmp_path)
    text = "Subject,Sessions available,Stroke type\n123,2,Later\n123,2,Lacunar\n31844,1,Embolic\n"
    next(top.glob("*.csv")).write_text(text)
    assert kinds(top) == {("031844", "t01"): "Embolic"}


def test_metadata_spread_over_several_sheets(tmp_path):
    top = trees.release_2_0(tmp_path)
    with pd.ExcelWriter(top / "metadata.xlsx") as book:
        for subject, days in (("sub-r001s001", 1), ("sub-r001s002", 2), ("sub-r009s003", 3)):
            sheet = pd.DataFrame({"Subject ID": [subject], "Days": [days]})
            sheet.to_excel(book, sheet_name=subject, index=False)
    assert load_cohort(top).table().Days.dropna().tolist() == [1, 2, 3]


@pytest.mark.parametrize("left", ["._ATLAS_Meta-Data.csv", "~$ATLAS_Meta-Data.xlsx"])
def test_temporary_files_of_macos_and_excel_are_not_metadata(left, tmp_path):
    top = trees.release_1_1(tmp_path)
    (top / left).write_bytes(b"\0\5\x16\7")
    assert kinds(top) == EXPECTED
    assert len(kinds(top / "Site8")) == 2


def test_metadata_of_other_subjects_is_ignored(tmp_path):
    top = trees.release_2_0(tmp_path)
    trees.workbook(top / "metadata.xlsx", {"Subject ID": ["x", "y"], "Days": [1, 2]})
    assert list(load_cohort(top).table()) == ["subject", "session", "site", "masks", "t1"]


def test_a_damaged_workbook_is_one_line(tmp_path):
    top = trees.release_2_0(tmp_path)
    (top / "metadata.xlsx").write_bytes(b"no workbook")
    cohort = load_cohort(top)
    with pytest.raises(DataError, match=r"metadata.xlsx: not a readable table") as error:
        cohort.table()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.xlsx"])
def test_metadata_that_cannot_be_read_is_said_once(name, tmp_path):
    top = trees.release_2_0(tmp_path)
    cohort = dataclasses.replace(load_cohort(top), metadata=top / name)
    with pytest.raises(DataError) as error:
        cohort.table()
    assert (str(error.value), error.value.kind) == (f"{top / name}: no such file", "missing")


def test_codes_are_not_taken_for_subjects():
    scans = pd.DataFrame({"subject": ["sub-1", "sub-2", "sub-10"], "session": [""] * 3})
    sheet = pd.DataFrame({"participant_id": ["sub-1", "sub-2", "sub-10", "sub-11"],
                          "sex": [1, 2, 1, 2], "age": [50, 60, 70, 80]})  # fmt: skip
    assert join_metadata(scans, [sheet]).age.tolist() == [50, 60, 70]


@pytest.mark.parametrize(
    "columns",
    [{"Scan": ["c0003s0002t01", "c0003s0002t02"]},
     {"Subject": ["c0003s0002"] * 2, "Session": [" t01", "t02"]}],
)  # fmt: skip
def test_metadata_follow_a_scan_into_a_derivative(columns):
    scans = pd.DataFrame({"subject": ["sub-c0003s0002"] * 2, "session": ["ses-t01", "ses-t02"]})
    assert join_metadata(scans, [pd.DataFrame({**columns, "n": [1, 2]})]).n.tolist() == [1, 2]


def test_of_columns_that_name_as_many_subjects_the_one_called_so_is_joined():
    """A column of matched controls holds the same subjects in another order."""
    scans = pd.DataFrame({"subject": ["031840", "031841"], "session": ["t01", "t01"]})
    sheet = pd.DataFrame(
        {"control": [31841, 31840], "INDI Subject ID": [31840, 31841], "age": [50, 60]}
    )
    for columns in (list(sheet), list(sheet)[::-1]):
        assert join_metadata(scans, [sheet[columns]]).age.tolist() == [50, 60]
