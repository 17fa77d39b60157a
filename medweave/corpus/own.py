"""A user's own words: findings and caption banks that a recipe names beside the shipped ones.

They are checked before a build writes anything, then copied into the corpus, where every later command finds them:
findings.yaml, and captions/own-01-NAME.yaml in the recipe's order. Banks may change between two builds, as captions
improve without a rebuild; findings may grow, but what the corpus holds keeps its names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medweave.corpus import vocabulary
from medweave.corpus.captions.bank import Bank, Entry, read_entries, shipped
from medweave.corpus.captions.check import check
from medweave.corpus.recipe import CorpusRecipe
from medweave.corpus.store import BANKS, FINDINGS, Corpus
from medweave.errors import RequestError, mistakes
from medweave.files import hash_of_file, write_bytes

OWN = "own-"  # how the names of own banks begin in a corpus


def check_own(recipe: CorpusRecipe) -> None:
    """Raises RequestError listing every mistake of the recipe's findings; where there is none, of all its banks."""
    names = vocabulary.load(recipe.findings)
    wrong: list[str] = []
    read: dict[Path, tuple[Entry, ...]] = {}
    for path in recipe.banks:
        try:
            read[path] = read_entries(path)
        except RequestError as error:
            wrong.append(str(error))
    bank = Bank.load([*shipped(), *read])
    for path, entries in read.items():
        problems = [str(problem) for problem in check(bank, names, entries)]
        if problems:
            wrong.append(str(mistakes(problems, path)))
    if wrong:
        raise RequestError("\n".join(wrong))


def check_names(recipe: CorpusRecipe, corpus: Corpus) -> None:
    """Raises RequestError listing what the recipe's findings would name anew of what the corpus holds."""
    if corpus.facts.get("findings") == _hash(recipe.findings):
        return
    names = vocabulary.load(recipe.findings)
    lines = names.changes(corpus.vocabulary())
    for label, *place in ((one["label"], one["modality"], one["anatomy"]) for one in corpus.facts["unmapped"]):
        now = names.canonical(label, *place)
        if now not in (None, vocabulary.plain(label)):
            lines.append(f"{vocabulary.shown((*place,))}: {label!r} was kept in its owner's words, now {now!r}")
    if lines:
        what = "corpus.findings names anew what this corpus holds"
        todo = "choose a new path, or only add words\n" + "\n".join(f"  {line}" for line in lines)
        raise RequestError(what, where=recipe.path, todo=todo)


def keep(recipe: CorpusRecipe, table: pa.Table) -> None:
    """Copy the words into the corpus: own files as they are now, shipped banks of the plan's modalities.

    A shipped bank that is there stays as it is, edited or not.
    """
    modalities = set(pc.unique(table["modality"]).to_pylist())
    for path in shipped():
        copy = recipe.path / BANKS / path.name
        if path.stem.split("-")[0] in modalities and not copy.exists():
            write_bytes(copy, path.read_bytes())
    for path, copy in zip(recipe.banks, _copies(recipe), strict=True):
        write_bytes(copy, path.read_bytes())
    if recipe.findings:
        write_bytes(recipe.path / FINDINGS, recipe.findings.read_bytes())


def bank_files(recipe: CorpusRecipe) -> list[Path]:
    """The banks in the corpus, later ones winning: the shipped by name, then the recipe's own in its order."""
    kept = sorted(path for path in (recipe.path / BANKS).glob("*.yaml") if not path.name.startswith(OWN))
    return [*kept, *_copies(recipe)]


def hashes(recipe: CorpusRecipe) -> dict[str, Any]:
    """What corpus.json says of the words: the hash of each bank, in order, and of own findings, None without any."""
    banks = {path.name: hash_of_file(path) for path in bank_files(recipe)}
    return {"banks": banks, "findings": _hash(recipe.findings and recipe.path / FINDINGS)}


def forget_others(recipe: CorpusRecipe) -> None:
    """Remove the copies of what an earlier recipe named, unless this one names the copy itself."""
    kept = {path.resolve() for path in (*bank_files(recipe), *recipe.banks)}
    if recipe.findings is None:
        (recipe.path / FINDINGS).unlink(missing_ok=True)
    for path in (recipe.path / BANKS).glob(f"{OWN}*.yaml"):
        if path.resolve() not in kept:
            path.unlink()


def _copies(recipe: CorpusRecipe) -> list[Path]:
    return [recipe.path / BANKS / f"{OWN}{number:02}-{path.name}" for number, path in enumerate(recipe.banks, 1)]


def _hash(file: Path | None) -> str | None:
    return hash_of_file(file) if file else None
