"""A batch with three teachers: `both` covers all, `some` covers the first ones, `eyes` has an image tower only."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from medweave.training.objective import Batch, Embeddings, Given, Standard, Teacher, TeacherRows

SAMPLES, WIDTH = 10, 6
WORDLESS = [2, 8]


def unit(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def standard_of(rows):
    """PHI-S by its definition."""
    mean, covariance = rows.mean(0), torch.cov(rows.T)
    values, axes = torch.linalg.eigh(covariance)
    turn, _ = torch.linalg.qr(torch.randn(len(mean), len(mean), generator=torch.Generator().manual_seed(1)))
    return Standard(mean, axes @ turn / values.mean().sqrt(), covariance)


def student_of(width=WIDTH, seed=0):
    rows = [unit(SAMPLES, width, seed=seed + side).requires_grad_() for side in (0, 1)]
    scale = torch.tensor(12.0, requires_grad=True)
    return Embeddings(*rows, scale, torch.zeros(()))


@pytest.fixture
def student():
    return student_of()


@pytest.fixture
def rows():
    first = (torch.arange(SAMPLES) < 7).float()
    return {
        "both": TeacherRows(torch.ones(SAMPLES), unit(SAMPLES, 8, seed=11), unit(SAMPLES, 8, seed=12)),
        "some": TeacherRows(first * 0.5, unit(SAMPLES, 5, seed=13), unit(SAMPLES, 5, seed=14)),
        "eyes": TeacherRows(torch.ones(SAMPLES), unit(SAMPLES, 7, seed=15)),
    }


@pytest.fixture
def given(rows):
    teachers = {}
    for name, of in rows.items():
        sides = [None if side is None else standard_of(side) for side in (of.image, of.text)]
        teachers[name] = Teacher(None if of.text is None else 30.0, *sides)
    return Given(WIDTH, teachers)


@pytest.fixture
def batch(rows):
    return Batch(torch.arange(SAMPLES), [None] * SAMPLES, rows=rows, step=3)


@pytest.fixture
def wordless(batch):
    """The same batch, with two samples whose texts have no row: what stands there is no number."""
    known = torch.ones(SAMPLES, dtype=torch.bool)
    known[WORDLESS] = False
    rows = dict(batch.rows)
    for name in ("both", "some"):
        rows[name] = replace(rows[name], text=torch.where(known[:, None], rows[name].text, torch.nan), known=known)
    return replace(batch, rows=rows)
