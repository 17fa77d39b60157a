"""Files come out as the model's corpus would have stored them."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from medweave.corpus.limits import BadImage
from medweave.errors import RequestError
from medweave.serving import reading
from medweave.serving.reading import Reading, batches, image_files, read, reading_of


def test_a_folder_gives_every_file_that_its_source_would_read(folder):
    Image.new("RGB", (40, 30)).save(folder / "c.webp")
    (folder / "inner").mkdir()
    (folder / "inner" / "slice").write_bytes(bytes(128) + b"DICM")
    (folder / ".hidden.png").write_bytes(b"")
    found = list(image_files([folder, folder / "notes.txt"]))
    assert [p.name for p in found] == ["a.png", "b.jpg", "c.webp", "slice", "notes.txt"]


def test_the_corpus_s_frame_and_size_are_the_model_s(tmp_path):
    frames = [Image.fromarray(np.full((64, 80), grey, np.uint8)) for grey in (10, 100, 200)]
    frames[0].save(tmp_path / "stack.tif", save_all=True, append_images=frames[1:])

    def grey_of(facts):
        picture = Image.open(io.BytesIO(read(tmp_path / "stack.tif", reading_of(facts))))
        return picture.format, picture.size, int(np.asarray(picture).mean())

    assert grey_of({}) == ("PNG", (80, 64), 100)
    assert grey_of({"reading": {"image": {"frame": "last", "longest": 40}}}) == ("JPEG", (40, 32), 200)
    with pytest.raises(BadImage, match=r"limits\.pixels"):
        read(tmp_path / "stack.tif", reading_of({"reading": {"limits": {"pixels": 100}}}))
    with pytest.raises(RequestError, match="frame"):
        reading_of({"reading": {"image": {"fram": "last"}}})


def test_files_come_in_their_order_with_a_reason_for_each_bad_one(with_bad, monkeypatch):
    monkeypatch.setattr(reading, "BATCH", 2)
    for number in range(5):
        shutil.copy(with_bad / "a.png", with_bad / f"{number}.png")
    paths = [*sorted(with_bad.glob("*.png")), with_bad / "bad.jpg", with_bad / "gone.png", with_bad]
    found = list(batches(paths, Reading()))
    assert [len(batch) for batch in found] == [2, 2, 2, 2, 1]
    files = [file for batch in found for file in batch]
    assert [file.path for file in files] == paths
    assert [file.error is None for file in files] == [True] * 6 + [False] * 3
    assert "no such file" in str(files[7].error) and "directory" in str(files[8].error)
