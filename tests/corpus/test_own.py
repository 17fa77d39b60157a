"""A user's own findings and banks: checked before anything is written, kept in the corpus, free to improve."""

import json
import re
import shutil
import tarfile
from pathlib import Path

import fsspec
import pytest

from medweave.corpus.build import build, dry_run
from medweave.corpus.captions.bank import Bank
from medweave.corpus.info import info_text
from medweave.corpus.store import open_corpus
from medweave.errors import RequestError
from medweave.reports.preview import preview

MINE = """
- modality: xray
  anatomy: chest
  finding: pneumonia
  captions: [Pneumonia as our house says it., Our own words for pneumonia.]
"""
PLAGUE = """
- {name: plague, modality: [xray, ct], anatomy: chest, parent: pneumonia, synonyms: [black death]}
"""


@pytest.fixture
def write(tmp_path):
    """A function that writes a file and returns its path."""

    def written(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return written


def bank_of(path: Path) -> Bank:
    return Bank.load(open_corpus(path).banks())


def captions_of(path: Path) -> dict[str, str]:
    """id -> the caption beside the image, read with tarfile alone."""
    found = {}
    for shard in (path / "shards").glob("*.tar"):
        with tarfile.open(shard) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        for name in files:
            if name.endswith(".json"):
                found[json.loads(files[name])["id"]] = files[name.replace(".json", ".txt")].decode()
    return found


def pneumonias(path: Path) -> set[str]:
    """The ids of X-ray images with pneumonia and without a text of their own: they show what the bank says."""
    rows = open_corpus(path).index(["id", "modality", "findings", "texts"]).to_pylist()
    return {
        row["id"]
        for row in rows
        if row["modality"] == "xray" and not row["texts"] and row["findings"][0]["name"] == "pneumonia"
    }


@pytest.fixture
def sick(tmp_path, raw_images) -> Path:
    """A folder of 24 images, half of them with pneumonia, none with a text."""
    folder = raw_images(tmp_path / "sick", 24)
    manifest = folder / "manifest.csv"
    manifest.write_text(re.sub(r"Image number \d+\.", "", manifest.read_text()))
    return folder


def test_an_own_bank_is_copied_and_drawn_from(sick, tmp_path, recipe_of, write):
    path = tmp_path / "corpus"
    corpus = build(recipe_of(path, sick, banks=[write("banks/mine.yaml", MINE)]))
    assert [bank.name for bank in corpus.banks()] == ["ct.yaml", "xray.yaml", "own-01-mine.yaml"]
    assert corpus.banks()[-1].read_text() == MINE
    bank = bank_of(path)
    assert bank.captions("xray", "chest", "pneumonia")[0] == "Pneumonia as our house says it."
    assert bank.captions("ct", "chest", "pneumonia") == Bank.load().captions("ct", "chest", "pneumonia")
    told = captions_of(path)
    drawn = {told[name] for name in pneumonias(path)}
    assert drawn == {"Pneumonia as our house says it.", "Our own words for pneumonia."}
    assert "captions from ct.yaml, xray.yaml, own-01-mine.yaml" in info_text(path)
    sheet = preview(path, tmp_path / "sheet.html").read_text()
    assert "our house says it" in sheet or "Our own words" in sheet


def test_a_later_bank_wins_whatever_it_is_called(raw, tmp_path, recipe_of, write):
    first = write("z/xray.yaml", MINE)
    last = write("a/xray.yaml", MINE.replace("our house", "their house"))
    build(recipe_of(tmp_path / "corpus", raw, banks=[first, last]))
    assert "their house" in bank_of(tmp_path / "corpus").captions("xray", "chest", "pneumonia")[0]
    build(recipe_of(tmp_path / "other", raw, banks=[last, first]))
    assert "our house" in bank_of(tmp_path / "other").captions("xray", "chest", "pneumonia")[0]


@pytest.mark.parametrize("call", [build, dry_run])
def test_every_mistake_of_the_banks_is_told_before_anything_is_written(raw, tmp_path, recipe_of, write, call):
    wrong = MINE.replace("Our own words for pneumonia.", "A chest of a patient.")
    unknown = MINE.replace("finding: pneumonia", "finding: pnuemonia").replace("our", "no").replace("Our", "No")
    banks = [
        tmp_path / "mine.yml",
        write("wrong.yaml", wrong),
        write("twice.yaml", MINE + MINE + MINE.replace("pneumonia", "normal") + MINE.replace("pneumonia", "normal")),
        write("unknown.yaml", unknown),
        write("typo.yaml", MINE.replace("captions:", "captoins:")),
        write("good.yaml", MINE),
    ]
    with pytest.raises(RequestError) as error:
        call(recipe_of(tmp_path / "corpus", raw, banks=banks))
    lines = str(error.value).splitlines()
    assert sum("no such file" in line and "mine.yml" in line for line in lines) == 1
    assert sum("names neither the finding" in line and "'A chest of a patient.'" in line for line in lines) == 1
    assert [line for line in lines if "two entries for" in line] == [
        f"  two entries for xray, chest, {name}: join their captions in one entry" for name in ("pneumonia", "normal")
    ]
    assert sum("not in the findings vocabulary; nearest: pneumonia" in line for line in lines) == 1
    assert any("bank.0.captoins: no such key; did you mean captions" in line for line in lines)
    heads = [*(f"2 mistakes in {banks[n]}" for n in (2, 4)), *(f"a mistake in {banks[n]}" for n in (1, 3))]
    assert [line for line in lines if " in /" in line] == heads
    assert not (tmp_path / "corpus").exists()


def test_an_own_caption_that_is_a_shipped_one_of_another_finding_is_refused(raw, tmp_path, recipe_of, write):
    normal = Bank.load().captions("xray", "chest", "normal")[0]
    bank = MINE.replace("Our own words for pneumonia.", json.dumps(normal))
    with pytest.raises(RequestError, match="the same text as for normal"):
        build(recipe_of(tmp_path / "corpus", raw, banks=[write("mine.yaml", bank)]))


def test_banks_improve_without_a_rebuild(raw, tmp_path, recipe_of, write):
    path, mine = tmp_path / "corpus", write("mine.yaml", MINE)
    before = build(recipe_of(path, raw))
    shards = {file.name: file.read_bytes() for file in (path / "shards").iterdir()}
    recipes = [
        (recipe_of(path, raw, banks=[mine]), MINE),
        (recipe_of(path, raw, banks=[write("mine.yaml", MINE.replace("our house", "this house"))]), "this house"),
        (recipe_of(path, raw, banks=[write("new.yaml", MINE.replace("our house", "a new house"))]), "a new house"),
    ]
    for recipe, said in recipes:
        recipe.banks[0].write_text(said if said is MINE else MINE.replace("our house", said))
        corpus = build(recipe)
        assert [bank.name for bank in corpus.banks()][2:] == [f"own-01-{recipe.banks[0].name}"]
        assert len(list((path / "captions").glob("own-*"))) == 1
        assert said in corpus.banks()[-1].read_text()
        assert bank_of(path).captions("xray", "chest", "pneumonia") == Bank.load(recipe.banks).captions(
            "xray", "chest", "pneumonia"
        )
        assert corpus.hash == before.hash
    assert shards == {file.name: file.read_bytes() for file in (path / "shards").iterdir()}
    assert [bank.name for bank in build(recipe_of(path, raw)).banks()] == ["ct.yaml", "xray.yaml"]
    assert not list((path / "captions").glob("own-*"))


def test_improved_banks_are_read_from_afar_too(raw, tmp_path, recipe_of, write):
    files, path = fsspec.filesystem("memory"), tmp_path / "corpus"
    for words in ("our house", "this house"):
        build(recipe_of(path, raw, banks=[write("mine.yaml", MINE.replace("our house", words))]))
        files.put(str(path), "/own/corpus", recursive=True)
        far = open_corpus("memory://own/corpus", cache=tmp_path / "cache")
        assert words in Bank.load(far.banks()).captions("xray", "chest", "pneumonia")[0]
        files.rm("/own", recursive=True)


def test_appended_images_show_the_captions_of_the_new_bank(raw, sick, tmp_path, recipe_of, write):
    path = tmp_path / "corpus"
    build(recipe_of(path, raw))
    before = captions_of(path)
    build(recipe_of(path, raw, sick, banks=[write("mine.yaml", MINE)]))
    after = captions_of(path)
    assert before.items() <= after.items()
    new = pneumonias(path) - before.keys()
    assert new and all("our" in after[name].lower() for name in new)


def test_another_bank_after_a_killed_build_makes_its_shards_anew(sick, tmp_path, recipe_of, write, monkeypatch):
    path, mine = tmp_path / "corpus", write("mine.yaml", MINE)
    recipe = recipe_of(path, sick, banks=[mine])

    def dies(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("medweave.corpus.assemble.assemble", dies)
    with pytest.raises(KeyboardInterrupt):
        build(recipe)
    monkeypatch.undo()
    mine.write_text(MINE.replace("our house", "this house"))
    build(recipe)
    whole = recipe_of(tmp_path / "whole", sick, banks=[mine])
    assert build(whole).hash == open_corpus(path).hash
    assert not any("our house" in caption for caption in captions_of(path).values())


def test_words_that_an_abandoned_build_left_are_forgotten(raw, tmp_path, recipe_of, write, monkeypatch):
    path = tmp_path / "corpus"

    def dies(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("medweave.corpus.build._make", dies)
    with pytest.raises(KeyboardInterrupt):
        build(recipe_of(path, raw, banks=[write("mine.yaml", MINE)], findings=write("names.yaml", PLAGUE)))
    monkeypatch.undo()
    assert (path / "captions" / "own-01-mine.yaml").exists() and (path / "findings.yaml").exists()
    corpus = build(recipe_of(path, raw))
    assert [bank.name for bank in corpus.banks()] == [file.name for file in sorted((path / "captions").iterdir())]
    assert not (path / "findings.yaml").exists() and not any("our house" in c for c in captions_of(path).values())


def test_a_lost_shard_is_restored_with_the_banks_that_it_was_made_with(sick, tmp_path, recipe_of, write):
    path = tmp_path / "corpus"
    corpus = build(recipe_of(path, sick, banks=[write("mine.yaml", MINE)]))
    lost = path / "shards" / corpus.shards[0]["name"]
    data = lost.read_bytes()
    lost.unlink()
    build(recipe_of(path, sick, banks=[write("new.yaml", MINE.replace("our house", "a new house"))]))
    assert lost.read_bytes() == data
    assert "a new house" in bank_of(path).captions("xray", "chest", "pneumonia")[0]


def test_an_append_that_was_killed_leaves_the_old_banks_readable(raw, sick, tmp_path, recipe_of, write, monkeypatch):
    path = tmp_path / "corpus"
    build(recipe_of(path, raw, banks=[write("mine.yaml", MINE)]))

    def dies(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("medweave.corpus.assemble._facts", dies)
    with pytest.raises(KeyboardInterrupt):
        build(recipe_of(path, raw, sick, banks=[write("new.yaml", MINE.replace("our house", "a new house"))]))
    assert "our house" in bank_of(path).captions("xray", "chest", "pneumonia")[0]


def relabelled(folder: Path, label: str) -> None:
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",pneumonia,", f",{label},"))


def names_in(path: Path) -> set[str]:
    return {f["name"] for row in open_corpus(path).index(["findings"])["findings"].to_pylist() for f in row}


def test_own_findings_name_labels_and_stay_with_the_corpus(sick, tmp_path, recipe_of, write):
    relabelled(sick, "Black_Death")
    path, own = tmp_path / "corpus", write("names.yaml", PLAGUE)
    assert names_in(build(recipe_of(tmp_path / "without", sick)).path) == {"normal", "black death"}
    bank = MINE.replace("pneumonia", "plague").replace("Pneumonia", "Plague")
    corpus = build(recipe_of(path, sick, findings=own, banks=[write("mine.yaml", bank)]))
    assert names_in(path) == {"normal", "plague"} and corpus.facts["unmapped"] == []
    own.unlink()
    kept = open_corpus(path).vocabulary()
    assert kept.canonical("black death", "xray", "chest") == "plague"
    assert kept.ancestors("plague", "xray", "chest") == ["pneumonia", "lung opacity"]
    assert kept.canonical("no finding", "xray", "chest") == "normal"
    assert "findings of its own" in info_text(path)


def test_an_unmapped_label_is_listed_with_the_nearest_names_of_both(sick, tmp_path, recipe_of, write):
    relabelled(sick, "plagues")
    recipe = recipe_of(tmp_path / "corpus", sick, findings=write("names.yaml", PLAGUE))
    assert re.search(r"plagues +xray +chest +plague", dry_run(recipe))
    relabelled(sick, "x")
    manifest = sick / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",plagues,", ",pneumonai,"))
    assert re.search(r"pneumonai +xray +chest +pneumonia", dry_run(recipe))


def test_wrong_findings_are_told_before_anything_is_written(raw, tmp_path, recipe_of, write):
    both = PLAGUE + "- {name: pest, modality: xray, anatomy: chest, synonyms: [black death]}\n"
    both += "- {name: cough, modality: xray, anatomy: chest, parent: pneumonai}\n"
    with pytest.raises(RequestError) as error:
        build(recipe_of(tmp_path / "corpus", raw, findings=write("names.yaml", both)))
    first, *lines = str(error.value).splitlines()
    assert first.startswith("2 mistakes in") and first.endswith("names.yaml")
    assert lines[0] == "  xray / chest: 'black death' is a word of 'plague' and 'pest'"
    assert "the parent 'pneumonai' of 'cough' is no name here; nearest: pneumonia" in lines[1]
    assert not (tmp_path / "corpus").exists()


def test_findings_may_grow_but_what_a_corpus_holds_keeps_its_names(sick, raw, tmp_path, recipe_of, write):
    relabelled(sick, "plague")
    path, own = tmp_path / "corpus", write("names.yaml", PLAGUE)
    build(recipe_of(path, sick, findings=own))
    grown = PLAGUE + "- {name: scurvy, modality: xray, anatomy: chest}\n"
    own.write_text(grown)
    corpus = build(recipe_of(path, sick, raw, findings=own))
    assert corpus.vocabulary().canonical("scurvy", "xray", "chest") == "scurvy" and len(corpus) > 24
    before = {file.name: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    own.write_text(grown.replace("name: plague", "name: pest").replace("synonyms: [black death]", "synonyms: [plague]"))
    with pytest.raises(RequestError) as error:
        build(recipe_of(path, sick, raw, findings=own))
    assert "names anew what this corpus holds" in str(error.value)
    for line in ("xray / chest: 'plague' was 'plague', now 'pest'", "'black death' was 'plague', now unknown"):
        assert line in str(error.value)
    with pytest.raises(RequestError, match="'plague' was 'plague', now unknown"):
        build(recipe_of(path, sick, raw))
    assert before == {file.name: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_label_that_was_kept_may_become_a_name_but_no_synonym_of_another(sick, tmp_path, recipe_of, write):
    relabelled(sick, "plague")
    path = tmp_path / "corpus"
    build(recipe_of(path, sick))
    other = write("names.yaml", "- {name: pest, modality: xray, anatomy: chest, synonyms: [plague]}\n")
    with pytest.raises(RequestError, match="'plague' was kept in its owner's words, now 'pest'"):
        build(recipe_of(path, sick, findings=other))
    corpus = build(recipe_of(path, sick, findings=write("names.yaml", PLAGUE)))
    assert names_in(path) == {"normal", "plague"} and corpus.facts["unmapped"] == []


def test_a_corpus_from_before_own_words_goes_on(built, raw, tmp_path, recipe_of, write):
    path = shutil.copytree(built, tmp_path / "corpus")
    facts = json.loads((path / "corpus.json").read_text())
    for name in ("banks", "findings"):
        del facts["recipe"][name]
    del facts["findings"]
    (path / "corpus.json").write_text(json.dumps(facts))
    assert open_corpus(path).vocabulary().canonical("no finding", "xray", "chest") == "normal"
    lost = path / "shards" / facts["shards"][0]["name"]
    lost.unlink()
    corpus = build(recipe_of(path, raw, folds={"count": 3}, banks=[write("mine.yaml", MINE)]))
    assert corpus.hash == facts["hash"] and lost.read_bytes() == (built / "shards" / lost.name).read_bytes()
