"""Coverage: what is measured equals a naive count, good teachers are trusted, guessers and strangers are not."""

import csv
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from medweave.corpus.build import build
from medweave.corpus.captions.bank import Bank
from medweave.corpus.order import Ranges
from medweave.corpus.recipe import CorpusRecipe
from medweave.corpus.views import split_view
from medweave.errors import UserError
from medweave.features.coverage import Thresholds, _settled, cover
from medweave.features.extract import extract
from medweave.features.measure import Known, Labelled, Measured, _drawn, _scored, known_of, measure, pair_ranks
from medweave.features.store import open_features
from medweave.models.encoder import Encoder
from medweave.models.preprocess import Preprocess
from medweave.seeds import generator

SOURCES = {"lungs": ("xray", "chest", ("normal", "pneumonia")), "heads": ("ct", "head", ("normal", "fracture"))}
EACH, DIM = 100, 24


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def meaning(*key):
    return generator("meaning", *key).standard_normal(DIM)


def row_of_text(text):
    """Texts that name a finding lie near it; texts of one sample lie near the sample."""
    named = [f for f in ("normal", "pneumonia", "fracture") if f in text.lower()]
    own = re.findall(r"\d+", text)
    parts = [2 * meaning("finding", f) for f in named[:1]] + [meaning("sample", int(n)) for n in own[:1]]
    return unit(sum(parts, 0.2 * meaning("text", text)))


class Planted(nn.Module):
    """Knows each picture by its grey. skill: modality -> how much of what it says is the truth (1) or noise (0)."""

    kind, logit_bias, separable, context, dim = "softmax", None, False, 99, DIM

    def __init__(self, skill, sides=("images", "texts")):
        super().__init__()
        self.skill, self.sides, self.facts = skill, sides, {}
        self.weight, self.logit_scale = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(()))
        self.preprocess = Preprocess(size=8, mean=(0, 0, 0), std=(1, 1, 1))

    def encode_image(self, pixels):
        return torch.from_numpy(np.stack([self.row(round(float(p.mean()) * 255)) for p in pixels])).float()

    def row(self, number):
        modality, _, findings = SOURCES["lungs" if number < EACH else "heads"]
        truth = meaning("finding", findings[number % 2]) + meaning("sample", number)
        share = self.skill[modality]
        return unit(share * truth + (1 - share) * 2 * meaning("noise", number))

    def tokenize(self, texts):
        return {"input_ids": np.array([[len(text)] for text in texts]), "texts": list(texts)}

    def encode_text(self, tokens):
        return torch.from_numpy(np.stack([row_of_text(text) for text in tokens["texts"]])).float()

    def tokenizer(self, texts, truncation, verbose):
        return {"input_ids": [text.split() for text in texts]}


class Texts(dict):
    def to(self, device):
        return self


def planted(skill, name="planted", **options):
    model = Planted(skill, **options)
    plain = model.tokenize
    model.tokenize = lambda texts: Texts(plain(texts))
    return Encoder(model.eval(), name)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """100 pictures each of lungs, all with a text of their own, and of heads, with labels only."""
    folder = tmp_path_factory.mktemp("coverage")
    listed = []
    for at, (name, (modality, anatomy, findings)) in enumerate(SOURCES.items()):
        (folder / name).mkdir()
        with (folder / name / "manifest.csv").open("w") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "label", "caption"])
            for number in range(at * EACH, (at + 1) * EACH):
                Image.fromarray(np.full((10, 10), number, np.uint8)).save(folder / name / f"{number}.png")
                rows.writerow([f"{number}.png", findings[number % 2], f"Picture {number}." if at == 0 else ""])
        columns = {"path": "path", "labels": "label", "caption": "caption"}
        source = {"kind": "folder", "name": name, "path": str(folder / name), "manifest": "manifest.csv"}
        listed.append(source | {"columns": columns, "modality": modality, "anatomy": anatomy, "exhaustive": True})
    tree = {"path": str(folder / "corpus"), "shard": 32, "workers": 1, "accept": ["unknown"], "sources": listed}
    tree |= {"groups": {"near": {"search": False}}, "split": {"train": 0.7, "validation": 0.1, "test": 0.2}}
    return build(CorpusRecipe.model_validate(tree))


@pytest.fixture
def features_of(corpus, tmp_path):
    """A function of a teacher's skill and sides to its rows."""

    def make(**options):
        extract(corpus, planted(**options), "planted", root=tmp_path / "rows", workers=1)
        return open_features(corpus, "planted", root=tmp_path / "rows")

    return make


def table_of(features):
    """The rows of covered.parquet, each with the source of the sample that it is about."""
    sources = features.corpus.index(["source"])["source"].to_pylist()
    rows = pq.read_table(features.layout.covered).to_pylist()
    return [{"source": source, **row} for source, row in zip(sources, rows, strict=True)]


def test_a_teacher_is_trusted_where_it_is_good(features_of, corpus):
    features = features_of(skill={"xray": 1.0, "ct": 0.0})
    coverage = cover(features)
    assert coverage.measured["lungs", "xray"].by == "prompted" and coverage.measured["lungs", "xray"].score > 0.7
    assert abs(coverage.measured["heads", "ct"].score) < 0.35
    rows = table_of(features)
    assert rows[0].keys() == {"source", "covered", "by", "score"} and len(rows) == 200
    heads = [row for row in rows if row["source"] == "heads"]
    assert {(row["covered"], row["by"]) for row in heads} == {(False, "prompted")}
    lungs = [row for row in rows if row["source"] == "lungs"]
    assert {row["by"] for row in lungs} == {"pair rank"} and np.mean([row["covered"] for row in lungs]) > 0.9
    fresh, numbers = open_features(corpus, "planted", root=features.layout.folder.parent), np.arange(200)
    assert fresh.covered(numbers).tolist() == [row["covered"] for row in rows]
    np.testing.assert_allclose(fresh.scores(numbers), [row["score"] for row in rows], atol=1e-3)
    assert f"covers {sum(row['covered'] for row in rows)} of 200 samples" in coverage.text()


def test_scores_are_those_of_a_naive_count(features_of, corpus):
    features = features_of(skill={"xray": 0.45, "ct": 0.5})
    cover(features, pool=40)
    rows, training = table_of(features), split_view(corpus, "train")
    pool = known_of(corpus, training, 40, 0).texts["xray"]
    assert len(pool) == 40 and np.isin(pool, training.numbers()).all()
    texts = {n: corpus.fields(n)["texts"][0]["text"] for n in range(200) if corpus.fields(n)["texts"]}
    for number in list(texts)[::9]:
        image, own = features.image(np.array([number]))[0], features.text(np.array([number]))[0]
        others = [features.text(np.array([p]))[0] for p in pool.tolist() if texts[p] != texts[number]]
        below = np.mean([float(image @ own > image @ other) for other in others])
        assert rows[number]["score"] == pytest.approx(2 * below - 1, abs=0.06)
        assert rows[number]["covered"] == (rows[number]["score"] >= 0)


def test_a_declared_domain_shuts_the_others_out(features_of):
    features = features_of(skill={"xray": 1.0, "ct": 1.0})
    cover(features, domains=["ct"])
    by = {row["source"]: (row["covered"], row["by"]) for row in table_of(features)}
    assert by == {"lungs": (False, "domain"), "heads": (True, "prompted")}


@pytest.mark.parametrize(("skill", "trusted"), [(1.0, True), (0.0, False)])
def test_an_image_tower_alone_is_probed(features_of, skill, trusted):
    features = features_of(skill={"xray": 1.0, "ct": skill}, sides=("images",))
    coverage = cover(features)
    assert {one.by for one in coverage.measured.values()} == {"probe"}
    heads = [row for row in table_of(features) if row["source"] == "heads"]
    assert {(row["covered"], row["by"]) for row in heads} == {(trusted, "probe")}
    assert heads[0]["score"] == pytest.approx(coverage.measured["heads", "ct"].score)


def test_a_probe_of_one_patient_is_no_measure(features_of, corpus):
    """Nothing is left to learn from where all images are of one fold."""
    features = features_of(skill={"xray": 1.0, "ct": 1.0}, sides=("images",))
    known = known_of(corpus, split_view(corpus, "train"), 256, 0).labels["heads", "ct"]
    assert measure(features, "ct", known, Bank.load()).score > 0.7
    assert measure(features, "ct", [replace(one, group="p") for one in known], Bank.load()) is None


def test_words_alone_are_trusted_as_declared(features_of):
    features = features_of(skill={}, sides=("texts",))
    assert cover(features).samples == {("unmeasured", True): 200}
    assert cover(features, domains=["xray"]).samples == {("domain", False): 100, ("domain", True): 100}


def test_few_images_are_judged_with_others():
    """Alone from 30 images on, else by the mean of the modality, else by that of all, else not at all."""
    scores = {
        ("a", "ct"): Measured("probe", 0.8, 0.3, 40),
        ("b", "ct"): Measured("probe", 0.2, 0.4, 20),
        ("d", "mri"): Measured("probe", 0.5, 0.1, 29),
    }
    places = [("a", "ct"), ("b", "ct"), ("c", "ct"), ("d", "mri"), ("none", "ct")]
    labelled = Known({place: [Labelled(0, None, "x", "g")] * (place[0] != "none") for place in places}, {})
    ct, every = Measured("probe", 0.5, 0.25, 60), Measured.together(list(scores.values()))
    assert (every.score, every.images) == (pytest.approx(0.5), 89)
    expected = {("a", "ct"): scores["a", "ct"], ("b", "ct"): ct, ("c", "ct"): ct, ("d", "mri"): every}
    assert _settled(labelled, scores) == expected
    del scores["a", "ct"]
    assert set(_settled(labelled, scores).values()) == {Measured.together(list(scores.values()))}
    del scores["b", "ct"]
    assert _settled(labelled, scores) == {}


def test_thresholds_are_the_callers(features_of):
    features = features_of(skill={"xray": 0.5, "ct": 0.5})
    shares = [cover(features, thresholds=Thresholds(pair=least)).covered for least in (-1.0, 0.0, 0.9)]
    assert shares[0] > shares[1] > shares[2]
    none = Thresholds(source=2.0)
    with pytest.raises(UserError, match=r"covers 0 of 200 samples \(200 out by prompted\)") as raised:
        cover(features, thresholds=none)
    assert len(str(raised.value).splitlines()) == 1
    assert not open_features(features.corpus, "planted", root=features.layout.folder.parent).covered(np.arange(9)).any()


def test_withdrawn_samples_are_never_covered_nor_measured_on(features_of, corpus, tmp_path):
    features = features_of(skill={"xray": 1.0, "ct": 1.0})
    try:
        corpus.withdraw([corpus.fields(n)["id"] for n in (2, 120)], "asked to")
        cover(features)
        assert [n for n, row in enumerate(table_of(features)) if row["by"] == "withdrawn"] == [2, 120]
        known = known_of(corpus, split_view(corpus, "train"), 256, 0)
        used = [one.number for rows in known.labels.values() for one in rows]
        assert not {2, 120} & set(used) and len(used) > 100
    finally:
        (corpus.path / "withdrawn.parquet").unlink()


def test_pair_ranks_leave_out_texts_that_say_the_same():
    draw = np.random.default_rng(0)
    images, texts, pool = (unit(draw.normal(size=(n, 8))).astype(np.float32) for n in (5, 5, 12))
    pool[3] = pool[7] = texts[1]
    found = pair_ranks(images, texts, pool)
    for at in range(5):
        others = [row for row in pool if row @ texts[at] < 0.9999]
        assert found[at] == pytest.approx(2 * np.mean([images[at] @ texts[at] > images[at] @ o for o in others]) - 1)
    assert np.isnan(pair_ranks(images, texts, pool[:7])).all()
    np.testing.assert_array_equal(pair_ranks(texts, texts, pool)[2:], 1)


def test_chance_is_zero_and_its_error_is_told():
    truth = np.repeat([0, 1, 2], [60, 30, 10])
    perfect, always = _scored("probe", truth, truth, 3), _scored("probe", truth, np.zeros(100, int), 3)
    assert perfect.score == pytest.approx(1) and always.score == pytest.approx(0)
    assert perfect.passes(0.1) and not always.passes(0.0)
    assert not Measured("probe", 0.2, 0.15, 30).passes(0.1)
    passed = [_scored("probe", truth, np.random.default_rng(s).integers(0, 3, 100), 3).passes(0.1) for s in range(200)]
    assert np.mean(passed) < 0.08


def test_a_draw_is_even_and_from_the_ranges_only(monkeypatch):
    monkeypatch.setattr("medweave.features.measure.CANDIDATES", 10)
    ranges = Ranges.of([3, 4, 5, *range(20, 60), 99, 101, 102, 103, 104, 105, 106])
    counts = np.zeros(120)
    for seed in range(400):
        drawn = _drawn(ranges, np.random.default_rng(seed))
        assert len(set(drawn)) == 10
        counts[drawn] += 1
    assert np.flatnonzero(counts).tolist() == ranges.numbers().tolist()
    assert counts[counts > 0].min() > 45 and counts.max() < 115
    assert _drawn(Ranges.of([]), np.random.default_rng(0)) == []


def test_what_a_teacher_was_trained_on_measures_nothing_and_can_be_barred(features_of, corpus):
    """It may know these alone, and guess everywhere else."""
    features = features_of(skill={"xray": 1.0, "ct": 1.0})
    met = Ranges.of(np.arange(0, 200, 2))
    coverage, everything = cover(features, known_to=met, unseen=True), cover(features)
    place = ("lungs", "xray")
    assert 0 < coverage.measured[place].images < everything.measured[place].images
    cover(features, known_to=met, unseen=True)
    rows = table_of(features)
    assert all(not row["covered"] and row["by"] == "trained on" for row in rows[::2])
    assert np.mean([row["covered"] for row in rows[1::2]]) > 0.9
    with pytest.raises(UserError, match="covers 0 of 200 samples"):
        cover(features, known_to=Ranges.of(np.arange(200)), unseen=True)
    cover(features, known_to=met)
    rows = table_of(features)
    assert {row["by"] for row in rows[:100:2]} == {"prompted"} and all(row["covered"] for row in rows[::2])
    assert {row["by"] for row in rows[1:100:2]} == {"pair rank"}
