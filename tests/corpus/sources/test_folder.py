import csv
import hashlib
import os
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


def test_an_empty_table_is_one_clear_line(tmp_path):
    (tmp_path / "m.csv").touch()
    with pytest.raises(RequestError, match=r"an empty table .*m\.csv.*its first line names the columns"):
        samples(tmp_path)


@pytest.mark.parametrize("place", [0, 1])
def test_a_table_of_another_encoding_is_to_be_saved_as_utf_8(tmp_path, place):
    lines = [",".join(HEAD), ",".join(ROWS[0])]
    lines[place] = lines[place].replace("note", "Größe").replace("Opacity", "Trübung")
    (tmp_path / "m.csv").write_bytes("\n".join(lines).encode("cp1252"))
    with pytest.raises(RequestError, match=r"the text is not UTF-8 .*m\.csv.*save it as UTF-8"):
        samples(tmp_path)


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


def test_exhaustive_names_may_be_the_owners_or_of_rows_that_are_left_out(tmp_path):
    write(tmp_path, [*ROWS, ["b/2.jpg", "two sets", "pathology", "lung", "tumor", "", "", "", ""]])
    exhaustive = ["two sets", "one"]
    first, *_ = samples(tmp_path, exhaustive=exhaustive, include={"set": ["one"]})
    assert first.findings["normal"] == "absent"
    renamed = {"source": {"one": "first"}}
    assert samples(tmp_path, exhaustive=exhaustive, values=renamed)[1].findings == {"normal": "present"}


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


@pytest.mark.parametrize(
    ("words", "state"),
    [
        (["1", "1.0", "true", "TRUE", "Yes", "t", " y "], State.PRESENT),
        (["0", "0.0", "False", "no", "F", "n"], State.ABSENT),
        (["-1", "-1.0", "u", "Uncertain"], State.UNCERTAIN),
        (["", " ", "nan", "NaN"], None),
    ],
)
def test_states_in_the_words_that_people_use(tmp_path, words, state):
    write(tmp_path, [[f"{n}.jpg", word] for n, word in enumerate(words)], ["file", "edema"])
    found = samples(tmp_path, columns={"path": "file", "labels": ["edema"]}, modality="xray")
    assert [s.findings for s in found] == [{"edema": state} if state else {}] * len(words)


@pytest.mark.parametrize(
    "cells", [[True, False, None], [1, 0, None], [1.0, 0.0, None], [1.0, 0.0, float("nan")]], ids=str
)
def test_states_as_parquet_keeps_them(tmp_path, cells):
    pq.write_table(pa.table({"file": ["1.jpg", "2.jpg", "3.jpg"], "edema": cells}), tmp_path / "m.parquet")
    columns = {"path": "file", "labels": ["edema"]}
    found = samples(tmp_path, manifest="m.parquet", columns=columns, modality="xray")
    assert [s.findings for s in found] == [{"edema": State.PRESENT}, {"edema": State.ABSENT}, {}]


def test_a_word_that_is_no_state_names_its_row_and_column(tmp_path):
    write(tmp_path, [["1.jpg", "1"], ["2.jpg", "maybe"]], ["file", "edema"])
    with pytest.raises(RequestError, match=r"row 2, column 'edema': 'maybe' is no state .*yes.*present.*or empty"):
        samples(tmp_path, columns={"path": "file", "labels": ["edema"]}, modality="xray")


def test_two_columns_of_one_label_and_one_of_none(tmp_path):
    write(tmp_path, [["1.jpg", "1", "0", "1"], ["2.jpg", "0", "", ""]], ["file", "mass", "nodule", "support"])
    columns = {"path": "file", "labels": ["mass", "nodule", "support"]}
    values = {"labels": {"mass": "tumor", "nodule": "tumor", "support": None}}
    first, second = samples(tmp_path, columns=columns, modality="xray", values=values)
    assert first.findings == {"tumor": State.PRESENT} and second.findings == {"tumor": State.ABSENT}


def test_exhaustive_columns_of_labels(tmp_path):
    rows = [["1.jpg", "one", "1", "", ""], ["2.jpg", "one", "", "u", ""], ["3.jpg", "one", "", "", ""]]
    write(tmp_path, [*rows, ["4.jpg", "two", "0", "", "1"]], ["file", "set", "edema", "mass", "hernia"])
    columns = {"path": "file", "source": "set", "labels": ["edema", "mass", "hernia"]}
    first, second, third, fourth = samples(tmp_path, columns=columns, modality="xray", exhaustive=True)
    assert first.findings == {"edema": "present", "mass": "absent"}
    assert second.findings == {"mass": "uncertain", "edema": "absent"}
    assert third.findings == {}  # no label at all says nothing
    assert fourth.findings == {"edema": "absent", "hernia": "present"}


def test_parquet_and_semicolons_read_alike(tmp_path):
    pq.write_table(pa.table({name: [row[n] for row in ROWS] for n, name in enumerate(HEAD)}), tmp_path / "m.parquet")
    (tmp_path / "m.csv").write_text("\ufeff" + "\n".join(";".join(row) for row in [HEAD, *ROWS]), encoding="utf-8")
    assert samples(tmp_path, manifest="m.parquet") == samples(tmp_path)


def test_ids_are_unique_where_files_differ_in_their_suffix(tmp_path):
    write(tmp_path, [["a.jpg"], ["a.png"], ["a.jpg"]], ["path"])
    ids = [s.id for s in samples(tmp_path, columns={}, modality="ct", name="s")]
    assert ids == ["s/a", "s/a.png", "s/a"]  # the last is the same row again: the plan skips it


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "/etc/passwd",
        "a/../../x.jpg",
        "C:\\x.jpg",
        "..\\x.jpg",
        "\\\\host\\x",
        "s3://a/b",
        "a\0b",
        "",
        "..",
    ],
)
def test_a_path_outside_the_folder_is_refused(tmp_path, path):
    write(tmp_path, [[path]], ["path"])
    with pytest.raises(RequestError, match=r"row 1: (the path .* is not inside the folder|no path)"):
        samples(tmp_path, columns={}, modality="ct")


def test_a_colon_in_a_name_is_a_letter_like_others(tmp_path):
    write(tmp_path, [["scan 10:30.jpg"], ["a/b:c.jpg"]], ["path"])
    assert [s.place for s in samples(tmp_path, columns={}, modality="ct")] == ["scan 10:30.jpg", "a/b:c.jpg"]


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


@pytest.mark.parametrize("name", ["a.dcm", "1.2.840.5", "inner/scan"])
@pytest.mark.parametrize("manifest", [None, "m.csv"])
def test_not_even_a_header_is_read_through_a_link_out_of_the_folder(tmp_path, monkeypatch, name, manifest):
    scan(tmp_path / "scan", "Jane")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name.split("/")[0]).symlink_to(tmp_path if "/" in name else tmp_path / "scan")
    write(folder, [[name]], ["path"])
    read = []
    monkeypatch.setattr("medweave.corpus.dicom.facts", lambda path, salt: read.append(path))
    monkeypatch.setattr("medweave.corpus.manifest._starts_like_dicom", lambda path: read.append(path.resolve()))
    found = [s for s in samples(folder, manifest=manifest, columns={}) if s.place == name]
    assert [(s.modality, s.patient) for s in found] == [("other", None)] * (manifest is not None or "/" not in name)
    assert set(read) <= {folder / "m.csv"}


def test_a_path_may_be_a_pattern_of_columns(tmp_path):
    write(tmp_path, [["7", "train", "A lung."], ["8", "test", ""]], ["ID", "part", "Caption"])
    columns, name = {"path": "{part}/{ID}.jpg", "id": "ID", "caption": "Caption"}, tmp_path.name
    found = samples(tmp_path, columns=columns, modality="xray", labels_from="folder")
    assert [(s.place, s.id) for s in found] == [("train/7.jpg", f"{name}/7"), ("test/8.jpg", f"{name}/8")]
    assert [list(s.findings) for s in found] == [["train"], ["test"]]
    write(tmp_path, [["", "train", ""]], ["ID", "part", "Caption"])
    with pytest.raises(RequestError, match="row 1: no path"):
        samples(tmp_path, columns=columns, modality="xray")


def test_dicom_files_that_are_missing_are_left_to_the_reader_of_pixels(tmp_path):
    write(tmp_path, [["gone.dcm"], ["1.2.840.5"]], ["path"])
    assert [s.modality for s in samples(tmp_path, columns={})] == ["other", "other"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"columns": {"path": "fil"}}, r"columns.path: no column 'fil'.*nearest: file"),
        ({"columns": {"path": "{set}/{fil}.png"}}, r"columns.path.1: no column 'fil'.*nearest: file"),
        ({"columns": {"path": "file", "labels": ["finding", "x"]}}, r"columns.labels.1: no column 'x'"),
        ({"columns": COLUMNS, "include": {"sett": ["one"]}}, r"include.sett: no column 'sett'.*nearest: set"),
        ({"columns": {"path": "fil", "patient": "whom"}}, r"(?s)2 mistakes in .*'whom'; nearest: who\n.*'fil'"),
        ({"manifest": "none.csv"}, r"no such manifest"),
        ({"manifest": "sheet.xlsx"}, r"a spreadsheet is no manifest.*sheet\.xlsx.*save it as CSV"),
        ({"columns": {"path": "file"}}, r"row 1: no modality.*modality:"),
        ({"columns": {"path": "file", "modality": "part"}}, r"row 1: 'chest' is no modality.*values.modality"),
        ({"strip": ["("]}, r"strip: '\(' is no regular expression"),
        ({"values": {"label": {}}}, r"no field of `columns` is called 'label'; did you mean labels"),
        ({"modality": "x-ray"}, r"modality: must be one of xray"),
        ({"labels_from": "folder"}, r"not from both"),
        ({"colums": {}}, r"colums: no such key; did you mean columns"),
        ({"manifest": None}, r"columns are those of a manifest: name it in manifest:"),
        ({"exhaustive": ["ones", "two_sets"]}, r"exhaustive: nothing is called 'ones' .*nearest: one"),
        ({"include": {"set": ["one", "two set"]}}, r"include.set: nothing is called 'two set' .*nearest: two sets"),
        ({"exclude": {"who": ["p3"]}}, r"exclude.who: nothing is called 'p3' .*nearest: p"),
        ({"salt": ""}, r"salt: String should have at least 1 character"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path, fields, said):
    write(tmp_path)
    with pytest.raises(RequestError, match=said):
        samples(tmp_path, **fields)


def test_values_that_never_occur_are_told(tmp_path, capsys):
    write(tmp_path)
    values = {"anatomy": {"CHEST": "thorax", "lungs": "lung"}, "labels": {"Efusion": "x"}, "split": {"a": "train"}}
    assert samples(tmp_path, values=values)[0].anatomy == "thorax"
    anatomy, labels, split = capsys.readouterr().err.splitlines()
    assert "values.anatomy: nothing is called 'lungs'" in anatomy and anatomy.endswith("nearest: lung")
    assert "values.labels: nothing is called 'Efusion'" in labels and "nearest: effusion" in labels
    assert "values.split: nothing is called 'a'" in split and split.endswith("nearest: none")


def test_a_manifest_without_rows_is_not_searched_for_names(tmp_path):
    write(tmp_path, [])
    assert samples(tmp_path, include={"set": ["one"]}, exhaustive=["one"]) == []


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


def scan(path: Path, patient: str) -> None:
    data = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    data.PatientID = patient
    data.save_as(path)


def test_dicom_is_known_by_its_beginning_whatever_its_name(tmp_path, capsys):
    names = ["1.2.840.5", "1.2.840.6", "a.dcm", "b.IMA", "c"]
    for name in names:
        scan(tmp_path / name, "Eve" if name == "1.2.840.6" else "Jane")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "Thumbs.db").write_text("no image")
    (tmp_path / ".DS_Store").write_text("hidden")
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path, [[name] for name in names], ["path"], name=".m.csv")
    bare = samples(tmp_path, manifest=None, columns={}, name="s", salt="pepper")
    told = capsys.readouterr().err
    assert "left out as neither picture nor DICOM: 2 files, the first is Thumbs.db" in told
    listed = samples(tmp_path, manifest=".m.csv", columns={}, name="s", salt="pepper")
    assert bare == listed and capsys.readouterr().err == ""
    assert [s.place for s in bare] == names
    assert [s.id for s in bare] == ["s/1.2.840.5", "s/1.2.840.6", "s/a", "s/b", "s/c"]
    assert {s.modality for s in bare} == {"ct"} and all(s.study for s in bare)
    jane, eve, *others = [s.patient for s in bare]
    assert others == [jane] * 3 and eve not in (jane, None)


def test_dicom_files_tell_what_the_recipe_does_not(tmp_path):
    for name, patient in (("a.dcm", "Jane"), ("scan", "Jane"), ("c.dcm", "Eve")):
        scan(tmp_path / name, patient)
    (tmp_path / "readme").write_text("no image")
    bare = {"manifest": None, "columns": {}, "name": "scans"}
    first, second, third = samples(tmp_path, **bare, salt="pepper")
    assert [s.place for s in (first, second, third)] == ["a.dcm", "c.dcm", "scan"]
    assert first.modality == "ct" and first.patient == third.patient != second.patient
    assert "Jane" not in str(first)
    assert samples(tmp_path, **bare, salt="salt")[0].patient != first.patient
    assert "pepper" not in str(source(tmp_path, **bare, salt="pepper").recipe.model_dump())


def test_a_placeholder_of_a_manifest_leaves_the_patient_to_the_file(tmp_path):
    words = ["unknown", "Anonymous", "n/a", "", "Jane"]
    rows = [[f"{number}.dcm", word, "s1"] for number, word in enumerate(words)]
    for name, _, _ in rows:
        scan(tmp_path / name, "anonymised" if name == "2.dcm" else "MRN 7")
    write(tmp_path, rows, ["path", "who", "visit"])
    columns = {"patient": "who", "study": "visit"}
    found = samples(tmp_path, columns=columns, modality="ct", salt="pepper")
    hashed = hashlib.blake2b(b"MRN 7", key=hashlib.sha256(b"pepper").digest(), digest_size=12).hexdigest()
    assert [s.patient for s in found] == [hashed, hashed, None, hashed, "Jane"]
    assert {s.study for s in found} == {"s1"}


def test_a_salt_is_kept_in_its_file_or_ends_with_the_process(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    scan(folder / "a.dcm", "Jane")
    bare = {"manifest": None, "columns": {}}
    passing, kept, again = (
        samples(folder, **bare, **file)[0] for file in ({}, *2 * [{"salt_file": str(tmp_path / "salt")}])
    )
    assert kept == again and kept.patient != passing.patient
    assert samples(folder, **bare)[0].patient == passing.patient
    unsalted = hashlib.blake2b(b"Jane", key=hashlib.sha256(b"").digest(), digest_size=12).hexdigest()
    assert unsalted not in (passing.patient, kept.patient)
    (folder / "a.dcm").rename(folder / "a.jpg")
    samples(folder, **bare, modality="ct", salt_file=str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_a_broken_dicom_file_is_left_to_the_reader_of_pixels(tmp_path):
    (tmp_path / "a.dcm").write_bytes(bytes(np.arange(200, dtype=np.uint8)))
    assert samples(tmp_path, manifest=None, columns={})[0].modality == "other"
