"""Charts as SVG: well-formed, the same bytes each time, text kept as text."""

from xml.etree import ElementTree

import numpy as np
import pytest

from medweave.reports import charts

BARS = [
    charts.Bar(f"set {n}", 0.5 + n / 20, 0.4 + n / 20 if n else None, 0.6 + n / 20 if n else None, 0.5, series)
    for n in range(6)
    for series in ("one & only", "another")
]


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_every_name_series_and_label_is_text_in_the_chart():
    found = texts(charts.intervals(BARS, "score"))
    assert {f"set {n}" for n in range(6)} | {"one & only", "another", "score"} <= set(found)


def test_the_same_values_give_the_same_bytes():
    assert charts.intervals(BARS, "score") == charts.intervals(BARS, "score")
    lines = {"a": ([1, 2, 3], [3, 2, 1]), "b": ([1], [2])}
    assert texts(charts.curves(lines, "steps", "loss")).count("loss") == 1


def test_reliability_bins_hold_enough_images_and_average_to_the_whole():
    random = np.random.default_rng(0)
    stated, right = random.random(200), random.integers(0, 2, 200)
    xs, ys = charts.reliability_points(stated, right)
    assert len(xs) == 10 and xs == sorted(xs)
    assert np.mean(xs) == pytest.approx(stated.mean()) and np.mean(ys) == pytest.approx(right.mean())
    assert len(charts.reliability_points(stated[:20], right[:20])[0]) == 1
    assert ElementTree.fromstring(charts.reliability({"a": (xs, ys)})) is not None
