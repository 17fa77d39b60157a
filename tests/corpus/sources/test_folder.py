import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from pydicom.data import get_testdata_file

from medweave.corpus.limits import BadImage
from medweave.corpus.sample import State, Text
from medweave.corpus.sources.folder import Source, SourceRecipe
from medweave.errors import RequestError
from medweave.recipe import check

HEAD = ["file", "set", "kind", "part", "finding", "note", "who", "side", "terms"]
COLUMNS = {
    "path": "file",
    "source": "set",
    "modality": "kind",
    "anatomy": "part",
    "labels": "finding",
    "caption": "note",
    "patient": "who",
    "licence": "terms",
}
ROWS = [
    ["a/1.jpg", "one", "X-ray", "chest", "pneumonia|effusion", "Opacity. Credit: Dr. No", "p1", "train", "CC BY 4.0"],
    ["a/2.jpg", "one", "Radiography", "chest", "normal", "", "p2", "val", "CC BY 4.0"],
    ["b/1.jpg", "two sets", "histopathology", "lung", "", "Glands.", "", "test", ""],
]


def write(folder: Path, rows=ROWS, head=HEAD, name="m.csv"):
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def source(folder: Path, **fields) -> Source:
    fields = {"manifest": "m.csv", "columns": COLUMNS} | fields
    return Source(check({"kind": "folder", "path": str(folder), **fields}, SourceRecipe, where="test"))


def samples(folder: Path, **fields):
    return list(source(folder, **fields).samples())


def test_a_manifest_as_its_columns_say(tmp_path):
    write(tmp_path)
    first, second, third = samples(tmp_path, strip=[r"\s*Credit:.*$"])
    assert (first.id, first.source, first.place) == ("one/a/1", "one", "a/1.jpg")
    assert (first.modality, first.anatomy, first.patient, first.licence) == ("xray", "chest", "p1", "CC BY 4.0")
    assert first.texts == (Text("caption", "Opacity."),)
    assert first.findings == {"pneumonia": State.PRESENT, "effusion": State.PRESENT}
    assert (second.modality, second.texts, second.split) == ("xray", (), None)
    assert (third.source, third.modality, third.patient, third.licence) == ("two_sets", "pathology", None, None)
    assert third.findings == {}


def test_exhaustive_labels_make_the_rest_of_their_source_absent(tmp_path):
    write(tmp_path, [*ROWS, ["b/2.jpg", "two sets", "pathology", "lung", "tumor", "", "", "", ""]])
    first, second, third, _ = samples(tmp_path, exhaustive=True)
    assert second.findings == {"normal": "present", "pneumonia": "absent", "effusion": "absent"}
    assert first.findings["normal"] == "absent"
    assert third.findings == {}  # no label at all says nothing
    assert samples(tmp_path, exhaustive=["two_sets"])[1].findings == {"normal": "present"}


def test_values_are_mapped_and_null_means_not_known(tmp_path):
    write(tmp_path)
    values = {"labels": {"Effusion": "pleural effusion", "normal": None}, "patient": {"p1": None}}
    first, second, _ = samples(tmp_path, values=values)
    assert list(first.findings) == ["pneumonia", "pleural effusion"] and first.patient is None
    assert second.findings == {}


def test_include_and_exclude_by_any_column(tmp_path):
    write(tmp_path)
    assert [s.place for s in samples(tmp_path, include={"set": ["one"]}, exclude={"who": ["p2"]})] == ["a/1.jpg"]


def test_owners_split_counts_only_where_its_column_is_named(tmp_path):
    write(tmp_path)
    found = samples(tmp_path, columns=COLUMNS | {"split": "side"})
    assert [s.split for s in found] == ["train", "validation", "test"]
    write(tmp_path, [[*ROWS[0][:7], "fold 1", ""]])
    with pytest.raises(RequestError, match=r"fold 1"):
        samples(tmp_path, columns=COLUMNS | {"split": "side"})


def test_constants_extra_columns_and_patient_scope(tmp_path):
    write(tmp_path)
    columns = {"path": "file", "patient": "who", "extra": ["side"], "findings": "note"}
    first = samples(tmp_path, columns=columns, modality="ct", anatomy="head", licence="CC0", patient_scope="town")[0]
    assert (first.modality, first.anatomy, first.licence, first.patient_scope) == ("ct", "head", "CC0", "town")
    assert first.extra == {"side": "train"} and first.source == tmp_path.name
    assert first.texts[0].kind == "findings"


def test_one_column_a_label_with_states(tmp_path):
    write(tmp_path, [["1.jpg", "1.0", "-1", ""], ["2.jpg", "0", "", "1"]], ["file", "edema", "mass", "hernia"])
    columns = {"path": "file", "labels": ["edema", "mass", "hernia"]}
    first, second = samples(tmp_path, columns=columns, modality="xray")
    assert first.findings == {"edema": State.PRESENT, "mass": State.UNCERTAIN}
    assert second.findings == {"edema": State.ABSENT, "hernia": State.PRESENT}


def test_parquet_and_semicolons_read_alike(tmp_path):
    pq.write_table(pa.table({name: [row[n] for row in ROWS] for n, name in enumerate(HEAD)}), tmp_path / "m.parquet")
    (tmp_path / "m.csv").write_text("\ufeff" + "\n".join(";".join(row) for row in [HEAD, *ROWS]), encoding="utf-8")
    assert samples(tmp_path, manifest="m.parquet") == samples(tmp_path)


def test_ids_are_unique_where_files_differ_in_their_suffix(tmp_path):
    write(tmp_path, [["a.jpg"], ["a.png"], ["a.jpg"]], ["path"])
    ids = [s.id for s in samples(tmp_path, columns={}, modality="ct", name="s")]
    assert ids == ["s/a", "s/a.png", "s/a"]  # the last is the same row again: the plan skips it


@pytest.mark.parametrize(
    "path", ["../secret.jpg", "/etc/passwd", "a/../../x.jpg", "C:\\x.jpg", "..\\x.jpg", "\\\\host\\x", "", ".."]
)
def test_a_path_outside_the_folder_is_refused(tmp_path, path):
    write(tmp_path, [[path]], ["path"])
    with pytest.raises(RequestError, match=r"row 1: (the path .* is not inside the folder|no path)"):
        samples(tmp_path, columns={}, modality="ct")


def test_a_link_out_of_the_folder_is_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.jpg").symlink_to(tmp_path / "secret")
    (folder / "inner").symlink_to(tmp_path)
    reader = source(folder, manifest=None, columns={})
    for place in ("a.jpg", "inner/secret"):
        with pytest.raises(BadImage, match="leads out"):
            reader.image(place)
    with pytest.raises(BadImage, match="No such file"):
        reader.image("missing.jpg")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"columns": {"path": "fil"}}, r"columns.path: no column 'fil'.*nearest: file"),
        ({"columns": {"path": "file", "labels": ["finding", "x"]}}, r"columns.labels.1: no column 'x'"),
        ({"columns": COLUMNS, "include": {"sett": ["one"]}}, r"include.sett: no column 'sett'.*nearest: set"),
        ({"manifest": "none.csv"}, r"no such manifest"),
        ({"columns": {"path": "file"}}, r"row 1: no modality.*modality:"),
        ({"columns": {"path": "file", "modality": "part"}}, r"row 1: 'chest' is no modality.*values.modality"),
        ({"strip": ["("]}, r"strip: '\(' is no regular expression"),
        ({"values": {"label": {}}}, r"no field of `columns` is called 'label'; did you mean labels"),
        ({"modality": "x-ray"}, r"modality: must be one of xray"),
        ({"labels_from": "folder"}, r"not from both"),
        ({"colums": {}}, r"colums: no such key; did you mean columns"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path, fields, said):
    write(tmp_path)
    with pytest.raises(RequestError, match=said):
        samples(tmp_path, **fields)


def test_a_row_of_the_wrong_length_names_its_line(tmp_path):
    (tmp_path / "m.csv").write_text("path,kind\na.jpg,ct\nb.jpg\n")
    with pytest.raises(RequestError, match="line 3 has 1 values, the header 2"):
        samples(tmp_path, columns={"modality": "kind"})


def test_a_folder_for_each_class(tmp_path):
    for name in ("normal/1.jpg", "big_tumor/2.PNG", "big_tumor/notes.txt", ".hidden/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    tree = {"manifest": None, "columns": {}, "labels_from": "folder", "exhaustive": True, "modality": "mri"}
    first, second = samples(tmp_path, **tree, values={"labels": {"big tumor": "glioma"}})
    assert (first.place, first.findings) == ("big_tumor/2.PNG", {"glioma": "present", "normal": "absent"})
    assert (second.place, second.findings) == ("normal/1.jpg", {"normal": "present", "glioma": "absent"})
    (tmp_path / "cyst").mkdir()
    with pytest.raises(RequestError, match="no image in the folder of the class 'cyst'"):
        samples(tmp_path, **tree)


def test_dicom_files_tell_what_the_recipe_does_not(tmp_path):
    for name, patient in (("a.dcm", "Jane"), ("scan", "Jane"), ("c.dcm", "Eve")):
        data = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        data.PatientID = patient
        data.save_as(tmp_path / name)
    (tmp_path / "readme").write_text("no image")
    bare = {"manifest": None, "columns": {}, "name": "scans"}
    first, second, third = samples(tmp_path, **bare, salt="pepper")
    assert [s.place for s in (first, second, third)] == ["a.dcm", "c.dcm", "scan"]
    assert first.modality == "ct" and first.patient == third.patient != second.patient
    assert "Jane" not in str(first)
    assert samples(tmp_path, **bare, salt="salt")[0].patient != first.patient
    assert "pepper" not in str(source(tmp_path, **bare, salt="pepper").recipe.model_dump())


def test_a_broken_dicom_file_is_left_to_the_reader_of_pixels(tmp_path):
    (tmp_path / "a.dcm").write_bytes(bytes(np.arange(200, dtype=np.uint8)))
    assert samples(tmp_path, manifest=None, columns={})[0].modality == "other"
