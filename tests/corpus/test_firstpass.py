import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medweave.corpus import firstpass
from medweave.corpus.fingerprint import hashes
from medweave.corpus.recipe import CorpusRecipe
from medweave.corpus.sources.folder import Source, SourceRecipe
from medweave.errors import UserError
from medweave.files import only_writer


@pytest.fixture
def world(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        pixels = rng.integers(0, 255, (200, 300), np.uint8)
        Image.fromarray(pixels).save(raw / f"{number}.{'jpg' if number % 2 else 'png'}")
    (raw / "bad.jpg").write_bytes(b"nothing")
    source = SourceRecipe(path=raw, modality="ct")
    recipe = CorpusRecipe(path=tmp_path / "corpus", sources=[source], workers=2)
    return raw, Source(source), recipe


def run(world, old=()):
    _, source, recipe = world
    names = sorted(path.name for path in world[0].iterdir())
    items = [firstpass.Item(firstpass._key("", "", name, source), name, source, name) for name in names]
    return names, firstpass.fingerprints(recipe.path / "fingerprints", items, old, recipe)


def test_prints_are_those_of_the_pictures(world):
    names, prints = run(world)
    for place, name in enumerate(names):
        if name == "bad.jpg":
            assert prints.reasons[place] and prints.row[place] == -1
            continue
        grey = Image.open(world[0] / name).convert("L")
        expected = np.asarray(grey.resize((64, 64), Image.Resampling.BOX))
        assert np.abs(prints.thumbs[prints.row[place]].astype(int) - expected).max() <= 6  # a JPEG is read at half size
        halves = prints.thumbs[prints.row[place]].reshape(1, 32, 2, 32, 2).mean((2, 4))
        assert (prints.eight[place] == hashes(np.rint(halves))[0]).all()
        assert prints.bytes[place] == (world[0] / name).stat().st_size


def test_a_picture_is_read_once_until_it_changes(world, monkeypatch):
    read = []
    plain = firstpass.print_of
    monkeypatch.setattr(firstpass, "print_of", lambda item, recipe: read.append(item.place) or plain(item, recipe))
    names, first = run(world)
    assert sorted(read) == names
    assert (run(world)[1].eight == first.eight).all() and len(read) == len(names)
    Image.new("L", (80, 80), 90).save(world[0] / "2.png")
    os.utime(world[0] / "2.png", ns=(1, 1))
    _, third = run(world)
    assert read[len(names) :] == ["2.png"]
    assert third.sha256[names.index("2.png")] != first.sha256[names.index("2.png")]


def test_old_pictures_are_known_by_their_id(world):
    names, prints = run(world, old=["3.jpg", "gone"])
    assert prints.row[len(names)] == prints.row[names.index("3.jpg")]
    assert prints.row[-1] == -1


@pytest.mark.parametrize("damage", ["cut", "broken", "missing"])
def test_a_damaged_cache_is_made_again(world, damage):
    _, first = run(world)
    folder = world[2].path / "fingerprints"
    if damage == "cut":
        (folder / "thumbs.u8").write_bytes(b"x" * 5000)
    elif damage == "broken":
        (folder / "prints-00000.parquet").write_bytes(b"nonsense")
    else:
        (folder / "thumbs.u8").unlink()
    _, again = run(world)
    assert (again.eight == first.eight).all() and (again.thumbs[again.row] == first.thumbs[first.row]).all()


def test_a_pass_in_many_parts_is_as_one(world, monkeypatch):
    names, whole = run(world)
    shutil.rmtree(world[2].path / "fingerprints")
    monkeypatch.setattr(firstpass, "SAVE_EVERY", 2)
    run(world)
    parts = sorted((world[2].path / "fingerprints").glob("prints-*.parquet"))
    assert len(parts) == -(-len(names) // 2)
    parts[1].write_bytes(b"nonsense")  # this part and what lies behind it are made again
    _, again = run(world)
    assert again.sha256 == whole.sha256 and (again.eight == whole.eight).all()
    assert (again.thumbs[again.row] == whole.thumbs[whole.row]).all()


def test_two_first_passes_do_not_mix(world):
    with only_writer(world[2].path / "fingerprints"), pytest.raises(UserError, match="another process"):
        run(world)


@pytest.mark.parametrize("full", ["thumbs.u8", "prints"])
def test_a_full_disk_is_one_line_and_loses_nothing(world, monkeypatch, full):
    _, first = run(world)
    picture = Image.new("L", (80, 80), 90)
    picture.save(world[0] / "new.png")

    def no_room(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    plain = Path.open
    if full == "thumbs.u8":
        monkeypatch.setattr(
            Path, "open", lambda path, *a, **k: no_room() if path.name == full else plain(path, *a, **k)
        )
    else:
        monkeypatch.setattr(firstpass.pq, "write_table", no_room)
    with pytest.raises(UserError, match=r"^the disk is full \(.*same command again"):
        run(world)
    monkeypatch.undo()
    names, again = run(world)
    rows = [place for place, name in enumerate(names) if name != "new.png"]
    assert (again.eight[rows] == first.eight).all()
    assert (again.thumbs[again.row[names.index("new.png")]] == 90).all()
    assert not list(world[2].path.rglob("*.part"))
