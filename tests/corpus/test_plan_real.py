"""The plan on real data: the near-duplicates that its notes name are found, and no false ones among fundus images."""

import os
from collections import Counter

import pytest

from medweave.corpus.copies import find_copies
from medweave.corpus.listing import list_samples, open_source
from medweave.corpus.plan import make_plan
from medweave.corpus.recipe import CorpusRecipe
from medweave.corpus.sample import LICENCE_CLASSES
from medweave.corpus.vocabulary import load
from medweave.recipe import check

FOLDER = os.environ.get("MEDWEAVE_REAL_DATA")
pytestmark = [pytest.mark.real, pytest.mark.skipif(not FOLDER, reason="MEDWEAVE_REAL_DATA names no folder")]
COLUMNS = {
    "source": "dataset",
    "caption": "caption",
    "modality": "modality",
    "anatomy": "anatomy",
    "patient": "patient",
    "licence": "licence",
}
LABELLED = {
    "kind": "folder",
    "path": FOLDER,
    "manifest": "manifest_images.csv",
    "exhaustive": True,
    "columns": COLUMNS | {"labels": "label"},
    "values": {"anatomy": {"retina (macula)": "macula"}},
}
CAPTIONED = {
    "kind": "folder",
    "path": FOLDER,
    "manifest": "manifest_text.csv",
    "columns": COLUMNS,
    "values": {"modality": {"CT or MR": "other", "radiology": "other"}},
}
NAMED = [
    ("ct_head_hemorrhage/{0}/009", "ct_head_hemorrhage/{0}/065"),
    ("ct_head_hemorrhage/{0}/010", "ct_head_hemorrhage/{0}/066"),
    ("ct_head_hemorrhage/{0}/011", "ct_head_hemorrhage/{0}/061"),
    ("ct_head_hemorrhage/{0}/012", "ct_head_hemorrhage/{0}/030"),
    ("ct_head_hemorrhage/{0}/107", "ct_head_hemorrhage/{0}/108"),
    ("mri_brain_tumor/{0}/te_pit_image_43", "mri_brain_tumor/{0}/te_pit_image_60"),
    ("xray_covid_figure1/{0}/COVID-00033", "xray_covid_figure1/{0}/COVID-00037"),
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / "corpus"
    tree = {"path": str(path), "accept": list(LICENCE_CLASSES), "folds": {"count": 5}, "sources": [LABELLED, CAPTIONED]}
    return check(tree, CorpusRecipe, where="test")


@pytest.fixture(scope="module")
def pairs(recipe):
    """(id, source, patient) of both images of every near pair."""
    sources = [open_source(source) for source in recipe.sources]
    table = list_samples(recipe, sources, load()).table
    facts = list(zip(*(table[name].to_pylist() for name in ("id", "source", "patient")), strict=True))
    return [(facts[a], facts[b]) for a, b in find_copies(table, 0, sources, recipe).pairs]


def test_the_pairs_that_the_notes_name_are_found(pairs):
    found = {frozenset((a[0], b[0])) for a, b in pairs}
    missing = [
        pair for pair in NAMED if frozenset(name.format(f"images/{name.split('/')[0]}") for name in pair) not in found
    ]
    assert missing == []


def test_each_source_has_about_the_pairs_of_the_notes(pairs):
    count = Counter(a[1] for a, b in pairs if a[1] == b[1])
    for source, least in (("ct_kidney", 20), ("us_breast_busi", 15), ("us_lung_pocus", 13), ("ct_head_hemorrhage", 9)):
        assert least <= count[source] <= 3 * least
    across = Counter(frozenset((a[1], b[1])) for a, b in pairs if a[1] != b[1])
    reports = ("xray_covid_ieee8023", "ct_covid_ieee8023")
    assert sum(across[frozenset((name, "report_covidcxr"))] for name in reports) >= 29
    for left, right in (("xray_covid_figure1", "xray_covid_ieee8023"), ("ct_covid_ieee8023", "ct_covid_ucsd")):
        assert across[frozenset((left, right))] == 1


def test_no_two_people_share_a_fundus(pairs):
    assert [(a[0], b[0]) for a, b in pairs if "fundus" in a[1] + b[1] and a[2] != b[2]] == []


def test_groups_never_straddle_and_every_label_is_known(recipe):
    plan = make_plan(recipe)
    assert len(plan.table) == 5658 and not plan.skipped and not plan.unmapped
    group, split = plan.table["group"].to_pylist(), plan.table["split"].to_pylist()
    assert len(set(zip(group, split, strict=True))) == len(set(group)) == plan.groups
    assert len(set(zip(group, plan.folds["fold"].to_pylist(), strict=True))) == plan.groups
    sizes = Counter(plan.folds["fold"].to_pylist())
    assert max(sizes.values()) - min(sizes.values()) < 30
    assert {(t.source, t.groups) for t in plan.thin} == {("histo_osteosarcoma", 2)}
