"""Files are whole or absent; one writer a folder."""

import errno

import pytest

from medweave import files
from medweave.errors import UserError


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")
    with pytest.raises(RuntimeError), files.whole_file(path) as draft:
        draft.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_full_disk_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="disk is full"), files.whole_file(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "no space")


def test_a_draft_that_cannot_be_removed_does_not_hide_the_first_error(tmp_path, monkeypatch):
    def read_only(path, missing_ok=False):
        raise OSError(errno.EROFS, "read only")

    monkeypatch.setattr("pathlib.Path.unlink", read_only)
    with pytest.raises(RuntimeError, match="first"), files.whole_file(tmp_path / "a"):
        raise RuntimeError("first")


def test_json_round_trip_and_errors(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": [1, 2.5, None], "ä": "ö"})
    assert files.read_json(tmp_path / "a.json") == {"b": [1, 2.5, None], "ä": "ö"}
    with pytest.raises(UserError, match="no such file"):
        files.read_json(tmp_path / "b.json")
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(UserError, match="not a JSON file"):
        files.read_json(tmp_path / "c.json")


def test_equal_values_hash_equally():
    assert files.hash_of({"a": 1, "b": 2}) == files.hash_of({"b": 2, "a": 1})
    assert files.hash_of({"a": 1}) != files.hash_of({"a": 2})


def test_a_second_writer_is_refused(tmp_path):
    with files.only_writer(tmp_path), pytest.raises(UserError, match="another process"), files.only_writer(tmp_path):
        pass
    with files.only_writer(tmp_path):
        pass
