"""The page of several models: what the table says, on a page that needs nothing else."""

from copy import deepcopy
from dataclasses import replace

import pytest

from medweave.evaluation.compare import compare
from medweave.reports import comparison
from medweave.reports.page import with_interval


@pytest.fixture(scope="module")
def table(results_of):
    folders = [results_of(name, skill).folder for name, skill in (("weak", 0.1), ("strong", 1.0))]
    return compare([f"{folders[0]}@corpus-zero-shot", f"{folders[1]}@corpus-zero-shot"], draws=200)


def test_the_page_shows_every_mean_and_difference(table, tmp_path, parse):
    page = parse(comparison.write(table, tmp_path / "page.html"))
    assert page.fetched == [] and page.scripts == 0
    for row in table.sets + table.macros:
        for found in row["metrics"].values():
            for value in found["values"]:
                assert with_interval(value) in page.words
    better = table.macros[0]["metrics"]["macro_auroc"]["differences"][0]
    assert f"{better['value']:+.3f} ({better['low']:+.3f} to {better['high']:+.3f})" in page.words
    assert "strong, prompted" in page.words and "knee †" in page.words


def test_sets_that_some_model_lacks_are_listed(results_of, new_world, tmp_path, parse):
    other = new_world()
    other.rows[:] = [row if row["source"] != "knee" else row | {"source": "elbow"} for row in other.rows]
    folders = [results_of("first", 0.5, ["corpus-probe"]), results_of("second", 0.5, ["corpus-probe"], other)]
    page = parse(comparison.write(compare([one.folder for one in folders], draws=100), tmp_path / "page.html"))
    assert "2 sets left out" in page.words and "elbow" in page.words


def test_models_without_a_common_set_have_a_page_too(table, tmp_path, parse):
    left_out = [{"set": row["set"], "reason": "gone"} for row in table.sets]
    empty = replace(table, sets=[], macros=[{"set": "all", "sets": [], "metrics": {}}], left_out=left_out)
    assert "gone" in parse(comparison.write(empty, tmp_path / "page.html")).words


def test_the_axis_reaches_to_a_low_of_zero(table, monkeypatch):
    monkeypatch.setattr(comparison.charts, "intervals", lambda bars, label, limits: limits)
    changed = deepcopy(table)
    changed.sets[0]["metrics"]["macro_auroc"]["values"][0] |= {"value": 0.9, "low": 0.0, "high": 1.0}
    assert comparison.set_chart(table, "macro_auroc")[0] > 0
    assert comparison.set_chart(changed, "macro_auroc")[0] == 0


def test_a_mean_says_how_many_sets_it_is_of(table, monkeypatch):
    monkeypatch.setattr(comparison.charts, "intervals", lambda bars, label, limits: [bar.name for bar in bars])
    for metric in comparison.measured(table):
        known = [row["metrics"][metric]["values"] for row in table.sets if metric in row["metrics"]]
        counted = sum(all(value["value"] is not None for value in values) for values in known)
        assert f"mean of {counted} set" in " ".join(comparison.set_chart(table, metric))
    changed = deepcopy(table)
    for value in changed.macros[0]["metrics"]["macro_auroc"]["values"]:
        value["sets"] = 1
    assert "mean of 1 set" in comparison.set_chart(changed, "macro_auroc")


def test_the_tick_of_no_difference_is_on_the_axis(table, monkeypatch):
    monkeypatch.setattr(comparison.charts, "intervals", lambda bars, label, limits, colours: limits)
    changed = deepcopy(table)
    for row in changed.macros:
        for found in row["metrics"].values():
            found["differences"][0] |= {"value": 0.3, "low": 0.2, "high": 0.4}
    low, high = comparison.difference_chart(changed)
    assert low < 0 and high > 0.4


def test_markdown_has_a_cell_for_every_column(table):
    of_sets = [form(table, "macro_auroc") for form in (comparison.every_set, comparison.set_differences)]
    for grid in (comparison.means(table), comparison.differences(table), *of_sets):
        lines = grid.markdown().splitlines()
        assert {line.count("|") for line in lines} == {len(grid.head) + 1}
        assert len(lines) == len(grid.rows) + 2


def test_every_set_has_its_paired_differences(table):
    grid = comparison.set_differences(table, "macro_auroc")
    known = [row for row in table.sets if "macro_auroc" in row["metrics"]]
    assert [row[0].removesuffix(" †") for row in grid.rows] == [row["set"] for row in known]
    assert len(grid.head) == len(table.columns) and "minus" in grid.head[1]
    for cells, row in zip(grid.rows, known, strict=True):
        found = row["metrics"]["macro_auroc"]["differences"][0]
        assert found["value"] is None or cells[1].startswith(f"{found['value']:+.3f}")


def test_a_page_says_how_many_draws_are_behind_p_and_where_they_are_too_few(table, tmp_path, parse):
    page = parse(comparison.write(replace(table, draws_of_p=3840), tmp_path / "page.html"))
    assert "p, from 3840 draws," in page.words and "--draws" not in page.words
    page = parse(comparison.write(replace(table, draws_of_p=20_000, tests=600), tmp_path / "page.html"))
    assert "600 tests need 24000 draws, not 20000; give --draws 24000." in page.words
