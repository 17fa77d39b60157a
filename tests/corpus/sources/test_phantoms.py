"""Phantoms: the same pixels for the same place, true masks, physics that holds, findings that no histogram shows."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medweave.corpus.sample import State
from medweave.corpus.sources.phantoms import MODALITIES, Place, Source, SourceRecipe, ct, draw, fields, findings_of
from medweave.corpus.vocabulary import load
from medweave.errors import RequestError, UserError
from medweave.recipe import check
from medweave.seeds import generator

ALL = [(modality, finding) for modality in MODALITIES for finding in findings_of(modality)]
HEALTHY = ("normal", "melanocytic nevus")


def drawn(modality: str, finding: str, patient: int = 3, image: int = 0, size: int = 96) -> fields.Phantom:
    return draw(Place(modality, finding, size, 11, patient, image))


@pytest.mark.parametrize(("modality", "finding"), ALL)
def test_pixels_and_mask(modality: str, finding: str) -> None:
    image, mask = drawn(modality, finding)
    colour = modality in ("pathology", "fundus", "dermoscopy", "endoscopy")
    assert image.dtype == np.uint8 and image.shape == ((96, 96, 3) if colour else (96, 96))
    assert mask.dtype == bool and mask.shape == (96, 96)
    assert mask.any() == (finding != "normal")
    assert mask.mean() < 0.9
    assert image.std() > 8


@pytest.mark.parametrize("modality", MODALITIES)
def test_same_place_same_pixels(modality: str) -> None:
    finding = findings_of(modality)[1]
    first, again = drawn(modality, finding), drawn(modality, finding)
    assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.image, drawn(modality, finding, image=1).image)
    assert not np.array_equal(first.image, drawn(modality, finding, patient=4).image)


def test_same_pixels_in_another_process() -> None:
    place = "ct|liver lesion|96|11|3|0"
    code = (
        "import hashlib; from medweave.corpus.sources.phantoms import Place, draw;"
        f"print(hashlib.sha256(draw(Place.parse({place!r})).image.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == hashlib.sha256(draw(Place.parse(place)).image.tobytes()).hexdigest()


@pytest.mark.parametrize(("modality", "finding"), [pair for pair in ALL if pair[1] not in HEALTHY])
def test_a_patient_keeps_the_lesion(modality: str, finding: str) -> None:
    if modality == "pathology":
        pytest.skip("each image is another field of the slide")
    sizes = np.array([[drawn(modality, finding, p, i, 64).mask.sum() for i in (0, 1)] for p in range(6)], dtype=float)
    ratio = np.log(sizes[:, 0] / sizes[:, 1])
    assert np.median(np.abs(ratio)) < 0.5


def test_samples_say_what_is_there() -> None:
    recipe = check({"kind": "phantoms", "modalities": ["xray", "fundus"], "patients": 3}, SourceRecipe, "test")
    source = Source(recipe)
    samples = list(source.samples())
    assert len(samples) == 2 * 3 * (5 + 4)
    assert len({s.id for s in samples}) == len(samples)
    assert {s.source for s in samples} == {"phantom_xray", "phantom_fundus"}
    for sample in samples:
        findings = findings_of(sample.modality)
        present = [name for name, state in sample.findings.items() if state is State.PRESENT]
        assert len(present) == 1 and set(sample.findings) == set(findings)
        assert Place.parse(sample.place).finding == present[0]
        assert sample.licence_class == "open"
    for finding in findings_of("xray"):
        held = {s.patient for s in samples if s.source == "phantom_xray" and s.findings[finding] is State.PRESENT}
        assert len(held) == 3
    assert np.array_equal(source.image(samples[0].place), draw(Place.parse(samples[0].place)).image)
    assert source.mask(samples[0].place).shape == (160, 160)


def test_patient_numbers_do_not_tell_the_finding() -> None:
    samples = Source(SourceRecipe(modalities=["mri"], patients=40, images=1)).samples()
    findings = [next(n for n, state in s.findings.items() if state is State.PRESENT) for s in samples]
    assert len(set(findings[::4])) == 4


@pytest.mark.parametrize(("modality", "finding"), ALL)
def test_findings_are_in_the_vocabulary(modality: str, finding: str) -> None:
    anatomy = next(s for s in Source(SourceRecipe(modalities=[modality])).samples()).anatomy
    assert load().canonical(finding, modality, anatomy) is not None


@pytest.mark.parametrize("place", ["", "xray|pneumonia", "sonar|normal|96|0|0|0", "ct|normal|96|0|x|0"])
def test_a_wrong_place_is_named(place: str) -> None:
    with pytest.raises(UserError, match="not the place of a phantom"):
        Source(SourceRecipe()).image(place)


def test_a_finding_that_a_modality_lacks() -> None:
    with pytest.raises(UserError, match=r"kidney stone.*choose one of normal, pneumonia"):
        Source(SourceRecipe()).image("xray|kidney stone|96|0|0|0")


def test_an_unknown_modality_is_refused() -> None:
    with pytest.raises(RequestError, match=r"modalities: no phantom of 'xrays'.*xray"):
        check({"kind": "phantoms", "modalities": ["xrays"]}, SourceRecipe, "test")


@pytest.mark.parametrize("modality", MODALITIES)
def test_histograms_do_not_show_the_finding(modality: str) -> None:
    findings = findings_of(modality)
    bars, labels = [], []
    for patient in range(24 * len(findings)):
        grey = drawn(modality, findings[patient % len(findings)], patient, size=64).image
        grey = grey if grey.ndim == 2 else grey @ np.array([0.299, 0.587, 0.114])
        bars.append(np.histogram(grey, 32, (0, 256))[0])
        labels.append(patient % len(findings))
    half = len(bars) // 2
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300)).fit(bars[:half], labels[:half])
    score = balanced_accuracy_score(labels[half:], model.predict(bars[half:]))
    assert score < 1 / len(findings) + 0.25


def test_ct_projections_keep_the_mass() -> None:
    matrix, _ = ct._scanner()
    y, x = fields.plane(ct.GRID)
    body = np.where(np.hypot(y - 0.1, x + 0.2) < 0.5, 1.0, 0.0)
    projections = (matrix @ body.ravel()).reshape(ct.ANGLES, ct.GRID)
    assert np.allclose(projections.sum(axis=1), body.sum())
    centre = (projections * np.arange(ct.GRID)).sum(axis=1) / body.sum()
    down, right = (body * y).sum() / body.sum(), (body * x).sum() / body.sum()
    angles = np.arange(ct.ANGLES) * np.pi / ct.ANGLES
    assert np.allclose(centre, (1 + right * np.cos(angles) + down * np.sin(angles)) * ct.GRID / 2 - 0.5)


def test_ct_reconstructs_what_was_scanned() -> None:
    y, x = fields.plane(ct.GRID)
    water = np.hypot(y, x) < 0.8
    liver = np.hypot(y - 0.2, x + 0.3) < 0.25
    truth = np.where(liver, 100.0, np.where(water, 0.0, -1000.0))
    seen = ct._scanned(truth, generator(0, "scan"))
    assert seen[np.hypot(y - 0.2, x + 0.3) < 0.2].mean() == pytest.approx(100, abs=12)
    assert seen[(np.hypot(y, x) < 0.7) & (np.hypot(y - 0.2, x + 0.3) > 0.3)].mean() == pytest.approx(0, abs=12)


@pytest.mark.parametrize(("finding", "sign"), [("cyst", 1), ("malignant mass", -1)])
def test_ultrasound_behind_a_lesion(finding: str, sign: int) -> None:
    """Fluid hands on more sound than tissue, a cancer less: behind them it is brighter or darker than beside them."""
    differences = []
    for patient in range(10):
        image, mask = drawn("ultrasound", finding, patient, size=128)
        rows, columns = np.nonzero(mask)
        below = slice(rows.max() + 2, rows.max() + 18)
        middle, half = int(columns.mean()), max(2, int(np.ptp(columns)) // 4)
        beside = np.r_[columns.min() - 14 : columns.min() - 5, columns.max() + 5 : columns.max() + 14]
        behind = image[below, middle - half : middle + half]
        differences.append(float(behind.mean()) - float(image[below, beside % 128].mean()))
    assert sign * np.median(differences) > 5


def test_effusion_is_denser_than_the_other_side() -> None:
    brighter = []
    for patient in range(8):
        image, mask = drawn("xray", "pleural effusion", patient)
        brighter.append(image[mask].mean() > image[mask[:, ::-1]].mean())
    assert np.mean(brighter) > 0.85


def test_the_heart_is_wider_in_cardiomegaly() -> None:
    film, mask = drawn("xray", "cardiomegaly")
    assert np.ptp(np.nonzero(mask)[1]) / film.shape[1] > 0.4


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), spread=st.floats(0.05, 0.4))
def test_tone_keeps_the_order_of_greys(seed: int, spread: float) -> None:
    rng = generator(seed, "tone")
    image = fields.fractal(rng, 64, 1.0)
    shown = fields.tone(rng, image, (0.05, 0.2, 0.4, 0.6, 0.8, 0.95), spread)
    order = np.argsort(image.ravel())
    assert (np.diff(shown.ravel()[order]) >= -1e-12).all()
    assert shown.min() >= 0 and shown.max() <= 1.0001


def test_tone_forgets_the_histogram() -> None:
    image = fields.fractal(generator(1, "field"), 64, 1.0)
    levels = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
    plain = fields.tone(generator(2, "tone"), image, levels)
    bent = fields.tone(generator(2, "tone"), np.exp(image), levels)
    assert np.abs(np.sort(plain.ravel()) - np.sort(bent.ravel())).mean() < 0.02


@pytest.mark.parametrize("scale", [0.03, 0.1])
def test_smooth_noise_is_standard_and_alike_over_its_scale(scale: float) -> None:
    """White noise under a Gaussian of deviation s has the autocorrelation exp(-(lag / 2 s)^2)."""
    alike = []
    for seed in range(20):
        noise = fields.smooth(generator(seed, "noise"), 100, scale)
        assert noise.mean() == pytest.approx(0, abs=1e-9) and noise.std() == pytest.approx(1)
        alike.append((noise * np.roll(noise, round(100 * scale), axis=1)).mean())
    assert np.mean(alike) == pytest.approx(np.exp(-0.25), abs=0.05)


def test_a_smooth_blob_is_an_ellipse() -> None:
    y, x = fields.plane(48)
    blob = fields.blob(generator(0, "blob"), y, x, (0.1, -0.2), (0.5, 0.3), 0.4, rough=0.0)
    turned = np.array([[np.cos(0.4), np.sin(0.4)], [-np.sin(0.4), np.cos(0.4)]])
    dy, dx = np.einsum("ab,bij->aij", turned, np.stack([y - 0.1, x + 0.2]))
    assert np.allclose(blob, np.hypot(dy / 0.5, dx / 0.3))


def test_lookup_at_its_own_places_changes_nothing() -> None:
    field = fields.smooth(generator(0, "field"), 40, 0.1)
    assert np.allclose(fields.lookup(field, *fields.plane(40)), field)
