import csv
import datetime
import decimal
import json
import math
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from medweave.corpus.make_shard import Cost
from medweave.corpus.plan import Crowd, listed, make_plan
from medweave.corpus.plan_text import dry_run_text, warnings_of
from medweave.corpus.recipe import CorpusRecipe
from medweave.corpus.sample import Sample
from medweave.corpus.vocabulary import load
from medweave.errors import RequestError
from medweave.recipe import check

HEAD = ["path", "labels", "patient", "split", "licence", "source"]


def picture(seed: int, side: int = 96) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(30, 255, (24, 24), np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


class Folder:
    """A folder of pictures with a manifest, row by row."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, []
        path.mkdir()

    def add(self, name, image=None, labels="", patient="", split="", licence="CC BY 4.0", source="one"):
        image = picture(len(self.rows) + 1000) if image is None else image
        if isinstance(image, bytes):
            (self.path / name).write_bytes(image)
        else:
            image.save(self.path / name)
        self.rows.append([name, labels, patient, split, licence, source])

    def recipe(self, columns=(), **fields) -> CorpusRecipe:
        with (self.path / "m.csv").open("w", newline="") as file:
            csv.writer(file).writerows([HEAD, *self.rows])
        named = {name: name for name in ("path", "labels", "patient", "licence", "source", *columns)}
        source = {"kind": "folder", "path": str(self.path), "manifest": "m.csv", "columns": named}
        source |= {"modality": "xray", "anatomy": "chest", "exhaustive": True}
        tree = {"path": str(self.path.parent / "corpus"), "sources": [source], "workers": 1, **fields}
        return check(tree, CorpusRecipe, where="test")


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "raw")


def column(plan, name):
    return dict(zip(plan.table["id"].to_pylist(), plan.table[name].to_pylist(), strict=True))


def indexed(plan) -> pa.Table:
    """What the index of the built corpus would say."""
    return plan.table.drop_columns(["recipe", "place"])


def test_labels_become_canonical_and_unmapped_ones_are_told(folder):
    folder.add("a.png", labels="No Finding")
    folder.add("b.png", labels="COVID-19 pneumonia|pneumonia")
    folder.add("c.png", labels="pneumonai")
    plan = make_plan(folder.recipe())
    states = {i: {f["name"]: f["state"] for f in row} for i, row in column(plan, "findings").items()}
    assert states["one/a"] == dict.fromkeys(["COVID-19 pneumonia", "pneumonia", "pneumonai"], "absent") | {
        "normal": "present"
    }
    assert states["one/b"]["pneumonia"] == "present"
    ((label, (count, near)),) = plan.unmapped.items()
    assert label.label == "pneumonai" and count == 3 and "pneumonia" in near


def test_what_a_present_finding_implies_is_never_absent(folder):
    folder.add("a.png", labels="pneumonia")
    folder.add("b.png", labels="COVID-19 pneumonia")
    findings = column(make_plan(folder.recipe()), "findings")
    assert {f["name"]: f["state"] for f in findings["one/b"]} == {
        "COVID-19 pneumonia": "present",
        "pneumonia": "present",
    }


def test_licences_are_refused_by_class_and_accepted_by_class_or_source(folder):
    folder.add("a.png")
    folder.add("b.png", licence="CC BY-NC 4.0", source="two")
    folder.add("c.png", licence="CC BY-NC 4.0")
    folder.add("d.png", licence="")
    plan = make_plan(folder.recipe())
    assert list(column(plan, "licence_class").values()) == ["open"]
    refused = {(r.source, r.licence_class, r.licence): count for r, count in plan.refused.items()}
    assert refused == {
        ("two", "non-commercial", "CC BY-NC 4.0"): 1,
        ("one", "non-commercial", "CC BY-NC 4.0"): 1,
        ("one", "unknown", None): 1,
    }
    assert list(column(make_plan(folder.recipe(accept=["open", "two"])), "id")) == ["one/a", "two/b"]
    with pytest.raises(RequestError, match=r"no licence class or source is called 'opn'.*did you mean open"):
        make_plan(folder.recipe(accept=["opn"]))


def test_when_every_image_is_refused_the_error_says_what_to_accept(folder):
    folder.add("a.png", licence="CC BY-SA 4.0")
    folder.add("b.png", licence="unheard of")
    with pytest.raises(
        RequestError, match="2 are refused by licence: accept what you may use of: share-alike, unknown"
    ):
        make_plan(folder.recipe())


def test_unreadable_repeated_and_missing_files_are_skipped_with_a_reason(folder):
    folder.add("a.png", picture(1), labels="normal")
    folder.add("b.png", picture(1), labels="normal")
    folder.add("c.png", picture(1), labels="pneumonia")
    folder.add("d.png", picture(1), labels="normal", source="two")
    folder.add("e.jpg", b"\xff\xd8\xff nonsense")
    folder.add("f.png")
    (folder.path / "f.png").unlink()
    folder.rows.append(folder.rows[0])
    plan = make_plan(folder.recipe())
    assert list(column(plan, "id")) == ["one/a", "two/d"]
    reasons = {(s.item, s.reason) for s in plan.skipped}
    assert ("one/b", "the same bytes as one/a") in reasons
    assert ("one/c", "the same bytes as one/a, but with other labels") in reasons
    assert ("one/f", "cannot be read: No such file or directory") in reasons
    assert ("one/a", "listed before under this id") in reasons
    assert {s.item for s in plan.skipped} == {"one/a", "one/b", "one/c", "one/e", "one/f"}
    assert all(s.remedy for s in plan.skipped)
    assert len(set(column(plan, "group").values())) == 1  # the same picture in two sources stays together


def test_same_patient_and_near_duplicates_are_one_group_across_sources(folder):
    folder.add("a.png", picture(1), patient="7")
    folder.add("b.png", picture(2), patient="7")
    folder.add("c.jpg", picture(2).transpose(Image.Transpose.ROTATE_90), source="two", patient="7")
    folder.add("d.png", picture(3), source="two", patient="7")
    folder.add("e.png", picture(4), source="two")
    group = column(make_plan(folder.recipe()), "group")
    assert [group[i] for i in ("one/a", "one/b", "two/c", "two/d")] == ["one/a"] * 4
    assert group["two/e"] == "two/e"
    plan = make_plan(folder.recipe(groups={"near": {"search": False}}))
    assert list(column(plan, "group").values()) == ["one/a", "one/a", "two/c", "two/c", "two/e"]


def test_sources_that_share_patients(folder):
    folder.add("a.png", patient="7")
    folder.add("b.png", patient="7", source="two")
    recipe = folder.recipe()
    assert len(set(column(make_plan(recipe), "group").values())) == 2
    shared = recipe.sources[0].model_copy(update={"patient_scope": "town"})
    assert len(set(column(make_plan(recipe.model_copy(update={"sources": [shared]})), "group").values())) == 1


def test_a_group_that_near_duplicates_chain_too_far_is_an_error(folder):
    for number in range(20):
        folder.add(
            f"{number}.png", picture(1).rotate(90 * (number % 4)).resize((96 + number, 96)), patient=f"p{number}"
        )
    with pytest.raises(RequestError, match=r"20 of the 20 images of one hang together.*groups.largest_share"):
        make_plan(folder.recipe())
    assert make_plan(folder.recipe(groups={"largest_share": 1.0})).groups == 1
    strict = {"sources": {"one": {"search": False}}}
    assert make_plan(folder.recipe(groups=strict)).groups == 20


def test_a_large_group_of_one_patient_is_no_error(folder):
    for number in range(12):
        folder.add(f"{number}.png", patient="7")
    plan = make_plan(folder.recipe())
    assert plan.largest[0].images == 12


def test_a_patient_that_stands_for_nobody_is_not_known(folder):
    words = ["unknown", "NaN", "na", "N/A", "none", "Null", " - ", "?", "", "Anonymous"]
    for number, word in enumerate(words):
        folder.add(f"{number}.png", patient=word)
    folder.add("10.png", patient="no")
    folder.add("11.png", patient="no")
    plan = make_plan(folder.recipe())
    assert list(column(plan, "patient").values()) == [None] * len(words) + ["one/no"] * 2
    assert plan.groups == len(words) + 1


def test_nobody_is_not_known_in_a_shared_scope_either(folder):
    folder.add("a.png", patient="n/a")
    folder.add("b.png", patient="n/a", source="two")
    recipe = folder.recipe()
    shared = recipe.sources[0].model_copy(update={"patient_scope": "town/north"})
    assert make_plan(recipe.model_copy(update={"sources": [shared]})).groups == 2


def test_patients_above_the_largest_share_are_told(folder):
    for number in range(60):
        folder.add(f"{number}.png", patient="missing" if number < 24 else "lost" if number < 36 else f"p{number}")
    for number in range(60, 70):
        folder.add(f"{number}.png", patient=f"p{number // 2}", source="two")
    plan = make_plan(folder.recipe(groups={"near": {"search": False}}))
    assert plan.crowds == [Crowd("one", 2, "missing", 24, 60)]
    (line,) = warnings_of(plan)
    assert line.startswith("WARNING: the patient 'missing' has 24 of the 60 images of one (40%), all on one side")
    assert "1 more patients" in line and line.endswith("values: {patient: {missing: null}}")
    shown = " ".join(dry_run_text(plan, Cost(0, 0)).split())
    assert line in shown
    large = make_plan(folder.recipe(groups={"near": {"search": False}, "largest_share": 0.4}))
    assert large.crowds == []


def test_no_more_than_20_characters_of_a_patient_are_told_and_none_is_markup(folder):
    for number in range(12):
        folder.add(f"{number}.png", patient="[/Jane] Doe born 1950-01-01")
    plan = make_plan(folder.recipe(groups={"near": {"search": False}}))
    (line,) = warnings_of(plan)
    assert "'[/Jane] Doe born 195…'" in line and "1950" not in line
    assert "1950" not in dry_run_text(plan, Cost(0, 0))


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (9000, "2.5 h")])
def test_the_time_is_told_in_words(folder, seconds, words):
    folder.add("a.png")
    assert f"about {words} to build" in dry_run_text(make_plan(folder.recipe()), Cost(0, seconds))


def test_extra_values_become_json(folder):
    odd = {
        "date": datetime.date(2024, 2, 29),
        "moment": datetime.datetime(2024, 2, 29, 12, 30),
        "time": datetime.time(12, 30),
        "nan": math.nan,
        "inf": -math.inf,
        "price": decimal.Decimal("1.50"),
        "plain": [1, True, None, "text", 0.5],
        "nested": {"values": (1.0, math.nan)},
    }

    class Odd:
        def samples(self):
            yield Sample("s/a", "s", "a.png", "ct", licence_class="open", extra=odd)

    (row,) = listed(folder.recipe(), [Odd()], load()).table.to_pylist()
    assert json.loads(row["extra"]) == {
        "date": "2024-02-29",
        "moment": "2024-02-29T12:30:00",
        "time": "12:30:00",
        "nan": None,
        "inf": None,
        "price": "1.50",
        "plain": [1, True, None, "text", 0.5],
        "nested": {"values": [1.0, None]},
    }


def labelled(folder, count=60):
    for number in range(count):
        folder.add(
            f"{number}.png", labels=("normal", "pneumonia", "tuberculosis")[number % 3], patient=f"p{number // 2}"
        )


def test_splits_and_folds_keep_groups_whole_and_classes_balanced(folder):
    labelled(folder)
    plan = make_plan(folder.recipe(folds={"count": 3}))
    folds = dict(zip(plan.folds["id"].to_pylist(), plan.folds["fold"].to_pylist(), strict=True))
    split, group = column(plan, "split"), column(plan, "group")
    for sides in (split, folds):
        assert len({(group[i], sides[i]) for i in group}) == plan.groups == 30
    assert np.abs(np.bincount(list(folds.values())) - 20).max() <= 2
    assert np.isclose(
        [list(split.values()).count(s) for s in ("train", "validation", "test")], [48, 6, 6], atol=2
    ).all()
    again = make_plan(folder.recipe(folds={"count": 3}))
    assert again.table == plan.table and again.folds == plan.folds
    assert column(make_plan(folder.recipe(seed=1)), "split") != split


def test_the_hash_split_of_an_image_does_not_depend_on_the_others(folder):
    labelled(folder)
    fields = {"split": {"kind": "hash"}, "groups": {"near": {"search": False}}}
    before = column(make_plan(folder.recipe(**fields)), "split")
    folder.rows = folder.rows[20:]
    after = column(make_plan(folder.recipe(**fields)), "split")
    assert all(before[i] == side for i, side in after.items())


def test_owners_split_is_kept_and_its_leaks_are_skipped(folder):
    for number, side in enumerate(["train", "test", "val", "", "train", "test"]):
        folder.add(f"{number}.png", split=side, patient=("a", "a", "b", "b", "c", "d")[number])
    plan = make_plan(folder.recipe(columns=["split"]))
    assert column(plan, "split") == {
        "one/1": "test",
        "one/2": "validation",
        "one/3": "validation",
        "one/4": "train",
        "one/5": "test",
    }
    ((item, _, reason, _),) = plan.skipped
    assert item == "one/0" and reason.startswith("in the owner's train, but its patient")
    folder.add("6.png")
    with pytest.raises(RequestError, match=r"split: owner, but 1 images have none"):
        make_plan(folder.recipe(columns=["split"], split={"kind": "owner"}))


def test_new_images_follow_old_ones_and_never_tie_two_sides(folder):
    labelled(folder, 30)
    recipe = folder.recipe(folds={"count": 3})
    first = make_plan(recipe)
    split, group = column(first, "split"), column(first, "group")
    train, test = (next(i for i, s in split.items() if s == side) for side in ("train", "test"))
    number = int(test.split("/")[1])
    folder.add("near.png", picture(1000 + number).rotate(90), source="two")
    folder.rows.append(["30.png", "normal", folder.rows[number][2], "", "CC BY 4.0", "one"])
    picture(77).save(folder.path / "30.png")
    folder.add("31.png", picture(1000 + int(train.split("/")[1])), patient=folder.rows[number][2])
    plan = make_plan(folder.recipe(folds={"count": 3}), indexed(first), first.folds)
    assert column(plan, "split") == {"two/near": "test", "one/30": "test"}
    assert set(column(plan, "group").values()) == {group[test]}
    assert [s.item for s in plan.skipped] == ["one/31"]
    old = dict(zip(*(first.folds[c].to_pylist() for c in ("id", "fold")), strict=True))
    new = dict(zip(*(plan.folds[c].to_pylist() for c in ("id", "fold")), strict=True))
    assert {i: new[i] for i in old} == old
    assert new["two/near"] == new["one/30"] == old[test]


def test_a_new_image_that_would_tie_two_folds_stays_outside_and_changes_neither(folder):
    labelled(folder, 30)
    first = make_plan(folder.recipe(folds={"count": 3}))
    old = {row["id"]: (row["fold"], row["inner"]) for row in first.folds.to_pylist()}
    other = next(int(name.split("/")[1]) for name in old if old[name][0] != old["one/0"][0])
    folder.add("between.png", picture(1000).rotate(90), patient=folder.rows[other][2])
    plan = make_plan(folder.recipe(folds={"count": 3}), indexed(first), first.folds)
    assert [(s.item, s.remedy) for s in plan.skipped] == [("one/between", "nothing to do: it would leak")]
    assert {row["id"]: (row["fold"], row["inner"]) for row in plan.folds.to_pylist()} == old


def test_classes_with_too_few_groups_are_told(folder):
    labelled(folder, 18)
    folder.add("x.png", labels="fibrosis")
    plan = make_plan(folder.recipe())
    assert [(t.source, t.finding, t.images, t.groups) for t in plan.thin] == [("one", "pulmonary fibrosis", 1, 1)]


def test_the_dry_run_tells_it_all(folder):
    labelled(folder, 18)
    folder.add("x.png", labels="strange thing")
    folder.add("y.png", licence="CC BY-NC 4.0")
    folder.add("z.jpg", b"")
    text = dry_run_text(make_plan(folder.recipe(folds={"count": 3})), Cost(3.21e6, 4000))
    for words in (
        "19 images to build",
        "1 skipped, 1 refused by licence, 1 labels that the vocabulary does not know",
        "Findings present",
        "Folds",
        "Largest groups",
        "Refused by licence",
        "non-commercial",
        "strange thing",
        "the file is empty",
    ):
        assert words in text
    plain = " ".join(text.split())
    assert re.search(r"About 3\.2 MB on disk \(the files have 0\.\d MB\), about 67 min to build\.", plain)
    assert max(map(len, text.splitlines())) <= 120


def test_no_image_at_all_is_a_clear_error(folder):
    with pytest.raises(RequestError, match="the sources hold no image"):
        make_plan(folder.recipe())
    folder.add("z.jpg", b"")
    with pytest.raises(RequestError, match=r"all are skipped, one/z because the file is empty"):
        make_plan(folder.recipe())
