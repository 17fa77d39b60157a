"""The contact sheet and the facts of a small corpus, against what was put in."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medweave.corpus.build import build
from medweave.corpus.info import info_text, table
from medweave.corpus.recipe import CorpusRecipe
from medweave.corpus.store import Corpus, open_corpus
from medweave.errors import RequestError
from medweave.recipe import check
from medweave.reports.preview import choose, preview


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Thirty images of source `chest` in ten patients, six of `skin`, one that cannot be read, one unknown label."""
    folder = tmp_path_factory.mktemp("owner")
    rng = np.random.default_rng(0)
    lines = ["path,source,modality,label,patient,caption,licence"]
    for number in range(37):
        Image.fromarray(rng.integers(0, 256, (40, 50), dtype=np.uint8)).save(folder / f"{number}.png")
        skin = number >= 30
        label = "melanoma" if skin else ("pneumonia" if number % 2 else "normal")
        label = "martian fever" if number == 35 else label
        text = "A <b>bold</b> & wide lesion" if skin else ""
        source, modality = ("skin", "dermoscopy") if skin else ("chest", "xray")
        lines.append(f"{number}.png,{source},{modality},{label},p{number // 3},{text},CC BY 4.0")
    (folder / "36.png").write_bytes(b"no picture")
    (folder / "manifest.csv").write_text("\n".join(lines))
    columns = {"source": "source", "modality": "modality", "labels": "label", "patient": "patient"}
    source: dict[str, Any] = {"kind": "folder", "path": str(folder), "manifest": "manifest.csv", "anatomy": "chest"}
    source["columns"] = columns | {"caption": "caption", "licence": "licence"}
    tree = {"path": str(folder / "corpus"), "sources": [source], "workers": 1}
    return build(check(tree, CorpusRecipe, "test"))


def test_the_sheet_shows_every_source_and_escapes_what_owners_wrote(corpus: Corpus, tmp_path: Path) -> None:
    page = preview(corpus.path, tmp_path / "sheet.html", count=10, seed=3).read_text(encoding="utf-8")
    for words in (
        "chest",
        "skin",
        "melanoma",
        "A &lt;b&gt;bold&lt;/b&gt; &amp; wide lesion",
        "Largest groups",
        "group of 3",
    ):
        assert words in page
    assert "<b>bold" not in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page), "the page needs something beside itself"
    sheet = page.split('id="groups"')[0]
    assert sheet.count("<figure") == 10


def test_the_choice_is_even_over_sources_seeded_and_without_what_is_withdrawn(corpus: Corpus) -> None:
    sources = corpus.index(["source"])["source"].to_pylist()
    chosen = choose(corpus, 10, seed=0)
    assert [sum(sources[n] == name for n in chosen) for name in ("chest", "skin")] == [5, 5]
    assert chosen == choose(corpus, 10, seed=0) != choose(corpus, 10, seed=1)
    everything = choose(corpus, 1000, seed=0)
    assert everything == list(range(len(corpus)))


def test_the_facts_are_those_of_what_was_put_in(corpus: Corpus) -> None:
    text = info_text(corpus.path)
    assert "36 images in 12 groups from 2 sources" in text
    assert re.search(r"chest +xray +\d+ +\d+ +\d+ +30\n", text)
    found = re.search(r"xray +pneumonia +(\d+) +(\d+) +(\d+) +0 +0\n", text)
    assert found and sum(map(int, found.groups())) == 15
    assert re.search(r"1 +martian fever +dermoscopy +chest +nearest: \w+", text)
    assert re.search(r"36: .*give a whole file", text)
    assert re.search(r"open +36 +CC BY 4.0", text)


def test_withdrawn_images_are_counted_and_not_shown(corpus: Corpus) -> None:
    corpus.withdraw([corpus.index(["id"])["id"][0].as_py()], "the patient asked")
    assert "1 of them withdrawn" in info_text(corpus.path)
    assert 0 not in choose(open_corpus(corpus.path), 1000, seed=0)


def test_withdrawn_images_are_in_no_group_of_the_sheet(corpus: Corpus, tmp_path: Path) -> None:
    own = open_corpus(shutil.copytree(corpus.path, tmp_path / "corpus"))
    rows = own.index(["id", "group"]).to_pylist()
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row["id"])
    whole, *others = groups.values()
    gone = [*whole, *(other[0] for other in others)]
    own.withdraw(gone, "the patients asked")
    page = preview(own.path, tmp_path / "sheet.html", count=0).read_text(encoding="utf-8")
    shown = set(re.findall(r'class="id" title="(\S+) ', page))
    assert shown and not shown & set(gone)
    assert "group of 2" in page and "group of 3" not in page


def test_no_corpus_is_one_clear_line(tmp_path: Path) -> None:
    for call in (lambda: info_text(tmp_path), lambda: preview(tmp_path, tmp_path / "sheet.html")):
        with pytest.raises(RequestError, match="no built corpus"):
            call()


def test_tables_are_aligned() -> None:
    assert table([["a", "n"], ["long", 1234]], numbers=[1]) == ["a         n", "long  1,234"]
    assert table([]) == []


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ({"nearest": ["melanoma", "nevus"]}, "nearest: melanoma or nevus"),
        ({"nearest": []}, "nearest: none"),
        ({}, "dermoscopy  chest"),
    ],
)
def test_the_nearest_names_of_an_unknown_label_are_told(
    corpus: Corpus, tmp_path: Path, kept: dict[str, Any], words: str
) -> None:
    told = next(label for label in corpus.facts["unmapped"] if label["label"] == "martian fever")
    assert isinstance(told["nearest"], list)
    bare = {name: value for name, value in told.items() if name != "nearest"}
    own = shutil.copytree(corpus.path, tmp_path / "corpus")
    (own / "corpus.json").write_text(json.dumps(corpus.facts | {"unmapped": [bare | kept]}))
    assert re.search(rf"martian fever .*{words}\n", info_text(own))
