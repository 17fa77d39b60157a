import numpy as np

from medweave.corpus.known import LabelSet
from medweave.corpus.store import open_corpus
from medweave.training.labels import labels_of


class Table:
    """An index without a corpus."""

    def __init__(self, rows):
        self.rows = rows

    def index(self, columns):
        import pyarrow as pa

        kinds = {"findings": pa.list_(pa.struct([("name", pa.string()), ("state", pa.string())]))}
        return pa.table({c: pa.array([r[c] for r in self.rows], kinds.get(c, pa.string())) for c in columns})

    def __len__(self):
        return len(self.rows)

    def batches(self, columns):
        return iter(self.index(columns).to_batches(max_chunksize=7))


def naive(row) -> LabelSet | None:
    present = frozenset(f["name"] for f in row["findings"] or [] if f["state"] == "present")
    absent = frozenset(f["name"] for f in row["findings"] or [] if f["state"] == "absent")
    return LabelSet((row["modality"], row["anatomy"]), present, absent) if present or absent else None


def test_labels_are_those_of_the_rows_one_by_one():
    draw = np.random.default_rng(0)
    states = ("present", "absent", "uncertain", "unknown")
    rows = [
        {
            "modality": str(draw.choice(["xray", "ct"])),
            "anatomy": draw.choice(["chest", None]),
            "findings": draw.permutation(
                [{"name": n, "state": str(draw.choice(states))} for n in ("a", "b", "c") if draw.random() < 0.6]
            ).tolist(),
        }
        for _ in range(300)
    ]
    labels = labels_of(Table(rows))
    assert labels.of(np.arange(300)) == [naive(row) for row in rows]
    assert len(labels.sets) == len({naive(row) for row in rows} - {None})


def test_no_findings_at_all():
    rows = [{"modality": "ct", "anatomy": None, "findings": []}, {"modality": "ct", "anatomy": None, "findings": None}]
    assert labels_of(Table(rows)).of(np.array([0, 1])) == [None, None]


def test_a_built_corpus(corpus_recipe):
    corpus = open_corpus(corpus_recipe.path)
    rows = corpus.index(["modality", "anatomy", "findings"]).to_pylist()
    assert labels_of(corpus).of(np.arange(len(corpus))) == [naive(row) for row in rows]
