"""Rows on disk: all good files, and a list of the bad ones."""

import pyarrow.parquet as pq
import pytest

from medweave.errors import RequestError
from medweave.serving import reading
from medweave.serving.embed import embed_images, embed_texts, skipped_file


def names(table, column="path"):
    return [path.rsplit("/")[-1] for path in table[column].to_pylist()]


def test_rows_of_a_folder_and_of_texts(colours, folder):
    assert embed_images(colours(), [folder], folder / "rows.parquet") == (2, [])
    table = pq.read_table(folder / "rows.parquet")
    assert names(table) == ["a.png", "b.jpg"] and table["row"].to_pylist() == [[1, 0], [0, 1]]
    assert embed_texts(colours(), ["red", "green"], folder / "texts.parquet") == 2
    assert pq.read_table(folder / "texts.parquet")["row"].to_pylist() == [[1, 0], [0, 1]]
    with pytest.raises(RequestError, match="no images"):
        embed_images(colours(), [], folder / "rows.parquet")


def test_a_bad_file_is_listed_beside_the_rows_of_the_good_ones(colours, with_bad, monkeypatch):
    monkeypatch.setattr(reading, "BATCH", 1)
    out = with_bad / "rows.parquet"
    count, unreadable = embed_images(colours(), [with_bad], out)
    assert count == 2 and names(pq.read_table(out)) == ["a.png", "b.jpg"]
    assert [file.path.name for file in unreadable] == ["bad.jpg"]
    listed = pq.read_table(skipped_file(out))
    assert listed.column_names == ["item", "reason", "remedy"] and names(listed, "item") == ["bad.jpg"]
    (with_bad / "bad.jpg").unlink()
    embed_images(colours(), [with_bad], out)
    assert not skipped_file(out).exists()


def test_nothing_readable_leaves_no_rows_but_the_list(colours, with_bad):
    count, unreadable = embed_images(colours(), [with_bad / "bad.jpg"], with_bad / "rows.parquet")
    assert count == 0 and len(unreadable) == 1
    assert len(pq.read_table(with_bad / "rows.parquet")) == 0


def test_a_stop_leaves_the_rows_of_before(colours, folder):
    out = folder / "rows.parquet"
    embed_images(colours(), [folder], out)
    before = out.read_bytes()
    broken = colours()
    broken.embed_images = lambda images: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        embed_images(broken, [folder], out)
    assert out.read_bytes() == before and not list(folder.glob(".*"))
