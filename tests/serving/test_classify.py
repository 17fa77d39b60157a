"""Classification by prompts and rows on disk, with an encoder whose answers are known."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medweave.corpus.captions.bank import Bank
from medweave.errors import RequestError
from medweave.serving.classify import classify, prompts_for, read
from medweave.serving.embed import embed_images, embed_texts, image_files

RED, BLUE = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)


class Colours:
    """Red images and texts lie on one axis, all others on the other."""

    dim = 2

    def embed_images(self, images, batch=64):
        return np.stack([RED if image[..., 0].mean() > image[..., 2].mean() else BLUE for image in images])

    def embed_texts(self, texts, batch=64):
        return np.stack([RED if "red" in text else BLUE for text in texts])

    def logits(self, image_rows, text_rows):
        return 3.0 * image_rows @ text_rows.T


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("a.png", (200, 0, 0)), ("b.jpg", (0, 0, 200))):
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_the_likest_finding_comes_first_with_softmax_shares(folder):
    prompts = {"blue spot": ["a blue spot"], "red spot": ["a red spot", "some red"]}
    red, blue = classify(Colours(), [folder / "a.png", folder / "b.jpg"], prompts)
    assert red.findings == ("red spot", "blue spot") and blue.findings == ("blue spot", "red spot")
    assert red.probabilities == pytest.approx((np.exp(3) / (np.exp(3) + 1), 1 / (np.exp(3) + 1)))


def test_mistakes_are_refused_in_one_line(folder):
    with pytest.raises(RequestError, match="two findings"):
        classify(Colours(), [folder / "a.png"], {"one": ["one"]})
    with pytest.raises(RequestError, match=r"nearest: a\.png"):
        read(folder / "aa.png")
    (folder / "broken.jpg").write_bytes((folder / "b.jpg").read_bytes()[:300])
    with pytest.raises(RequestError, match=r"broken\.jpg"):
        read(folder / "broken.jpg")
    with pytest.raises(RequestError, match="xray"):
        prompts_for(Bank.load(), "xray", "tail")


def test_the_bank_gives_prompts_for_what_it_knows():
    everything = prompts_for(Bank.load(), "dermoscopy", "skin")
    assert {"melanoma", "melanocytic nevus"} <= everything.keys()
    assert all(len(prompts) >= 9 for prompts in everything.values())
    assert list(prompts_for(Bank.load(), "dermoscopy", "skin", ["melanoma"])) == ["melanoma"]


def test_rows_of_a_folder_and_of_texts(folder):
    assert embed_images(Colours(), [folder], folder / "rows.parquet") == 2
    table = pq.read_table(folder / "rows.parquet")
    assert [path.rsplit("/")[-1] for path in table["path"].to_pylist()] == ["a.png", "b.jpg"]
    assert table["row"].to_pylist() == [RED.tolist(), BLUE.tolist()]
    assert embed_texts(Colours(), ["red", "green"], folder / "texts.parquet") == 2
    with pytest.raises(RequestError, match="no images"):
        embed_images(Colours(), [], folder / "rows.parquet")
    assert [p.name for p in image_files([folder])] == ["a.png", "b.jpg"]
