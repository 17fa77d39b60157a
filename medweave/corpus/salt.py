"""Salts: the secret that patients and studies of DICOM files are hashed with. One a corpus, drawn where none is given.

It is kept in CORPUS/.salt, readable by its owner alone; corpus.json holds a slow hash of it, so that no image is added
under another one. Without the salt, a list of likely identifiers cannot be tried against a corpus, nor people be
matched between corpora. Whoever has it can do both: leave it out when a corpus is handed on. Deleting it makes the
pseudonyms final, and the corpus closed to new images. Equal corpora in two folders need the same salt, given.
It hides identifiers in DICOM headers and nothing else: not names of files, which become ids, nor what a manifest, a
text or the pixels say. The images of one person stay together, which is the use of a pseudonym.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from medweave.corpus.recipe import CorpusRecipe, SourceRecipe
from medweave.errors import RequestError
from medweave.files import whole_file
from medweave.recipe import as_data

FILE = ".salt"


def salt_in(path: Path | None) -> str:
    """The salt that a file holds, drawn into it if it is not there; None: a salt that ends with this process.

    Raises RequestError when the file is empty.
    """
    if path is None:
        return _passing()
    if not path.exists():
        with whole_file(path) as draft, open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    salt = path.read_text(encoding="utf-8").strip()
    if not salt:
        raise RequestError("the file of the salt is empty", where=path, todo="put the salt back into it")
    return salt


def with_salts(recipe: CorpusRecipe, facts: Mapping[str, Any] | None = None, *, keep: bool = True) -> CorpusRecipe:
    """The recipe with the corpus's own salt for every source that is given none.

    facts: corpus.json of the corpus that is added to; one from before salts were kept stays without. keep: whether a
    salt that must be drawn is to last. Raises RequestError when the corpus was built with another salt.
    """
    path = recipe.path / FILE
    bare = facts is not None and hash_of_salt("") in facts.get("salts", [hash_of_salt("")])
    own: dict[str, Any] = {"salt": ""} if bare else {"salt_file": path} if keep or path.exists() else {}
    sources = [source.model_copy(update=own) if _is_open(source) else source for source in recipe.sources]
    salted = recipe.model_copy(update={"sources": sources})
    _check_same(salted, facts or {})
    return salted


def hashes_of_salts(recipe: CorpusRecipe) -> list[str | None]:
    """What corpus.json says of the salt of each source: its hash, None where it has none or none was needed yet."""
    salts = [_salt_of(source) for source in recipe.sources]
    return [None if salt is None else hash_of_salt(salt) for salt in salts]


@cache
def hash_of_salt(salt: str) -> str:
    """32 hex digits that tell salts apart, slow to make, so that a short salt cannot quickly be guessed from them."""
    return hashlib.scrypt(salt.encode(), salt=b"medweave", n=2**14, r=8, p=1, dklen=16).hex()


def _check_same(recipe: CorpusRecipe, facts: Mapping[str, Any]) -> None:
    """Every source of the corpus is read with the salt that it was built with."""
    new = list(zip(as_data(recipe)["sources"], hashes_of_salts(recipe), strict=True))
    for number, before in enumerate(facts.get("salts", [])):
        source = facts["recipe"]["sources"][number]
        if before and (source, before) not in new:
            raise RequestError(
                f"not the salt that {source['name'] or source['path']} was built with",
                where=recipe.path,
                todo=f"give that one, put {FILE} back, or choose a new path",
            )


@cache
def _passing() -> str:
    return secrets.token_hex(32)


def _is_open(source: SourceRecipe) -> bool:
    """Whether a source takes a salt and is given none."""
    return all(getattr(source, name, "") is None for name in ("salt", "salt_file"))


def _salt_of(source: SourceRecipe) -> str | None:
    """The salt that a source is given, or finds in its file."""
    given, path = (getattr(source, name, None) for name in ("salt", "salt_file"))
    if given is None and path is not None and path.exists():
        return salt_in(path)
    return given
