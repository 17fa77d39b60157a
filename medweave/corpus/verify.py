"""Is a corpus still what was built? Reads every shard and the index again and compares their hashes."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

from medweave.corpus.shards import INDEX, content_hash
from medweave.errors import DamagedError
from medweave.files import hash_of

if TYPE_CHECKING:
    from medweave.corpus.store import Corpus

REMEDY = "delete damaged shards and run the same build again: they are written anew"
ANEW = "delete the folder and build it again"
NEVER_ANEW = ("index.parquet", "places.npy", "skipped.parquet")  # a build that goes on does not write them

PIECE = 2**22  # bytes read at once


def remedy(names: Sequence[str]) -> str:
    """What to do about damaged or missing files of a corpus."""
    return ANEW if any(name in NEVER_ANEW for name in names) else REMEDY


def damaged(corpus: Corpus) -> list[str]:
    """The files of a corpus that are missing or not as they were built."""
    shards = [corpus.shard_file(shard) for shard in range(len(corpus.shards)) if not _is_sound(corpus, shard)]
    index = [] if _index_is_sound(corpus) else ["index.parquet"]
    return (
        shards
        + index
        + (
            []
            if corpus.hash == content_of(corpus.facts["format"], corpus.shards, corpus.facts["strata"])
            else ["corpus.json"]
        )
    )


def content_of(version: int, shards: Sequence[dict[str, Any]], strata: Sequence[dict[str, Any]]) -> str:
    """The hash of a corpus: of every shard's bytes and rows, in order, and of its strata."""
    parts = [[shard[name] for name in ("name", "samples", "sha256", "content")] for shard in shards]
    return hash_of({"format": version, "shards": parts, "strata": list(strata)})


def _is_sound(corpus: Corpus, shard: int) -> bool:
    facts = corpus.shards[shard]
    if not facts["samples"]:
        return True
    try:
        with corpus.place.open(corpus.shard_file(shard)) as file:
            return _sha256(file) == facts["sha256"]
    except FileNotFoundError:
        return False


def _index_is_sound(corpus: Corpus) -> bool:
    rows = (row for batch in corpus.batches(INDEX.names) for row in batch.to_pylist())
    by_shard = itertools.groupby(rows, lambda row: row["shard"])
    try:
        hashes = {shard: content_hash(group) for shard, group in by_shard}
    except DamagedError:
        return False
    return all(hashes.get(n, content_hash([])) == facts["content"] for n, facts in enumerate(corpus.shards))


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.hexdigest()
