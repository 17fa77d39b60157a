import datetime
import errno
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from pyarrow import csv
from pydicom.data import get_testdata_file

from medweave.corpus import shards
from medweave.corpus.build import build, cut, dry_run, plan_of
from medweave.corpus.listing import SCHEMA
from medweave.corpus.make_shard import Cost, Task
from medweave.corpus.recipe import CaptionShares
from medweave.corpus.shards import PLANNED
from medweave.corpus.store import open_corpus
from medweave.errors import RequestError, UserError
from medweave.files import only_writer


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a corpus but its lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def split_of(corpus):
    table = corpus.index(["id", "split"])
    return dict(zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True))


def test_plan_and_index_agree_on_columns():
    assert SCHEMA.names[: len(PLANNED)] == PLANNED.names
    assert SCHEMA.types[: len(PLANNED)] == PLANNED.types


def test_every_image_is_stored_or_skipped_with_its_reason(built):
    corpus = open_corpus(built)
    skipped = corpus.skipped().to_pylist()
    assert sorted(row["item"] for row in skipped) == ["hospital/003", "hospital/058"]
    assert all(row["source"] == "hospital" and row["reason"] and row["remedy"] for row in skipped)
    assert len({row["reason"] for row in skipped}) == 1, skipped
    ids = corpus.index(["id"])["id"].to_pylist()
    assert sorted([*ids, "hospital/003", "hospital/058"]) == [f"hospital/{n:03}" for n in range(60)]
    facts = corpus.facts
    counts = [n for source in facts["counts"].values() for splits in source.values() for n in splits.values()]
    assert sum(counts) == facts["samples"] == 58 and facts["skipped"] == {"hospital": 2}
    assert facts["licences"] == [{"source": "hospital", "licence": "CC BY 4.0", "licence_class": "open", "samples": 58}]
    corpus.verify()


def test_sound_jpegs_are_stored_byte_for_byte(built, raw):
    corpus = open_corpus(built)
    formats = corpus.index(["id", "format"]).to_pylist()
    for number, row in enumerate(formats):
        original = raw / f"{row['id'].split('/')[1]}.jpg"
        if original.exists():
            assert corpus.read(number) == original.read_bytes()


def test_a_shard_holds_one_source_and_split_and_is_shuffled(built):
    corpus = open_corpus(built)
    rows = corpus.index(["id", "shard", "split", "modality"]).to_pylist()
    for number, shard in enumerate(corpus.shards):
        own = [row for row in rows if row["shard"] == number]
        assert {f"hospital-{row['split']}" for row in own} == {shard["name"].rsplit("-", 1)[0]}
        assert len(own) == shard["samples"] <= 8
    train = [row["id"] for row in rows if row["split"] == "train" and row["modality"] == "xray"]
    assert train != sorted(train)


def test_nobody_is_on_two_sides(built):
    rows = open_corpus(built).index(["patient", "split"]).to_pylist()
    sides = {}
    for row in rows:
        sides.setdefault(row["patient"], set()).add(row["split"])
    assert {len(side) for side in sides.values()} == {1}


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_do_not_change_a_byte(built, raw, tmp_path, recipe_of, workers):
    path = tmp_path / "corpus"
    build(recipe_of(path, raw, folds={"count": 3}, workers=workers))
    assert content(path) == content(built)


def test_the_same_command_again_changes_nothing(built, raw, tmp_path, recipe_of):
    path = shutil.copytree(built, tmp_path / "corpus")
    build(recipe_of(path, raw, folds={"count": 3}))
    assert content(path) == content(built)


def test_a_broken_image_changes_no_other_sample(built, tmp_path, recipe_of, raw):
    folder = shutil.copytree(raw, tmp_path / "hospital")
    (folder / "011.jpg").write_bytes(b"")
    corpus = build(recipe_of(tmp_path / "corpus", folder, folds={"count": 3}))
    before = open_corpus(built)
    samples = {row["id"]: row for row in before.index(["id", "sha256", "split", "modality"]).to_pylist()}
    del samples["hospital/011"]
    assert {row["id"]: row for row in corpus.index(["id", "sha256", "split", "modality"]).to_pylist()} == samples
    order = [name for name in before.index(["id"])["id"].to_pylist() if name != "hospital/011"]
    assert corpus.index(["id"])["id"].to_pylist() == order


def test_a_repaired_image_is_taken_in(built, raw, tmp_path, recipe_of):
    folder = shutil.copytree(raw, tmp_path / "hospital")
    recipe = recipe_of(tmp_path / "corpus", folder)
    before = split_of(build(recipe))
    shutil.copy(folder / "001.jpg", folder / "003.jpg")
    corpus = build(recipe)
    assert split_of(corpus) == before | {"hospital/003": split_of(corpus)["hospital/003"]}
    assert [row["item"] for row in corpus.skipped().to_pylist()] == ["hospital/058"]
    corpus.verify()


def killed(recipe, moment):
    """Start the build in another process, and kill -9 it once `moment` holds. Whether it was killed."""
    process = multiprocessing.get_context("fork").Process(target=build, args=(recipe,))
    process.start()
    while process.is_alive() and not moment(recipe.path):
        time.sleep(0.0005)
    process.kill()
    process.join()
    filelock.FileLock(recipe.path / ".lock").acquire(timeout=30).lock.release()  # orphaned workers end by themselves
    return process.exitcode == -signal.SIGKILL


def shards_done(count):
    return lambda path: len(list((path / ".build").glob("*.parquet"))) >= count


@pytest.mark.parametrize("workers", [1, 3])
def test_kill_9_at_any_moment_then_the_same_command_gives_the_same_bytes(built, raw, tmp_path, recipe_of, workers):
    recipe = recipe_of(tmp_path / "corpus", raw, folds={"count": 3}, workers=workers)
    moments = [
        lambda path: (path / "captions").exists(),
        lambda path: any((path / "shards").glob(".*.part")),
        shards_done(2),
        shards_done(5),
        lambda path: any(path.glob(".index.parquet.*.part")) or (path / "index.parquet").exists(),
        lambda path: (path / "skipped.parquet").exists(),
    ]
    assert sum([killed(recipe, moment) for moment in moments]) >= 4
    build(recipe)
    assert content(recipe.path) == content(built)


def test_another_recipe_after_a_killed_build_starts_anew(built, raw, tmp_path, recipe_of, monkeypatch):
    path = tmp_path / "corpus"
    whole = shards.write_shard
    made = []

    def dies(*args):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(args)
        return whole(*args)

    monkeypatch.setattr("medweave.corpus.make_shard.write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        build(recipe_of(path, raw, seed=7, shard=3))
    monkeypatch.undo()
    assert len(list((path / "shards").glob("*.tar"))) == 3
    build(recipe_of(path, raw, folds={"count": 3}))
    assert content(path) == content(built)


def test_a_full_disk_loses_nothing(built, raw, tmp_path, recipe_of, monkeypatch):
    recipe = recipe_of(tmp_path / "corpus", raw, folds={"count": 3})
    whole, room = shards._Tar._write, [120_000]

    def write(tar, data):
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(tar, data)

    monkeypatch.setattr(shards._Tar, "_write", write)
    with pytest.raises(UserError, match=r"disk is full.*same command again"):
        build(recipe)
    monkeypatch.undo()
    assert any((recipe.path / ".build").iterdir()) and not list(recipe.path.rglob("*.part"))
    build(recipe)
    assert content(recipe.path) == content(built)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_worker_is_the_users_one_line(raw, tmp_path, recipe_of, monkeypatch, workers):
    def fails(*args):
        raise UserError("the disk is full", where="somewhere", todo="free space")

    monkeypatch.setattr("medweave.corpus.make_shard.write_shard", fails)
    with pytest.raises(UserError, match=r"^the disk is full \(somewhere\): free space$"):
        build(recipe_of(tmp_path / "corpus", raw, workers=workers))


def test_two_builds_into_one_folder(raw, tmp_path, recipe_of):
    with only_writer(tmp_path / "corpus"), ThreadPoolExecutor() as pool:
        second = pool.submit(build, recipe_of(tmp_path / "corpus", raw))
        with pytest.raises(UserError, match="another process is writing"):
            second.result()


def test_a_folder_with_other_files_is_left_alone(raw, tmp_path, recipe_of):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(RequestError, match="holds other files"):
        build(recipe_of(tmp_path, raw))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


def test_nothing_readable(tmp_path, recipe_of, raw_images):
    folder = raw_images(tmp_path / "raw", 9)
    for path in folder.glob("*.*g"):
        path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="no image can be read; raw/"):
        build(recipe_of(tmp_path / "corpus", folder))
    assert not (tmp_path / "corpus" / "corpus.json").exists()


def test_a_new_source_is_appended(built, raw, tmp_path, recipe_of, raw_images):
    path = shutil.copytree(built, tmp_path / "corpus")
    clinic = raw_images(tmp_path / "clinic", 30, seed=1)
    before, files = open_corpus(built), content(built)
    corpus = build(recipe_of(path, raw, clinic, folds={"count": 3}))
    assert corpus.index().slice(0, len(before)).equals(before.index())
    assert corpus.shards[: len(before.shards)] == before.shards
    assert {name: files[name] for name in files if name.startswith("shards/")}.items() <= content(path).items()
    assert corpus.facts["counts"]["hospital"] == before.facts["counts"]["hospital"]
    assert len(corpus) == len(before) + 28 and corpus.hash != before.hash
    assert {s.source for s in corpus.strata[len(before.strata) :]} == {"clinic"}
    folds = [{row["id"]: row for row in c.overlay("folds").to_pylist()} for c in (before, corpus)]
    assert folds[0].items() <= folds[1].items() and len(folds[1]) == len(corpus)
    assert corpus.facts["skipped"] == {"hospital": 2, "clinic": 2}
    corpus.verify()
    before = content(path)
    build(recipe_of(path, raw, clinic, folds={"count": 3}))
    assert content(path) == before


def test_images_added_to_a_source_get_shards_of_their_own(tmp_path, recipe_of, raw_images):
    folder = raw_images(tmp_path / "raw", 60)
    manifest = folder / "manifest.csv"
    whole = manifest.read_text()
    manifest.write_text("".join(whole.splitlines(keepends=True)[:40]))
    recipe = recipe_of(tmp_path / "corpus", folder)
    before = build(recipe)
    manifest.write_text(whole)
    corpus = build(recipe)
    names = [shard["name"] for shard in corpus.shards]
    assert len(set(names)) == len(names) > len(before.shards) and len(corpus) == 58
    assert split_of(before).items() <= split_of(corpus).items()
    corpus.verify()


def test_shards_that_came_out_empty_leave_no_name_to_be_taken_again(tmp_path, recipe_of, raw_images):
    """The images of one modality are missing at first: their shards are dropped, and have lower numbers."""
    raw = raw_images(tmp_path / "raw", 40)
    rows = csv.read_csv(raw / "manifest.csv").to_pylist()
    away = tmp_path / "away"
    away.mkdir()
    missing = [row["path"] for row in rows if row["modality"] == "xray"]
    for name in missing:
        (raw / name).rename(away / name)
    recipe = recipe_of(tmp_path / "corpus", raw, shard=4, split={"train": 1, "validation": 0, "test": 0})
    first = build(recipe)
    stored = {shard["name"]: shard["sha256"] for shard in first.shards}
    for name in missing:
        (away / name).rename(raw / name)
    both = build(recipe)
    assert len(both) > len(first)
    assert stored.items() <= {shard["name"]: shard["sha256"] for shard in both.shards}.items()
    both.verify()
    assert [both.fields(number)["id"] for number in range(len(both))] == both.index(["id"])["id"].to_pylist()


def test_caption_shares_of_older_sources_are_kept(tmp_path, recipe_of, raw_images):
    old, new = raw_images(tmp_path / "old", 14, seed=1), raw_images(tmp_path / "new", 14, seed=2)
    recipe = recipe_of(tmp_path / "corpus", old, new, groups={})  # a first pass: what is broken is not planned again
    uneven = recipe.sources[0].model_copy(update={"captions": CaptionShares(own=1, bank=0)})
    build(recipe.model_copy(update={"sources": [uneven]}))
    corpus = build(recipe.model_copy(update={"sources": [uneven, recipe.sources[1]]}))
    shares = corpus.facts["captions"]
    assert shares[old.name] == {"own": 1.0, "bank": 0.0} and shares[new.name] == {"own": 0.5, "bank": 0.5}


def test_findings_that_changed_in_the_source_are_told(built, raw, tmp_path, recipe_of, capsys):
    folder = tmp_path / "edited"
    shutil.copytree(raw, folder)
    recipe = recipe_of(tmp_path / "corpus", folder)
    build(recipe)
    build(recipe)
    assert "by now" not in capsys.readouterr().err
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text.replace("000.png,normal", "000.png,pneumonia"))
    build(recipe)
    assert "1 images of the corpus have other findings" in capsys.readouterr().err


def test_a_name_that_is_not_utf_8_is_skipped(tmp_path, recipe_of, raw_images):
    folder = tmp_path / "bare"
    raw_images(folder, 10)
    os.rename(os.fsencode(folder / "000.png"), os.fsencode(folder) + b"/radiograf\xed.png")
    tree = {"kind": "folder", "path": str(folder), "modality": "xray", "licence": "CC BY 4.0"}
    corpus = build(recipe_of(tmp_path / "corpus", sources=[tree]))
    (found,) = [row for row in corpus.skipped().to_pylist() if "UTF-8" in row["reason"]]
    assert "radiograf" in found["item"] and found["remedy"] == "rename the file"


def test_an_append_that_was_killed_leaves_the_old_corpus(built, raw, tmp_path, recipe_of, raw_images, monkeypatch):
    path = shutil.copytree(built, tmp_path / "corpus")
    clinic = raw_images(tmp_path / "clinic", 30, seed=1)
    recipe = recipe_of(path, raw, clinic, folds={"count": 3})

    def dies(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("medweave.corpus.assemble._facts", dies)
    with pytest.raises(KeyboardInterrupt):
        build(recipe)
    monkeypatch.undo()
    old = open_corpus(path)
    assert old.hash == open_corpus(built).hash and old.index().equals(open_corpus(built).index())
    old.verify()
    build(recipe)
    other = tmp_path / "other"
    shutil.copytree(built, other)
    build(recipe_of(other, raw, clinic, folds={"count": 3}))
    assert content(path) == content(other)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 5}, "corpus.seed"),
        ({"image": {"longest": 64}}, "corpus.image"),
        ({"split": {"train": 0.5, "validation": 0.25, "test": 0.25}}, "corpus.split"),
        ({"shard": 9, "folds": {"count": 4}}, "corpus.shard, corpus.folds"),
        ({"sources": []}, "corpus.sources"),
    ],
)
def test_a_recipe_that_would_change_samples_is_refused(built, raw, tmp_path, recipe_of, raw_images, changes, named):
    path = shutil.copytree(built, tmp_path / "corpus")
    recipe = recipe_of(path, raw, **({"folds": {"count": 3}} | {k: v for k, v in changes.items() if k != "sources"}))
    if "sources" in changes:
        recipe = recipe_of(path, raw_images(tmp_path / "other", 9), folds={"count": 3})
    with pytest.raises(RequestError, match=f"{named} differ.*new path"):
        build(recipe)
    assert content(path) == content(built)


def test_folds_may_come_later(built, raw, tmp_path, recipe_of):
    path = tmp_path / "corpus"
    first = build(recipe_of(path, raw))
    assert not first.has_overlay("folds")
    corpus = build(recipe_of(path, raw, folds={"count": 3}))
    assert corpus.hash == first.hash and len(corpus.overlay("folds")) == 58


def test_a_lost_shard_is_written_anew(built, raw, tmp_path, recipe_of):
    path = shutil.copytree(built, tmp_path / "corpus")
    lost, short = sorted((path / "shards").glob("*.tar"))[1:3]
    lost.unlink()
    short.write_bytes(short.read_bytes()[:5000])
    build(recipe_of(path, raw, folds={"count": 3}, workers=2))
    assert content(path) == content(built)


def test_a_lost_shard_whose_images_changed_is_an_error(built, raw, tmp_path, recipe_of):
    folder = shutil.copytree(raw, tmp_path / "hospital")
    path = tmp_path / "corpus"
    recipe = recipe_of(path, folder)
    corpus = build(recipe)
    (path / "shards" / corpus.shards[0]["name"]).unlink()
    row = next(row for row in corpus.index().to_pylist() if row["shard"] == 0 and row["format"] == "jpg")
    changed = folder / f"{row['id'].split('/')[1]}"
    other = next(p for p in sorted(folder.glob("*.jpg")) if p.stem not in (changed.name, "003"))
    origin = next(folder.glob(f"{changed.name}.*"))
    shutil.copy(other, origin)
    with pytest.raises(UserError, match="images or banks have changed"):
        build(recipe)


def test_cut_covers_every_row_once(raw, tmp_path, recipe_of):
    recipe = recipe_of(tmp_path / "corpus", raw)
    table = plan_of(recipe, None).table
    tasks = cut(table, recipe, ["hospital-train-00000.tar", "hospital-train-00001.tar"])
    assert sorted(row for task in tasks for row in task.rows) == list(range(60))
    assert next(task.name for task in tasks if "train" in task.name) == "hospital-train-00002.tar"
    assert cut(table.slice(0, 0), recipe) == []


def test_a_dry_run_tells_and_writes_nothing(built, raw, tmp_path, recipe_of, raw_images):
    path = tmp_path / "corpus"
    assert "60 images to build" in dry_run(recipe_of(path, raw))
    assert not path.exists()
    shutil.copytree(built, path)
    clinic = raw_images(tmp_path / "clinic", 30, seed=1)
    assert "32 images to build" in dry_run(recipe_of(path, raw, clinic, folds={"count": 3}))
    assert content(path) == content(built)


def test_a_dry_run_says_what_the_build_takes(raw, tmp_path, recipe_of):
    recipe = recipe_of(tmp_path / "corpus", raw, shard=100, image={"longest": 48})
    text = dry_run(recipe)
    found = re.search(r"About ([\d.]+) MB on disk, about (\d+) s to build", text)
    assert found and int(found[2]) < 60
    built = sum(shard["bytes"] for shard in build(recipe).shards)
    assert float(found[1]) == pytest.approx(built / 1e6, abs=0.06)


def test_a_dry_run_makes_a_few_images_of_each_source(tmp_path, recipe_of, raw_images, monkeypatch):
    one, two = raw_images(tmp_path / "one", 40), raw_images(tmp_path / "two", 9, seed=1)
    made = []
    monkeypatch.setattr("medweave.corpus.build.cost_of", lambda task: made.append(task.own_rows()) or Cost(1000, 2.0))
    text = dry_run(recipe_of(tmp_path / "corpus", one, two))
    sources = [rows["source"].to_pylist() for rows in made]
    assert sources == [["one"] * 16, ["two"] * 9]
    assert "about 7 s to build" in text
    first = made[0]
    dry_run(recipe_of(tmp_path / "corpus", one, two))
    assert made[2].equals(first)


@pytest.mark.parametrize("call", [build, dry_run])
def test_fingerprints_alone_do_not_make_a_folder_ours(raw, tmp_path, recipe_of, call):
    recipe = recipe_of(tmp_path / "thesis", raw, groups={})
    (recipe.path / "fingerprints").mkdir(parents=True)
    (recipe.path / "thesis.docx").write_text("years of work")
    with pytest.raises(RequestError, match="holds other files"):
        call(recipe)
    assert list((recipe.path / "fingerprints").iterdir()) == []


def test_a_dry_run_leaves_a_folder_with_other_files_alone_and_its_own_to_the_build(tmp_path, recipe_of, raw_images):
    recipe = recipe_of(tmp_path / "thesis", raw_images(tmp_path / "raw", 9), groups={})
    recipe.path.mkdir()
    (recipe.path / "thesis.docx").write_text("years of work")
    with pytest.raises(RequestError, match="holds other files"):
        dry_run(recipe)
    assert [path.name for path in recipe.path.iterdir()] == ["thesis.docx"]
    (recipe.path / "thesis.docx").unlink()
    dry_run(recipe)
    assert [path.name for path in recipe.path.iterdir()] == ["fingerprints"]
    assert len(build(recipe)) == 7


def test_sources_named_after_splits_keep_test_images_out_of_train_shards(tmp_path, recipe_of, raw_images):
    names = ("x-train", "a-train-b", "x_train")
    folders = [raw_images(tmp_path / name, 30, seed=n) for n, name in enumerate(names)]
    corpus = build(recipe_of(tmp_path / "corpus", *folders))
    rows = corpus.index(["shard", "source", "split", "id"]).to_pylist()
    stored = [shard["name"] for shard in corpus.shards]
    assert len(set(stored)) == len(stored) and {row["source"] for row in rows} == set(names)
    for row in rows:
        assert ("-train-" in stored[row["shard"]]) == (row["split"] == "train")
        assert row["id"].startswith(f"{row['source']}/")
    for number in range(len(stored)):
        assert len({(row["source"], row["split"]) for row in rows if row["shard"] == number}) == 1
    corpus.verify()


def test_a_patient_that_swallows_a_source_is_told(tmp_path, recipe_of, raw_images, capsys):
    folder = raw_images(tmp_path / "raw", 30)
    manifest = folder / "manifest.csv"
    head, *rows = [line.split(",") for line in manifest.read_text().splitlines()]
    for row in rows[:24]:
        row[4] = "missing"
    manifest.write_text("\n".join(",".join(row) for row in [head, *rows]))
    recipe = recipe_of(tmp_path / "corpus", folder)
    assert "WARNING: the patient 'missing' has 24 of the 30 images of raw (80%)" in dry_run(recipe)
    build(recipe)
    assert "values: {patient: {missing: null}}" in capsys.readouterr().err


def test_patients_of_dicom_files_keep_one_pseudonym_in_a_corpus_and_have_others_elsewhere(tmp_path, recipe_of):
    scans = tmp_path / "scans"
    scans.mkdir()
    for number, name in enumerate(("CT_small.dcm", "MR_small.dcm")):
        header = pydicom.dcmread(get_testdata_file(name))
        header.PatientID = "one person"
        header.save_as(scans / f"{number}.dcm")

    def built_in(path, **source):
        folder = {"kind": "folder", "path": str(scans), "licence": "CC0", "anatomy": "chest", **source}
        corpus = build(recipe_of(path, sources=[folder]))
        return set(corpus.index(["patient"])["patient"].to_pylist()), corpus

    (patient,), corpus = built_in(tmp_path / "a")
    assert built_in(tmp_path / "a")[0] == {patient}
    assert "one person" not in patient and patient not in built_in(tmp_path / "b")[0]
    assert built_in(tmp_path / "c", salt="ours")[0] == built_in(tmp_path / "d", salt="ours")[0]
    salt = tmp_path / "a" / ".salt"
    assert salt.stat().st_mode & 0o077 == 0
    assert salt.read_text().strip() not in (corpus.path / "corpus.json").read_text()
    salt.unlink()
    with pytest.raises(RequestError, match="salt"):
        built_in(tmp_path / "a")


@pytest.mark.parametrize("lost", [False, True])
def test_extra_values_of_a_parquet_manifest_become_json(tmp_path, recipe_of, raw_images, lost):
    folder = raw_images(tmp_path / "raw", 9)
    table = csv.read_csv(folder / "manifest.csv")
    day = pa.array([datetime.date(2024, 2, 29)] * 9)
    age = pa.array([float("nan"), *[61.5] * 8])
    pq.write_table(table.append_column("day", day).append_column("age", age), folder / "manifest.parquet")
    recipe = recipe_of(tmp_path / "corpus", folder)
    columns = recipe.sources[0].columns.model_copy(update={"extra": ["day", "age"]})
    changes = {"manifest": Path("manifest.parquet"), "columns": columns}
    recipe = recipe.model_copy(update={"sources": [recipe.sources[0].model_copy(update=changes)]})
    corpus = build(recipe)
    if lost:
        (recipe.path / "shards" / corpus.shards[0]["name"]).unlink()
        corpus = build(recipe)
    extra = {row["id"]: json.loads(row["extra"]) for row in corpus.index(["id", "extra"]).to_pylist()}
    assert extra["raw/000"] == {"day": "2024-02-29", "age": None} and extra["raw/001"]["age"] == 61.5
    assert corpus.fields(0)["extra"]["day"] == "2024-02-29"
    corpus.verify()


def test_banks_are_kept_and_edits_of_them_too(built, raw, tmp_path, recipe_of):
    path = tmp_path / "corpus"
    corpus = open_corpus(built)
    names = [bank.name for bank in corpus.banks()]
    assert "xray.yaml" in names and "fundus.yaml" not in names
    (path / "captions").mkdir(parents=True)
    (path / ".build").mkdir()
    bank = "- {modality: xray, anatomy: chest, finding: pneumonia, captions: [Only one caption.]}\n"
    (path / "captions" / "xray.yaml").write_text(bank)
    build(recipe_of(path, raw))
    text = b"".join(file.read_bytes() for file in (path / "shards").glob("*.tar"))
    assert b"Only one caption." in text and (path / "captions" / "xray.yaml").read_text() == bank


def test_ray_gives_the_same_bytes(built, raw, tmp_path, recipe_of):
    pytest.importorskip("ray")
    path = tmp_path / "corpus"
    build(recipe_of(path, raw, folds={"count": 3}), engine="ray")
    assert content(path) == content(built)


def test_an_error_on_ray_comes_through(tmp_path, recipe_of, raw_images):
    pytest.importorskip("ray")
    folder = raw_images(tmp_path / "raw", 9)
    recipe = recipe_of(tmp_path / "corpus", folder)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "shards").write_text("in the way")
    (tmp_path / "corpus" / ".build").mkdir()
    with pytest.raises(FileExistsError):
        build(recipe, engine="ray")


def test_ray_that_is_missing_is_one_clear_line(raw, tmp_path, recipe_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RequestError, match=r"pip install 'medweave\[ray\]'"):
        build(recipe_of(tmp_path / "corpus", raw), engine="ray")


@pytest.mark.parametrize("chunks", [1, 4, 60])
def test_a_task_takes_its_rows_from_any_chunks(raw, tmp_path, recipe_of, chunks):
    recipe = recipe_of(tmp_path / "corpus", raw)
    table = plan_of(recipe, None).table
    chunked = pa.concat_tables([table.slice(n * 60 // chunks, 60 // chunks) for n in range(chunks)])
    rows = np.random.default_rng(0).permutation(60)[:20]
    task = pickle.loads(pickle.dumps(Task("one.tar", recipe, chunked, rows)))
    assert task.plan.to_pylist() == [table.slice(row, 1).to_pylist()[0] for row in rows]
    assert task.own_rows().equals(task.plan)
