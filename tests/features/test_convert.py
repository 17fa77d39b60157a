"""A miniature of MMKD-CLIP's published folder: read as tensors only, from inside the folder only."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from medweave.corpus.build import build
from medweave.corpus.captions.bank import Bank
from medweave.corpus.order import Ranges
from medweave.corpus.recipe import CorpusRecipe
from medweave.errors import RequestError, UserError
from medweave.features.convert import convert
from medweave.features.coverage import Thresholds, cover
from medweave.features.measure import Labelled, measure
from medweave.features.store import names, open_features

WIDTHS = {"BiomedCLIP": 12, "PLIP": 12, "BMCA": 20}
FOLDER = "data_1743474621"


def name(number):
    return f"{number:032x}"


def vectors(number, project):
    """As the reference stores them: float32, unit length; projected ones are all 16 wide and of any length."""
    draw = torch.Generator().manual_seed(number)
    teachers = [t for at, t in enumerate(WIDTHS) if t != "PLIP" or number % 2]
    made = {}
    for teacher in teachers:
        for side in ("_img", "_txt"):
            vector = torch.randn(16 if project else WIDTHS[teacher], generator=draw)
            made[teacher + side] = vector if project else vector / vector.norm()
    return made


@pytest.fixture
def published(tmp_path):
    """Twelve samples, of which PLIP has seen every other."""
    root = tmp_path / "MMKDCLIP_DATA"
    lines = []
    for number in range(12):
        folder = root / "features" / FOLDER / name(number)
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"figure-{number}.jpg")
        (folder / f"figure-{number}.json").write_text("{}")
        torch.save(vectors(number, False), folder / "clips_output.pt")
        torch.save(vectors(number, True), folder / "clips_project_output.pt")
        image = f"features/{FOLDER}/{name(number)}/figure-{number}.jpg"
        teachers = sorted({key.rpartition("_")[0] for key in vectors(number, False)})
        lines.append({"folderid": FOLDER, "id": name(number), "imgpath": image, "metapath": image[:-3] + "json"})
        lines[-1] |= {"txt": f"Figure {number}, “quoted”.", "available_clips": teachers}
    (root / "meta.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return root


@pytest.fixture
def corpus(published, tmp_path):
    """Nine of the pictures, with their published texts but for one, and one picture that is not published."""
    rows = [json.loads(line) for line in (published / "meta.jsonl").read_text().splitlines()][:9]
    Image.fromarray(np.full((40, 40), 9, np.uint8)).save(published / "own.png")
    table = [("path", "caption")] + [(row["imgpath"], row["txt"]) for row in rows] + [("own.png", "My own.")]
    table[1 + 5] = (table[1 + 5][0], "Another text.")
    (published / "manifest.csv").write_text("\n".join(f'{path},"{text}"' for path, text in table))
    source = {"kind": "folder", "name": "biomedica", "path": str(published), "manifest": "manifest.csv"}
    source |= {"columns": {"path": "path", "caption": "caption"}, "modality": "other"}
    tree = {"path": str(tmp_path / "corpus"), "shard": 4, "workers": 1, "accept": ["unknown"], "sources": [source]}
    return build(CorpusRecipe.model_validate(tree | {"groups": {"near": {"search": False}}}))


def number_of(corpus, published_number):
    (found,) = [n for n in range(len(corpus)) if name(published_number) in corpus.fields(n)["id"]]
    return found


def test_rows_are_the_published_vectors(corpus, published):
    made = convert(published, corpus)
    assert {features.name for features in made} == set(WIDTHS) == set(names(corpus))
    for teacher, width in WIDTHS.items():
        features = open_features(corpus, teacher)
        assert features.width == width and features.stamp.head is None and features.sides == ("images", "texts")
        for number in range(9):
            at, expected = np.array([number_of(corpus, number)]), vectors(number, False)
            if number == 5 or f"{teacher}_img" not in expected:
                assert not features.covered(at)[0]
                continue
            assert features.covered(at)[0]
            np.testing.assert_allclose(features.image(at)[0], expected[f"{teacher}_img"], atol=1e-3)
            np.testing.assert_allclose(features.text(at)[0], expected[f"{teacher}_txt"], atol=1e-3)
    everyone = open_features(corpus, "BMCA").covered(np.arange(10))
    assert everyone.sum() == 8


def test_judging_the_rows_anew_trusts_none_that_is_absent(corpus, published):
    """A run measures its teachers again: zeros are no rows, of an image or of a text."""
    convert(published, corpus)
    for teacher in WIDTHS:
        features = open_features(corpus, teacher)
        before = features.covered(np.arange(len(corpus)))
        coverage = cover(features, Ranges.of(np.arange(len(corpus))), thresholds=Thresholds(pair=-1.0))
        assert np.array_equal(open_features(corpus, teacher).covered(np.arange(len(corpus))), before)
        assert coverage.samples["absent", False] == (~before).sum() > 0


def test_measures_rest_on_rows_that_are_there(corpus, published):
    convert(published, corpus)
    features = open_features(corpus, "PLIP")
    there = features.covered(np.arange(len(corpus)))
    names = ["seen" if has_row else "absent" for has_row in there.tolist()]
    known = [Labelled(number, "other", names[number], f"g{number}") for number in range(len(corpus))]
    assert measure(features, "other", known, Bank.load()) is None  # one finding is left


def test_projected_vectors_keep_their_length_and_their_own_names(corpus, published):
    made = convert(published, corpus, "clips_project_output")
    assert {features.name for features in made} == {f"{teacher}-projected" for teacher in WIDTHS}
    at = np.array([number_of(corpus, 3)])
    row = open_features(corpus, "BMCA-projected").image(at)[0]
    np.testing.assert_allclose(row, vectors(3, True)["BMCA_img"], rtol=2e-3, atol=1e-3)
    assert np.linalg.norm(row) > 1.5


def test_the_same_call_again_reads_nothing_and_a_stopped_one_goes_on(corpus, published, monkeypatch):
    from medweave.features import convert as module

    real, left = module._convert_shard, [1]

    def dies(*args):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(*args)

    monkeypatch.setattr(module, "_convert_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        convert(published, corpus)
    with pytest.raises(UserError, match="has no rows yet"):
        open_features(corpus, "BMCA")
    left[0] = len(corpus.shards) - 1
    convert(published, corpus)
    before = {p: p.read_bytes() for p in (corpus.path / "features").rglob("*") if p.is_file()}
    convert(published, corpus)
    assert left[0] == 0 and {p: p.read_bytes() for p in before} == before


class Evil:
    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize("harm", ["pickle", "list", "nan", "long", "wide", "missing", "text"])
def test_a_harmful_or_damaged_file_is_listed_and_not_covered(corpus, published, harm, capsys):
    path = published / "features" / FOLDER / name(2) / "clips_output.pt"
    good = vectors(2, False)
    if harm == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif harm == "list":
        torch.save([1, 2], path)
    elif harm == "missing":
        path.unlink()
    elif harm == "text":
        path.write_text("no tensors")
    else:
        value = {"nan": good["BMCA_img"] * torch.nan, "long": good["BMCA_img"] * 2, "wide": torch.ones(7)}[harm]
        torch.save(good | {"BMCA_img": value}, path)
    convert(published, corpus)
    features, at = open_features(corpus, "BMCA"), number_of(corpus, 2)
    assert "unpickled" not in capsys.readouterr().out
    assert features.unread.tolist() == [at] and not features.covered(np.array([at]))[0]
    reason = next(iter(next(shard for shard in features.stamp.shards if shard.unread).unread.values()))
    assert "no vectors can be read" in reason and len(reason.splitlines()) == 1
    other = open_features(corpus, "BiomedCLIP")
    assert bool(other.covered(np.array([at]))[0]) == (harm in ("nan", "long", "wide"))  # harm to one teacher's alone


def test_a_first_file_of_other_widths_decides_nothing(corpus, published):
    wrong = {key: torch.ones(3) / 3**0.5 for key in vectors(0, False)}
    torch.save(wrong, published / "features" / FOLDER / name(0) / "clips_output.pt")
    convert(published, corpus)
    for teacher, width in WIDTHS.items():
        features = open_features(corpus, teacher)
        assert features.width == width and features.covered(np.arange(len(corpus))).sum() > 2


def test_texts_are_the_same_but_for_space_around_them(corpus, published):
    meta = published / "meta.jsonl"
    meta.write_text(meta.read_text().replace("”.", "”. "))
    convert(published, corpus)
    assert open_features(corpus, "BMCA").covered(np.array([number_of(corpus, 1)]))[0]


def test_a_corpus_of_other_pictures_is_told(corpus, published):
    meta = published / "meta.jsonl"
    lines = [json.loads(line) for line in meta.read_text().splitlines()][9:]
    meta.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (published / "features" / FOLDER / name(9) / "clips_output.pt").unlink()  # one bad file is not the reason
    with pytest.raises(UserError, match="no sample of the corpus has rows there"):
        convert(published, corpus)


@pytest.mark.parametrize("which", ["clips_output", "clips_project_output"])
def test_a_list_without_its_files_is_told_as_that(corpus, published, which):
    """meta.jsonl alone was fetched: the corpus is as it should be."""
    for path in published.glob(f"features/*/*/{which}.pt"):
        path.unlink()
    with pytest.raises(UserError) as raised:
        convert(published, corpus, which)
    first = published / "features" / FOLDER / name(0) / f"{which}.pt"
    assert f"no {which}.pt could be read under features/, such as: no vectors can be read: " in str(raised.value)
    assert f"({first})" in str(raised.value) and "No such file" in str(raised.value)
    assert "build the corpus" not in str(raised.value) and len(str(raised.value).splitlines()) == 1


def test_files_of_other_samples_alone_are_told_as_that(corpus, published):
    for number in range(9):
        (published / "features" / FOLDER / name(number) / "clips_output.pt").unlink()
    with pytest.raises(
        UserError, match=r"no clips_output\.pt could be read under features/, such as: no vectors can be"
    ):
        convert(published, corpus)


@pytest.mark.parametrize("way", ["dots", "absolute", "link"])
def test_nothing_outside_the_folder_is_read(corpus, published, tmp_path, way):
    outside = tmp_path / "outside"
    (outside / name(2)).mkdir(parents=True)
    torch.save(vectors(2, False), outside / name(2) / "clips_output.pt")
    if way == "link":
        path = published / "features" / FOLDER / name(2) / "clips_output.pt"
        path.unlink()
        path.symlink_to(outside / name(2) / "clips_output.pt")
    else:
        meta = published / "meta.jsonl"
        lines = [json.loads(line) for line in meta.read_text().splitlines()]
        lines[2]["folderid"] = str(outside) if way == "absolute" else "../../outside"
        meta.write_text("".join(json.dumps(line) + "\n" for line in lines))
    convert(published, corpus)
    features = open_features(corpus, "BMCA")
    assert features.unread.tolist() == [number_of(corpus, 2)]
    assert "outside the folder" in next(iter(next(s for s in features.stamp.shards if s.unread).unread.values()))


def test_a_folder_of_something_else_is_one_line(corpus, published, tmp_path):
    with pytest.raises(RequestError, match=r"no meta\.jsonl"):
        convert(tmp_path, corpus)
    meta = published / "meta.jsonl"
    meta.write_text(meta.read_text() + '{"folderid": 3}\n')
    with pytest.raises(UserError, match="line 13 is no sample"):
        convert(published, corpus)


def test_rows_of_another_origin_are_not_overwritten(corpus, published, tiny):
    from medweave.features.extract import extract

    extract(corpus, tiny(), "PLIP", workers=1)
    with pytest.raises(RequestError, match=r"rows with other .* lie there"):
        convert(published, corpus)
    open_features(corpus, "PLIP", tiny())
