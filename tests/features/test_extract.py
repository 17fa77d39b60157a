"""Extraction: rows equal those of one picture at a time, and however it is run or stopped, the same bytes come out."""

import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medweave.corpus import augment as augment_module
from medweave.corpus.build import build
from medweave.corpus.captions.bank import Bank
from medweave.corpus.images import decode
from medweave.corpus.order import Ranges
from medweave.corpus.store import open_corpus
from medweave.errors import DamagedError, RequestError, UserError
from medweave.features import coverage as coverage_module
from medweave.features import extract as extract_module
from medweave.features.coverage import cover
from medweave.features.extract import extract
from medweave.features.standardise import standardise
from medweave.features.store import open_features, stale
from medweave.features.views import Views
from medweave.files import read_json, write_json

HALF = 2e-3  # what half precision may move a number of a unit row


def content(folder):
    """Every file of a folder of rows, but locks."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if ".writers" not in path.parts}


def rows_of(corpus, name):
    return corpus.path / "features" / name


@pytest.fixture
def expected(corpus, tiny):
    """A function of a name and options of `extract` to the files that an undisturbed run leaves elsewhere."""

    def make(name="tiny", encoder=None, **options):
        root = corpus.path.parent / "undisturbed"
        extract(corpus, encoder or tiny(), name, root=root, workers=1, **options)
        return content(root / name)

    return make


def test_rows_are_those_of_one_picture_and_one_text_at_a_time(corpus, tiny):
    encoder, views = tiny(), Views(count=2, seed=3)
    told = extract(corpus, encoder, views=views, workers=1)
    features = open_features(corpus, "tiny", encoder)
    texts = tokens = cut = 0
    for number in range(len(corpus)):
        data, fields = corpus.read(number), corpus.fields(number)
        at = np.array([number])
        np.testing.assert_allclose(features.image(at), encoder.embed_images(data), atol=HALF)
        for view in (1, 2):
            square = views.picture(decode(data, grey=True), 24, fields["modality"], number, view)
            with torch.no_grad():
                naive = encoder.model.encode_image(encoder.preprocess.tensor(square)[None]).numpy()
            np.testing.assert_allclose(features.image(at, np.array([view])), naive, atol=HALF)
        assert features.text_counts(at) == [len(fields["texts"])]
        for which, text in enumerate(fields["texts"]):
            one = np.array([which])
            np.testing.assert_allclose(features.text(at, one), encoder.embed_texts(text["text"]), atol=HALF)
            length = 2 + len(encoder.model.tokenize.tokenizer.encode(text["text"]))
            assert features.tokens(at, one) == [length] and features.cut(at, one) == [length > 12]
            texts, tokens, cut = texts + 1, tokens + length, cut + (length > 12)
    assert (told.images, told.views, told.texts, told.cut, told.unread) == (44, 2, texts, cut, 0)
    assert cut and texts > cut and "13 of them cut" in told.text()
    assert features.stamp.head.scale == pytest.approx(np.exp(2.0)) and features.stamp.head.kind == "softmax"


def test_captions_of_the_bank_have_one_row_each(corpus, tiny):
    encoder = tiny()
    extract(corpus, encoder, workers=1)
    features, bank = open_features(corpus, "tiny"), Bank.load(corpus.banks())
    captions = set()
    for number in range(len(corpus)):
        fields = corpus.fields(number)
        present = [finding for finding, state in fields["findings"].items() if state == "present"]
        captions |= {c for one in present for c in bank.captions(fields["modality"], fields["anatomy"], one)}
    assert set(features.captions) == captions and len(captions) >= 40
    some = sorted(captions)[::3]
    np.testing.assert_allclose(features.bank(some), encoder.embed_texts(some), atol=HALF)
    rows = features.bank(some)
    extract(corpus, encoder, bank=["A text of a user.", *some], workers=1)
    features = open_features(corpus, "tiny")
    np.testing.assert_array_equal(features.bank(some), rows)
    np.testing.assert_allclose(
        features.bank(["A text of a user."]), encoder.embed_texts("A text of a user."), atol=HALF
    )
    with pytest.raises(UserError, match="no row of the caption 'nobody'"):
        features.bank(["nobody"])


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_workers_and_ranks_give_the_same_bytes(corpus, tiny, expected, monkeypatch, dtype):
    options = {"views": Views(count=1), "dtype": dtype}
    whole = expected(**options)
    extract(corpus, tiny(), "workers", **options, workers=2)
    assert content(rows_of(corpus, "workers")) == whole
    for rank in (1, 0):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", str(rank))
        told = extract(corpus, tiny(), "ranks", **options, workers=1)
        assert told.made == 4 and told.left == (4 if rank else 0)
        if rank:
            with pytest.raises(UserError, match="has no rows yet"):
                open_features(corpus, "ranks")
    assert content(rows_of(corpus, "ranks")) == whole


def test_two_processes_at_once_give_the_same_bytes(corpus, tiny, expected):
    def one(rank):
        os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank)}
        extract(corpus, tiny(), "tiny", workers=1)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=one, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert content(rows_of(corpus, "tiny")) == expected()


def killed(corpus, encoder, moment, **options):
    """Start extraction in another process, and kill -9 it once `moment` holds. Whether it was killed."""
    process = multiprocessing.get_context("fork").Process(target=extract, args=(corpus, encoder), kwargs=options)
    process.start()
    while process.is_alive() and not moment():
        time.sleep(0.0005)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_at_any_moment_then_the_same_command_gives_the_same_bytes(corpus, tiny, expected, workers):
    options = {"views": Views(count=1), "workers": workers}
    whole = expected(views=options["views"])
    folder = rows_of(corpus, "tiny")
    records = folder / ".build"
    moments = [
        (folder / "stamp.json").exists,
        (folder / "bank.npy").exists,
        lambda: any(folder.glob(".image-*.part")) or any(records.glob("*")),
        lambda: any(folder.glob("text-*.npy")),
        lambda: len(list(records.glob("*.json"))) >= 2,
        lambda: len(list(records.glob("*.json"))) >= 5,
    ]
    assert sum([killed(corpus, tiny(), moment, **options) for moment in moments]) >= 3
    done = {path.stem: path.stat().st_mtime_ns for path in records.glob("*.json")}
    files = {f"image-{shard}.npy": (folder / f"image-{shard}.npy").stat().st_mtime_ns for shard in done}
    extract(corpus, tiny(), **options)
    assert content(folder) == whole and not list(folder.rglob("*.part"))
    assert {name: (folder / name).stat().st_mtime_ns for name in files} == files


def test_a_full_disk_loses_nothing(corpus, tiny, expected, monkeypatch):
    whole, real = expected(), Path.write_bytes

    def write(path, data):
        if path.name.startswith(".image-00003"):
            real(path, data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(UserError, match=r"disk is full.*same command again"):
        extract(corpus, tiny(), workers=1)
    monkeypatch.undo()
    folder = rows_of(corpus, "tiny")
    assert len(list((folder / ".build").iterdir())) == 3 and not list(folder.rglob("*.part"))
    extract(corpus, tiny(), workers=1)
    assert content(folder) == whole


def test_the_same_command_again_computes_nothing(corpus, tiny, monkeypatch):
    extract(corpus, tiny(), workers=1)
    before = content(rows_of(corpus, "tiny"))
    monkeypatch.setattr(extract_module, "make_rows", lambda *args: pytest.fail("computed again"))
    told = extract(corpus, tiny(), workers=1)
    assert told.made == 0 and told.images == 44 and content(rows_of(corpus, "tiny")) == before


def test_new_samples_cost_only_their_own_shards(corpus, tiny, sources, recipe_of, more_images, tmp_path, monkeypatch):
    options = {"views": Views(count=1), "workers": 1}
    extract(corpus, tiny(), **options)
    folder, old = rows_of(corpus, "tiny"), len(corpus.shards)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.npy") if path.name != "bank.npy"}
    more = more_images(tmp_path / "more", "heads", 20, seed=500)
    recipe = recipe_of(corpus.path, {**sources, "heads": sources["heads"]})
    extra = recipe_of(corpus.path, {"heads": more}).sources[0].model_copy(update={"name": "annex"})
    grown = build(recipe.model_copy(update={"sources": (*recipe.sources, extra)}))
    assert len(grown) == 64 and len(grown.shards) > old
    with pytest.raises(UserError, match=r"annex-train-00000\.tar has no rows yet"):
        open_features(grown, "tiny")
    made = []
    real = extract_module.make_rows
    monkeypatch.setattr(extract_module, "make_rows", lambda job, shard: made.append(shard) or real(job, shard))
    told = extract(grown, tiny(), **options)
    assert made == list(range(old, len(grown.shards))) and told.images == 64
    assert {path: path.stat().st_mtime_ns for path in before} == before
    root = tmp_path / "elsewhere"
    extract(grown, tiny(), root=root, **options)
    assert content(folder) == content(root / "tiny")


def test_a_shard_that_changed_is_told_and_made_anew(corpus, tiny, sources, recipe_of, tmp_path, capsys):
    extract(corpus, tiny(), workers=1)
    before = content(rows_of(corpus, "tiny"))
    changed = {name: shutil.copytree(folder, tmp_path / "changed" / name) for name, folder in sources.items()}
    Image.fromarray(np.full((48, 60), 77, np.uint8)).save(changed["lungs"] / "004.jpg")
    other = build(recipe_of(tmp_path / "other", changed))
    shutil.copytree(corpus.path / "features", other.path / "features")
    wrong = [name for name, at in ((s["name"], s) for s in other.shards) if at not in corpus.shards]
    assert len(wrong) == 1
    with pytest.raises(UserError, match=f"{wrong[0]} has changed since its rows were made"):
        open_features(other, "tiny")
    told = extract(other, tiny(), workers=1)
    assert told.made == 1 and f"{wrong[0]} has changed" in capsys.readouterr().err
    after = content(rows_of(other, "tiny"))
    number = [shard["name"] for shard in other.shards].index(wrong[0])
    differ = {name for name in before if before[name] != after[name]}
    assert differ == {f"image-{number:05d}.npy", "stamp.json"}
    open_features(other, "tiny")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "weights"),
        ({"size": 32}, "preprocessing"),
        ({"dim": 8}, "weights and width"),
    ],
)
def test_another_teacher_is_refused_unless_it_may_replace(corpus, tiny, change, said):
    extract(corpus, tiny(), workers=1)
    before = content(rows_of(corpus, "tiny"))
    other = tiny(**change)
    with pytest.raises(UserError, match=f"a teacher with other {said}"):
        open_features(corpus, "tiny", other)
    with pytest.raises(RequestError, match=f"rows with other {said} lie there.*--replace"):
        extract(corpus, other, workers=1)
    assert content(rows_of(corpus, "tiny")) == before
    extract(corpus, other, workers=1, replace=True)
    features = open_features(corpus, "tiny", other)
    np.testing.assert_allclose(features.image(np.array([3])), other.embed_images(corpus.read(3)), atol=HALF)


def test_other_tokens_numbers_and_views_are_other_rows(corpus, tiny, monkeypatch):
    extract(corpus, tiny(), views=Views(count=1), workers=1)
    with pytest.raises(RequestError, match="other numbers lie there"):
        extract(corpus, tiny(), dtype="int8", workers=1)
    with pytest.raises(RequestError, match="other views lie there"):
        extract(corpus, tiny(), views=Views(count=1, seed=4), workers=1)
    lower = tiny()
    lower.model.tokenize.tokenizer.clean_fn = lambda text: text.upper().lower().replace("x-ray", "xray")
    with pytest.raises(RequestError, match="other tokenizer lie there"):
        extract(corpus, lower, workers=1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError, match="several processes cannot replace"):
        extract(corpus, tiny(seed=1), replace=True)


def test_more_views_leave_the_others_as_they_are(corpus, tiny, expected):
    extract(corpus, tiny(), views=Views(count=1), workers=1)
    folder = rows_of(corpus, "tiny")
    old = {path: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    extract(corpus, tiny(), views=Views(count=3), workers=1)
    assert {path: path.stat().st_mtime_ns for path in old} == old
    assert content(folder) == expected(views=Views(count=3))
    told = extract(corpus, tiny(), views=Views(count=2), workers=1)
    assert told.made == 0 and told.views == 3


def test_texts_may_come_later(corpus, tiny, expected):
    extract(corpus, tiny(), texts=False, workers=1)
    features = open_features(corpus, "tiny")
    with pytest.raises(UserError, match="no rows of texts"):
        features.text(np.array([0]))
    told = extract(corpus, tiny(), workers=1)
    assert told.made == 8 and content(rows_of(corpus, "tiny")) == expected()


def test_one_tower_is_enough(corpus, tiny):
    images, texts = tiny("eyes", sides=("images",)), tiny("words", sides=("texts",))
    assert "texts" not in extract(corpus, images, views=Views(count=1), workers=1).text()
    told = extract(corpus, texts, views=Views(count=1), workers=1)
    assert told.images == told.views == 0 and told.texts == 38 and "images" not in told.text()
    eyes, words = open_features(corpus, "eyes", images), open_features(corpus, "words", texts)
    assert eyes.sides == ("images",) and words.sides == ("texts",) and eyes.stamp.head is words.stamp.head is None
    number = int(np.flatnonzero(words.text_counts(np.arange(44)))[0])
    text = corpus.fields(number)["texts"][0]["text"]
    np.testing.assert_allclose(words.text(np.array([number])), texts.embed_texts(text), atol=HALF)
    with pytest.raises(UserError, match="no rows of images"):
        words.image(np.array([0]))
    with pytest.raises(UserError, match="no rows of texts"):
        eyes.text(np.array([0]))
    assert not list(rows_of(corpus, "words").glob("image-*")) and not list(rows_of(corpus, "eyes").glob("text-*"))


def test_a_row_that_is_no_number_stops_with_the_sample(corpus, tiny, monkeypatch):
    owner = next(n for n in range(44) if corpus.fields(n)["texts"])
    fields = corpus.fields(owner)
    bad = tiny(spoiled=fields["texts"][0]["text"])
    with pytest.raises(UserError, match=rf"the row of sample '{fields['id']}' is not a number"):
        extract(corpus, bad, bank=[], workers=1)
    made = sorted(path.name for path in rows_of(corpus, "tiny").glob("image-*.npy"))
    good = tiny()
    encode = good.model.encode_image
    seen = []

    def sick(pixels):
        seen.append(len(pixels))
        rows = encode(pixels)
        rows[min(2, len(rows) - 1)] = torch.nan
        return rows

    monkeypatch.setattr(good.model, "encode_image", sick)
    with pytest.raises(UserError, match=rf"the row of sample '{corpus.fields(2)['id']}' is not a number") as raised:
        extract(corpus, good, "images", workers=1)
    assert len(str(raised.value).splitlines()) == 1 and made == ["image-00000.npy"]


def test_images_that_cannot_be_read_are_counted_and_not_covered(corpus, tiny):
    number = 9
    shard, offset, _, _ = corpus.places(number, number + 1)[0]
    path = corpus.path / corpus.shard_file(int(shard))
    data = bytearray(path.read_bytes())
    data[int(offset) : int(offset) + 20] = bytes(20)
    path.write_bytes(data)
    told = extract(open_corpus(corpus.path), tiny(), views=Views(count=1), workers=1)
    assert told.unread == 1 and "1 images that cannot be read" in told.text()
    features = open_features(corpus, "tiny")
    numbers = np.arange(44)
    assert np.flatnonzero(~features.covered(numbers)).tolist() == features.unread.tolist() == [number]
    assert not features.image(np.array([number, number]), np.array([0, 1])).any()
    assert np.all(np.linalg.norm(features.image(np.delete(numbers, number)), axis=1) > 0.99)
    reason = next(iter(next(s for s in features.stamp.shards if s.unread).unread.values()))
    assert re.search("image|truncated|damaged", reason)


def test_a_missing_shard_is_one_line(corpus, tiny):
    (corpus.path / corpus.shard_file(3)).unlink()
    with pytest.raises(UserError, match="the shard is missing") as raised:
        extract(corpus, tiny(), workers=1)
    assert len(str(raised.value).splitlines()) == 1
    assert len(list((rows_of(corpus, "tiny") / ".build").glob("*.json"))) == 3


def test_a_second_writer_is_refused(corpus, tiny):
    from medweave.files import only_writer

    with only_writer(rows_of(corpus, "tiny") / ".writers" / "0"), pytest.raises(UserError, match="another process"):
        extract(corpus, tiny(), workers=1)
    extract(corpus, tiny(), workers=1)
    with only_writer(rows_of(corpus, "tiny") / ".writers" / "1"), pytest.raises(UserError, match="another process"):
        extract(corpus, tiny(seed=1), workers=1, replace=True)
    open_features(corpus, "tiny", tiny())


def test_the_stamp_says_what_the_rows_are(corpus, tiny):
    encoder = tiny(domains=["ct"], licence="MIT", licence_class="open")
    extract(corpus, encoder, "named", views=Views(count=2, seed=8), dtype="int8", workers=1)
    stamp = read_json(rows_of(corpus, "named") / "stamp.json")
    assert stamp["teacher"]["weights"] == encoder.weights_hash and stamp["teacher"]["preprocess"]["size"] == 24
    assert stamp["teacher"] | {"domains": ["ct"], "licence": "MIT", "licence_class": "open"} == stamp["teacher"]
    assert (stamp["width"], stamp["dtype"], stamp["sides"]) == (16, "int8", ["images", "texts"])
    assert stamp["views"]["seed"] == 8 and stamp["views"]["augment"]["noise"] == 0
    assert [shard["sha256"] for shard in stamp["shards"]] == [shard["sha256"] for shard in corpus.shards]
    assert json.dumps(stamp).count("NaN") == 0


def test_a_teacher_that_cannot_embed_is_one_line(corpus, tiny):
    encoder = tiny()

    def breaks(pixels):
        raise RuntimeError("Input image size (224*224) doesn't match model (32*32)")

    encoder.model.encode_image = breaks
    with pytest.raises(UserError, match=r"cannot embed an image of \d+ pixels.*doesn't match") as error:
        extract(corpus, encoder, "t", workers=1)
    assert "\n" not in str(error.value)


def test_what_is_told_of_a_teacher_is_what_it_says_now(corpus, tiny):
    """A licence that was looked up later costs no row."""
    extract(corpus, tiny(), "t", workers=1)
    encoder = tiny()
    encoder.model.facts = {**encoder.model.facts, "licence": "MIT"}
    assert extract(corpus, encoder, "t", workers=1).made == 0
    assert open_features(corpus, "t").stamp.teacher.licence == "MIT"


def test_pictures_of_other_modalities_than_a_teachers_own_are_not_looked_at(corpus, tiny, monkeypatch):
    eyes, seen = tiny(sides=("images",), domains=["ct"]), []
    embed = eyes.model.encode_image
    monkeypatch.setattr(eyes.model, "encode_image", lambda pixels: (seen.append(len(pixels)), embed(pixels))[1])
    extract(corpus, eyes, workers=1)
    features, numbers = open_features(corpus, "tiny"), np.arange(len(corpus))
    ct = np.array(corpus.index(["modality"])["modality"].to_pylist()) == "ct"
    assert seen[0] == 1 and sum(seen[1:]) == ct.sum() == 14  # the first is the picture that tells teachers apart
    assert np.array_equal(features.image(numbers).any(1), ct)
    assert np.array_equal(features.covered(numbers), ct)
    cover(features, domains=["xray", "ct"])  # what has no row cannot be trusted
    assert not open_features(corpus, "tiny").covered(numbers[~ct]).any()
    with pytest.raises(RequestError, match="rows with other domains lie there"):
        extract(corpus, tiny(sides=("images",), domains=["xray"]), workers=1)


def test_views_of_samples_that_got_other_numbers_are_made_anew(corpus, tiny, sources, recipe_of, tmp_path):
    """A view is drawn by its sample's number, which changes when an earlier shard gets fewer samples."""
    options = {"views": Views(count=1), "workers": 1}
    extract(corpus, tiny(), **options)
    fewer = {name: shutil.copytree(folder, tmp_path / "fewer" / name) for name, folder in sources.items()}
    manifest = fewer["lungs"] / "manifest.csv"
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:-1]) + "\n")
    other = build(recipe_of(tmp_path / "other", fewer))
    shutil.copytree(corpus.path / "features", other.path / "features")
    wrong = stale(other, open_features(corpus, "tiny").stamp)
    assert sum(one.endswith("has moved in the corpus since its rows were made") for one in wrong) == 3
    with pytest.raises(UserError, match="since its rows were made"):
        open_features(other, "tiny")
    extract(other, tiny(), **options)
    features, encoder = open_features(other, "tiny"), tiny()
    for number in range(len(other)):
        array, modality = decode(other.read(number), grey=True), other.fields(number)["modality"]
        row = encoder.embed_images(features.views.picture(array, 24, modality, number, 1))
        np.testing.assert_allclose(features.image(np.array([number]), np.array([1])), row, atol=HALF)


def test_a_stamp_that_tells_no_sample_numbers_is_taken_as_it_is(corpus, tiny):
    extract(corpus, tiny(), views=Views(count=1), workers=1)
    path = rows_of(corpus, "tiny") / "stamp.json"
    stamp = read_json(path)
    assert [shard.pop("first") for shard in stamp["shards"]][:2] == [0, 8]
    stamp["teacher"].pop("outputs")
    write_json(path, stamp)
    assert len(open_features(corpus, "tiny", tiny())) == 44
    assert extract(corpus, tiny(), views=Views(count=1), workers=1).made == 0


def test_views_that_would_be_drawn_otherwise_now_are_not_mixed_with_others(corpus, tiny, monkeypatch):
    extract(corpus, tiny(), views=Views(count=1), workers=1)
    before, tones = content(rows_of(corpus, "tiny")), augment_module._tones
    monkeypatch.setattr(augment_module, "_tones", lambda *args: np.roll(tones(*args), 40))
    for views in (None, Views(count=1), Views(count=2)):
        with pytest.raises(RequestError, match=r"rows with other augmentation lie there.*--replace"):
            extract(corpus, tiny(), views=views, workers=1)
    assert content(rows_of(corpus, "tiny")) == before
    told = extract(corpus, tiny(), views=Views(count=1), workers=1, replace=True)
    assert told.made == 8 and open_features(corpus, "tiny").views == Views(count=1)


def test_a_teacher_of_the_same_tensors_that_answers_otherwise_is_another(corpus, tiny):
    extract(corpus, tiny(), workers=1)
    for side, method in (("images", "encode_image"), ("texts", "encode_text")):
        other, near = tiny(), tiny()
        encode = getattr(tiny().model, method)
        setattr(other.model, method, lambda given, encode=encode: encode(given).roll(1, -1))
        setattr(near.model, method, lambda given, encode=encode: encode(given).bfloat16().float())
        with pytest.raises(RequestError, match=f"rows with other outputs for {side} lie there"):
            extract(corpus, other, workers=1)
        with pytest.raises(UserError, match=f"a teacher with other outputs for {side}"):
            open_features(corpus, "tiny", other)
        assert extract(corpus, near, workers=1).made == 0


def test_images_that_were_repaired_get_their_rows(corpus, tiny, expected):
    options = {"views": Views(count=1), "workers": 1}
    number, whole = 9, expected(views=Views(count=1))
    shard, offset, _, _ = corpus.places(number, number + 1)[0]
    path = corpus.path / corpus.shard_file(int(shard))
    good = path.read_bytes()
    path.write_bytes(good[: int(offset)] + bytes(20) + good[int(offset) + 20 :])
    assert extract(corpus, tiny(), **options).unread == 1
    assert extract(corpus, tiny(), **options).made == 0
    path.write_bytes(good)
    told = extract(corpus, tiny(), **options)
    assert (told.unread, told.made) == (0, 1) and content(rows_of(corpus, "tiny")) == whole
    assert open_features(corpus, "tiny").covered(np.array([number])).all()


def test_files_that_are_lost_or_cut_are_made_again(corpus, tiny):
    extract(corpus, tiny(), views=Views(count=1), workers=1)
    folder = rows_of(corpus, "tiny")
    whole = content(folder)
    for name in ("image-00002.npy", "image-00004.v1.npy", "bank.npy"):
        (folder / name).unlink()
    for path in (folder / "image-00003.npy", folder / "bank.npy", *folder.glob("text-00000.*")):
        path.write_bytes(whole[path.name][:-7])
    (folder / "image-00005.npy").write_bytes(bytes(len(whole["image-00005.npy"])))
    assert extract(corpus, tiny(), views=Views(count=1), workers=1).made == 5
    assert content(folder) == whole


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EROFS, "read only"), (errno.EACCES, "no permission"), (errno.EDQUOT, "the quota of this disk is used up")],
)
def test_a_folder_that_cannot_be_written_is_one_line(corpus, tiny, monkeypatch, number, said):
    def refuse(path, data):
        raise OSError(number, os.strerror(number), str(path))

    extract(corpus, tiny(), workers=1)
    features = open_features(corpus, "tiny")
    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UserError, match=f"{said}.*features.*same command again"):
        extract(corpus, tiny(), "other", workers=1)
    with pytest.raises(UserError, match=said):
        standardise(features, Ranges.of(range(30)))
    monkeypatch.setattr(coverage_module.pq, "ParquetWriter", lambda path, *_, **__: refuse(path, b""))
    with pytest.raises(UserError, match=said):
        cover(features)


def test_rows_are_called_by_the_card_of_a_teacher(corpus, tiny):
    told = extract(corpus, tiny("teacher:cards/own.yaml", teacher="mine"), workers=1, bank=[])
    assert told.name == "mine" and open_features(corpus, "mine").stamp.teacher.name == "teacher:cards/own.yaml"


@pytest.mark.parametrize("damage", ["cut", "empty", "list", "format", "scale"])
def test_rows_whose_stamp_cannot_be_read_may_be_replaced(corpus, tiny, damage):
    extract(corpus, tiny(), workers=1)
    folder = rows_of(corpus, "tiny")
    whole, path = content(folder), folder / "stamp.json"
    stamp = read_json(path)
    damaged = {"list": [], "format": stamp | {"format": 9}, "scale": stamp | {"head": stamp["head"] | {"scale": None}}}
    path.write_text({"cut": path.read_text()[:200], "empty": ""}.get(damage) or json.dumps(damaged.get(damage, "")))
    for read in (lambda: extract(corpus, tiny(), workers=1), lambda: open_features(corpus, "tiny")):
        with pytest.raises(UserError, match=r"stamp\.json.*--replace") as error:
            read()
        assert "\n" not in str(error.value)
    assert extract(corpus, tiny(), workers=1, replace=True).made == 8
    assert content(folder) == whole


def test_unreadable_rows_that_another_process_writes_are_not_replaced(corpus, tiny):
    from medweave.files import only_writer

    extract(corpus, tiny(), workers=1)
    (rows_of(corpus, "tiny") / "stamp.json").write_text("{")
    with only_writer(rows_of(corpus, "tiny") / ".writers" / "1"), pytest.raises(UserError, match="another process"):
        extract(corpus, tiny(), workers=1, replace=True)
    assert (rows_of(corpus, "tiny") / "image-00000.npy").exists()


@pytest.mark.parametrize("scale", [float("nan"), 1000.0])
def test_a_scale_that_is_no_finite_number_is_refused_before_anything_is_written(corpus, tiny, scale):
    encoder = tiny()
    encoder.model.logit_scale.data.fill_(scale)
    with pytest.raises(UserError, match=r"the scale of tiny is (nan|inf), no number"):
        extract(corpus, encoder, workers=1)
    assert not rows_of(corpus, "tiny").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"form": 1}', "null"])
def test_a_broken_record_of_a_shard_is_as_none(corpus, tiny, expected, monkeypatch, text):
    whole, real = expected(), extract_module.make_rows

    def stop(job, shard):
        if shard == 3:
            raise KeyboardInterrupt
        return real(job, shard)

    monkeypatch.setattr(extract_module, "make_rows", stop)
    with pytest.raises(KeyboardInterrupt):
        extract(corpus, tiny(), workers=1)
    monkeypatch.undo()
    records = rows_of(corpus, "tiny") / ".build"
    form = read_json(records / "00001.json")["form"]
    (records / "00000.json").write_text(text)
    write_json(records / "00001.json", {"form": form, "rows": {"name": 3}})
    assert extract(corpus, tiny(), workers=1).made == 7  # the third was kept
    assert content(rows_of(corpus, "tiny")) == whole


@pytest.mark.parametrize("text", ["", '{"captions": ["a', "[]", '{"captions": 3}'])
def test_a_broken_list_of_captions_is_told_and_made_again(corpus, tiny, text):
    extract(corpus, tiny(), workers=1)
    folder = rows_of(corpus, "tiny")
    whole = content(folder)
    (folder / "bank.json").write_text(text)
    with pytest.raises(DamagedError, match=r"damaged .*bank\.json.*the same `medweave features`"):
        open_features(corpus, "tiny").bank([])
    assert extract(corpus, tiny(), workers=1).made == 0
    assert content(folder) == whole
    (folder / "bank.json").write_text(text)
    assert extract(corpus, tiny(), bank=[], workers=1).captions == 0
    assert open_features(corpus, "tiny").captions == {}


@pytest.mark.parametrize("place", ["features", "features/tiny", "features/tiny/.build", "features/tiny/.writers"])
def test_a_file_in_place_of_a_folder_is_one_line(corpus, tiny, place):
    path = corpus.path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(UserError, match=rf"a file lies where a folder should be .*{place}\): move it away"):
        extract(corpus, tiny(), workers=1)
    with pytest.raises(UserError):
        open_features(corpus, "tiny")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["image-00001.npy", "text-00000.npy", "bank.npy", "bank.json", "stamp.json"])
def test_a_folder_in_place_of_a_file_is_one_line(corpus, tiny, name, workers):
    extract(corpus, tiny(), workers=1)
    path = rows_of(corpus, "tiny") / name
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=rf"a folder lies where a file should be .*/{name}\): move it away"):
        extract(corpus, tiny(), workers=workers)
    path.rmdir()
    extract(corpus, tiny(), workers=1)
    assert open_features(corpus, "tiny").image(np.arange(44)).any(1).all()


def test_a_long_name_is_one_line(corpus, tiny):
    for read in (lambda name: extract(corpus, tiny(), name, workers=1), lambda name: open_features(corpus, name)):
        with pytest.raises(RequestError, match="begins 'aaaaaaaaaaaaaaaaaaaa' has 300 letters: take 255 at most"):
            read("a" * 300)
    assert extract(corpus, tiny(), "a" * 255, workers=1).made == 8
