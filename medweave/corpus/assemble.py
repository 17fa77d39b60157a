"""The last step of a build: records of shards -> index.parquet, places.npy, skipped.parquet, folds, corpus.json.

Rows are streamed shard by shard, those of the corpus that is added to first. corpus.json is written last: until then
the folder is no corpus, or still the old one.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medweave.corpus import own, records, verify
from medweave.corpus.overlays import file_of, write_table
from medweave.corpus.plan import Plan
from medweave.corpus.recipe import CorpusRecipe
from medweave.corpus.salt import hashes_of_salts
from medweave.corpus.shards import INDEX
from medweave.corpus.store import FORMAT, PLACES, Corpus
from medweave.errors import UserError
from medweave.files import whole_file, write_json
from medweave.progress import say
from medweave.recipe import as_data

SKIPPED = pa.schema([(name, pa.string()) for name in ("item", "source", "reason", "remedy")])
ROW_GROUP = 65_536
NOT_CONTENT = ("path", "workers", "engine")  # what a recipe says that leaves the bytes as they are


def assemble(plan: Plan, names: Sequence[str], corpus: Corpus | None) -> None:
    """Write everything but the shards, each file whole or not at all; then corpus.json, then forget the records."""
    folder = plan.recipe.path
    new = {name: _record(folder, name) for name in names}
    lost = [skip for record in new.values() for skip in record.skipped]
    shards = {name: record.facts for name, record in new.items() if record.facts["samples"]}
    _check_counts(plan, shards, lost)
    if corpus is None or shards or _says_otherwise(corpus, plan.recipe):
        listed = [*(corpus.shards if corpus else []), *({"name": name} | facts for name, facts in shards.items())]
        strata, licences = _write_rows(folder, list(shards), corpus)
        skipped = _write_skipped(folder, plan, lost, corpus)
        _write_folds(folder, plan, lost)
        write_json(folder / "corpus.json", _facts(plan, corpus, listed, strata, licences, skipped))
    shutil.rmtree(folder / records.FOLDER, ignore_errors=True)
    added = sum(facts["samples"] for facts in shards.values())
    skips = len(plan.skipped) + len(lost)
    say(f"{added:,} images stored, {skips:,} skipped, {plan.refused.total():,} refused by licence")


def _says_otherwise(corpus: Corpus, recipe: CorpusRecipe) -> bool:
    """Whether corpus.json is of another recipe, or of other banks and findings."""
    now = {"recipe": content_of(recipe)} | own.hashes(recipe)
    return any(corpus.facts.get(name) != value for name, value in now.items())


def content_of(recipe: CorpusRecipe) -> dict[str, Any]:
    """What of a recipe decides the bytes of its corpus."""
    return {name: value for name, value in as_data(recipe).items() if name not in NOT_CONTENT}


def _record(folder: Path, name: str) -> records.Record:
    record = records.read(folder, name)
    if record is None:
        raise UserError(f"the record of {name} is gone", where=folder, todo="run the same build again")
    return record


def _check_counts(plan: Plan, shards: dict[str, dict[str, Any]], lost: Sequence[dict[str, str]]) -> None:
    """What was planned is stored or skipped, and something is stored."""
    stored = sum(facts["samples"] for facts in shards.values())
    if stored + len(lost) != len(plan.table):
        raise RuntimeError(f"{len(plan.table)} images planned, {stored} stored and {len(lost)} skipped")
    if lost and not stored and not plan.old:
        first = lost[0]
        raise UserError(f"no image can be read; {first['item']}: {first['reason']}", todo=first["remedy"])


def _write_rows(folder: Path, names: Sequence[str], corpus: Corpus | None) -> tuple[list[dict[str, Any]], Counter]:
    """index.parquet and places.npy, in one pass; the strata, and images by source, licence and its class."""
    strata: list[dict[str, Any]] = []
    licences: Counter[tuple[str, str | None, str]] = Counter()
    places = []
    with whole_file(folder / "index.parquet") as draft, pq.ParquetWriter(draft, INDEX, compression="zstd") as file:
        for table in _in_groups(_tables(folder, names, corpus)):
            file.write_table(table, row_group_size=ROW_GROUP)
            places.append(_places(table, strata))
            licences.update(zip(*(table[c].to_pylist() for c in ("source", "licence", "licence_class")), strict=True))
    with whole_file(folder / "places.npy") as draft, draft.open("wb") as array:
        np.save(array, np.concatenate(places), allow_pickle=False)
    return strata, licences


def _tables(folder: Path, names: Sequence[str], corpus: Corpus | None) -> Iterator[pa.Table]:
    """The index in pieces: the old rows, then those of the new shards."""
    if corpus:
        yield from (pa.Table.from_batches([batch]) for batch in corpus.batches(INDEX.names))
    for number, name in enumerate(names, len(corpus.shards) if corpus else 0):
        rows = records.read_rows(folder, name)
        shard = pa.array(np.full(len(rows), number, np.int32))
        yield pa.table([shard if column == "shard" else rows[column] for column in INDEX.names], schema=INDEX)


def _in_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of ROW_GROUP, the last one shorter: files do not depend on how rows came."""
    held = INDEX.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while len(held) >= ROW_GROUP:
            yield held.slice(0, ROW_GROUP).combine_chunks()
            held = held.slice(ROW_GROUP)
    if len(held):
        yield held.combine_chunks()


def _places(table: pa.Table, strata: list[dict[str, Any]]) -> np.ndarray:
    """Rows of places.npy, dtype PLACES; `strata` grows by the runs of one source, split and modality in the table."""
    places = np.empty(len(table), PLACES)
    for name in ("shard", "offset", "length"):
        places[name] = table[name].to_numpy()
    columns = [pc.dictionary_encode(table[name].combine_chunks()) for name in ("source", "split", "modality")]
    codes = np.stack([np.asarray(column.indices) for column in columns])
    starts = np.flatnonzero(np.append(True, (codes[:, 1:] != codes[:, :-1]).any(axis=0)))
    for start, stop in zip(starts, np.append(starts[1:], len(table)), strict=True):
        values = [table[name][int(start)].as_py() for name in ("source", "split", "modality")]
        facts = dict(zip(("source", "split", "modality"), values, strict=True))
        if strata and {name: strata[-1][name] for name in facts} == facts:
            strata[-1]["samples"] += int(stop - start)
        else:
            strata.append(facts | {"samples": int(stop - start)})
        places["stratum"][start:stop] = len(strata) - 1
    return places


def _write_skipped(folder: Path, plan: Plan, lost: Sequence[dict[str, str]], corpus: Corpus | None) -> Counter[str]:
    """Everything that was left out, but what this addition took in after all; how many of each source."""
    before = corpus.skipped().to_pylist() if corpus else []
    known = {tuple(row.values()) for row in before}
    items = pa.array([row["item"] for row in before], pa.string())
    planned = pc.is_in(items, value_set=plan.table["id"].combine_chunks()).to_pylist() if before else []
    still = {skip["item"] for skip in lost}
    rows = [row for row, again in zip(before, planned, strict=True) if not again or row["item"] in still]
    new = (*(skip._asdict() for skip in plan.skipped), *lost)
    rows += [row for row in new if tuple(row[name] for name in SKIPPED.names) not in known]
    write_table(folder / "skipped.parquet", pa.Table.from_pylist(rows, SKIPPED))
    return Counter(row["source"] for row in rows)


def _write_folds(folder: Path, plan: Plan, lost: Sequence[dict[str, str]]) -> None:
    if plan.folds is not None:
        gone = pa.array([skip["item"] for skip in lost], pa.string())
        write_table(folder / file_of("folds"), plan.folds.filter(pc.invert(pc.is_in(plan.folds["id"], value_set=gone))))


def _facts(
    plan: Plan,
    corpus: Corpus | None,
    shards: list[dict[str, Any]],
    strata: list[dict[str, Any]],
    licences: Counter[tuple[str, str | None, str]],
    skipped: Counter[str],
) -> dict[str, Any]:
    """corpus.json: no date, no host, nothing that another run of the same recipe would say differently."""
    return {
        "format": FORMAT,
        "hash": verify.content_of(FORMAT, shards, strata),
        "samples": sum(shard["samples"] for shard in shards),
        "groups": plan.groups,
        "counts": _counts(strata),
        "licences": [
            {"source": source, "licence": licence, "licence_class": kind, "samples": count}
            for (source, licence, kind), count in licences.items()
        ],
        "skipped": dict(sorted(skipped.items())),
        "refused": [refused._asdict() | {"samples": count} for refused, count in plan.refused.items()],
        "unmapped": [
            label._asdict() | {"samples": count, "nearest": near} for label, (count, near) in plan.unmapped.items()
        ],
        "thin": [thin._asdict() for thin in plan.thin],
        "recipe": content_of(plan.recipe),
        "salts": hashes_of_salts(plan.recipe),
        "captions": {**(corpus.facts["captions"] if corpus else {}), **_caption_shares(plan)},
        **own.hashes(plan.recipe),
        "strata": strata,
        "shards": shards,
    }


def _caption_shares(plan: Plan) -> dict[str, dict[str, float]]:
    """Source of new images -> how often own texts and bank captions are drawn; one recipe entry may give several."""
    pairs = plan.table.group_by(["source", "recipe"]).aggregate([]).to_pylist()
    of_entry = [source.captions.model_dump() for source in plan.recipe.sources]
    return {pair["source"]: of_entry[pair["recipe"]] for pair in sorted(pairs, key=lambda pair: pair["source"])}


def _counts(strata: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, int]]]:
    """source -> modality -> split -> samples."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for part in strata:
        splits = counts.setdefault(part["source"], {}).setdefault(part["modality"], {})
        splits[part["split"]] = splits.get(part["split"], 0) + part["samples"]
    return counts
