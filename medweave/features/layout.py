"""Where the rows of one teacher lie: CORPUS/features/NAME/ and its files, one of each kind a shard of the corpus."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medweave.corpus.store import Corpus
from medweave.errors import RequestError, UserError

FOLDER = "features"
STAMP = "stamp.json"
BUILD = ".build"
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
OF_A_SHARD = re.compile(r"(?:image|text)-(\d{5,})\..*")
LONGEST = 255  # letters of a name that a file system takes
UNWRITABLE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of this disk is used up",
    errno.EROFS: "the disk is read only",
    errno.EACCES: "no permission",
}
IN_THE_WAY = {
    errno.EISDIR: "a folder lies where a file should be",
    errno.ENOTDIR: "a file lies where a folder should be",
    errno.EEXIST: "a file lies where a folder should be",
}


@dataclass(frozen=True)
class Layout:
    """The files of one folder of features."""

    folder: Path

    @property
    def stamp(self) -> Path:
        """What the rows were made of."""
        return self.folder / STAMP

    def image(self, shard: int, view: int = 0) -> Path:
        """Rows of the whole pictures, or of one augmented view of each."""
        return self.folder / (f"image-{shard:05d}.v{view}.npy" if view else f"image-{shard:05d}.npy")

    def text(self, shard: int) -> Path:
        """Rows of the samples' own texts: those of the first sample, those of the second, …"""
        return self.folder / f"text-{shard:05d}.npy"

    def counts(self, shard: int) -> Path:
        """How many texts each sample has, where that differs."""
        return self.folder / f"text-{shard:05d}.counts.npy"

    def tokens(self, shard: int) -> Path:
        """How many tokens each text has before it is cut."""
        return self.folder / f"text-{shard:05d}.tokens.npy"

    def record(self, shard: int) -> Path:
        """What is finished of a shard, until all are."""
        return self.folder / BUILD / f"{shard:05d}.json"

    @property
    def bank(self) -> Path:
        """Rows of captions."""
        return self.folder / "bank.npy"

    @property
    def captions(self) -> Path:
        """The captions of `bank`, in its order."""
        return self.folder / "bank.json"

    @property
    def covered(self) -> Path:
        """Which samples the teacher is trusted on."""
        return self.folder / "covered.parquet"

    @property
    def standard(self) -> Path:
        """Mean, rotation and scale of its rows."""
        return self.folder / "standard.safetensors"


def layout_of(corpus: Corpus, name: str, root: Path | None = None) -> Layout:
    """The files of one teacher's rows. root: the folder of all teachers, where it is not the corpus's own.

    Raises RequestError for a name that is no plain one or too long, and for a remote corpus without `root`.
    """
    if len(name) > LONGEST:
        todo = f"take {LONGEST} at most"
        raise RequestError(f"the name of features that begins {name[:20]!r} has {len(name)} letters", todo=todo)
    if not PLAIN.fullmatch(name):
        raise RequestError(f"{name!r} is no name for features", todo="take letters, digits and . _ + -")
    return Layout((root or corpus.local_path() / FOLDER) / name)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises UserError where the block cannot write into a folder of rows."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename2 or error.filename or folder)
        if error.errno in UNWRITABLE:
            todo = "make it writable, or free space, and run the same command again: it goes on where it stopped"
            raise UserError(UNWRITABLE[error.errno], where=place, todo=todo) from error
        if error.errno in IN_THE_WAY:
            todo = "move it away and run the same command again"
            raise UserError(IN_THE_WAY[error.errno], where=_in_the_way(place), todo=todo) from error
        raise


def _in_the_way(place: Path) -> Path:
    """The file that a path leads through or to, or else the path itself."""
    return next((part for part in (place, *place.parents) if part.is_file()), place)


def name_of(model: str) -> str:
    """A plain name for the rows of a model: its own, without what comes before a colon."""
    return plain(model.partition(":")[2] or model)


def plain(name: str) -> str:
    """A name with dashes for what a folder's name should not have."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.") or "teacher"
