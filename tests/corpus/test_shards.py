import hashlib
import io
import json
import tarfile
from fnmatch import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medweave.corpus.shards import PLANNED, Item, bytes_of, content_hash, key_of, read_fields, stem_of, write_shard

KNOWN = {"source": "s", "split": "train", "modality": "ct", "licence_class": "open", "extra": '{"age": 61}'}


def item(name, data=b"image", caption="A caption."):
    row = dict.fromkeys(PLANNED.names) | KNOWN | {"id": name, "findings": [{"name": "normal", "state": "absent"}]}
    return Item(row, caption, data, "jpg", 3, 2, 2**64 - 1)


def test_the_tar_is_what_tarfile_writes(tmp_path):
    items = [item(f"s/{n}", bytes([n]) * (511 + n), f"Text {n}.") for n in range(4)]
    write_shard(tmp_path / "ours.tar", items)
    theirs = io.BytesIO()
    with (
        tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        tarfile.open(tmp_path / "ours.tar") as ours,
    ):
        for member in ours:
            plain = tarfile.TarInfo(member.name)
            plain.size = member.size
            tar.addfile(plain, ours.extractfile(member))
            assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
    assert (tmp_path / "ours.tar").read_bytes() == theirs.getvalue()


def test_a_shard_tells_its_bytes_and_places(tmp_path):
    shard = write_shard(tmp_path / "one.tar", [item("s/a", b"x" * 700), item("s/b", b"y")])
    data = (tmp_path / "one.tar").read_bytes()
    assert (shard.bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    for row, image in zip(shard.rows, (b"x" * 700, b"y"), strict=True):
        assert data[row["offset"] : row["offset"] + row["length"]] == image
        assert row["sha256"] == hashlib.sha256(image).hexdigest()
        fields = read_fields(data[row["offset"] + row["length"] :], row["length"])
        assert fields["id"] == row["id"] and fields["findings"] == {"normal": "absent"}
        assert fields["extra"] == {"age": 61} and fields["phash"] == 2**64 - 1 and "offset" not in fields
    assert shard.content == content_hash([row | {"shard": 5} for row in shard.rows])
    assert shard.content != content_hash([*shard.rows[:1], shard.rows[1] | {"width": 4}])


def test_fields_need_all_their_bytes(tmp_path):
    shard = write_shard(tmp_path / "one.tar", [item("s/a")])
    row = shard.rows[0]
    tail = (tmp_path / "one.tar").read_bytes()[row["offset"] + row["length"] :]
    whole = read_fields(tail, row["length"])
    size = len(json.dumps(whole))
    for length in range(0, len(tail), 37):
        assert read_fields(tail[:length], row["length"]) in (None, whole)
    assert read_fields(tail[: 3 * 512 + size // 2], row["length"]) is None


def test_nothing_to_write_is_no_file(tmp_path):
    shard = write_shard(tmp_path / "none.tar", [])
    assert shard.rows == [] and shard.bytes == 0 and list(tmp_path.iterdir()) == []


def test_an_error_midway_leaves_no_file(tmp_path):
    def items():
        yield item("s/a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "one.tar", items())
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.text(max_size=200), unique=True, max_size=20))
def test_keys_are_safe_and_unique(names):
    keys = [key_of(name) for name in names]
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert key.isascii() and not set(key) & set("./\\ ") and len(key) <= 90 and not key.startswith(("_", "-"))


def test_bytes_of_samples_are_those_that_their_shard_takes(tmp_path):
    items = [item(f"s/{n}", bytes(300 * n)) for n in range(60)]
    size = bytes_of(items)
    assert size <= write_shard(tmp_path / "one.tar", items).bytes <= size + 10_240 + 1024


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("folder_a", "folder_a"),
        ("phantom_xray", "phantom_xray"),
        ("chest-ct", "chest-ct"),
        ("x-training", "x-training"),
        ("train-b", "train-b"),
        ("x-train", "x_train"),
        ("a-train-b", "a_train-b"),
        ("a-test-train-validation", "a_test_train_validation"),
        ("ISIC-Train", "ISIC_Train"),
    ],
)
def test_only_shards_of_train_match_its_pattern(source, stem):
    for split in ("train", "validation", "test"):
        assert stem_of(source, split) == f"{stem}-{split}"
        name = f"{stem_of(source, split)}-00000.tar"
        for other in ("train", "validation", "test"):
            assert fnmatch(name.lower(), f"*-{other}-*") == (other == split)
