"""The script of the real-data table: its arms fit the code, jobs are done once, failures do not stop the others."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from medweave.errors import RequestError

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    import local_table

    yield local_table
    sys.path.remove(str(SCRIPTS))


def jobs_in(script, table, tmp_path):
    return script.jobs_of(table, 2, tmp_path / "out", script._common(tmp_path, tmp_path / "out", 640))


@pytest.fixture
def table(script):
    return script.load_recipe(SCRIPTS / "local_table.yaml", script.Table)


@pytest.fixture
def jobs(script, table, tmp_path):
    return jobs_in(script, table, tmp_path)


@pytest.mark.parametrize("name", ["local_table", "distil_table"])
def test_every_arm_is_a_valid_recipe_and_differs_from_the_others(script, name, tmp_path):
    table = script.load_recipe(SCRIPTS / f"{name}.yaml", script.Table)
    jobs = jobs_in(script, table, tmp_path)
    assert {table.reference} | {c.partition("@")[0] for one in table.comparisons for c in one.columns} <= {
        arm.name for arm in table.arms
    }
    for job in jobs:
        recipe = job.recipe
        own = [change for change in job.arm.overrides if change.startswith("train.images=")]
        assert f"train.images={recipe.train.images}" in (own or ["train.images=640"])
        assert recipe.train.run == job.folder
        assert recipe.train.data.fold == recipe.evaluate.data.fold == job.fold
        assert {source.path for source in recipe.corpus.sources} == {tmp_path}
        assert (job.arm.evaluate == "left out") == bool(recipe.train.leave_out)
    corpus = SimpleNamespace(hash="c")
    assert len({job.inputs(corpus)["recipe"] for job in jobs}) == len(jobs)


def test_what_changes_no_figure_makes_no_other_job(script, table, tmp_path):
    def inputs(*changes):
        common = (*script._common(tmp_path, tmp_path / "out", 640), *changes)
        return script.jobs_of(table, 1, tmp_path / "out", common)[0].inputs(SimpleNamespace(hash="c"))

    plain = inputs()
    assert inputs("train.workers=3", "train.log=1", "train.checkpoint=7") == plain
    assert inputs("train.ema=0.5") != plain and inputs("evaluate.seed=5") != plain


def test_a_job_is_done_once_and_a_failure_leaves_the_others(script, jobs, monkeypatch):
    corpus, ran = SimpleNamespace(hash="c"), []

    def child(job, log):
        ran.append(job.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("it broke\n")
        if job.name == "local-plain-0":
            return False
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "done.json").write_text(json.dumps(job.inputs(corpus)))
        return True

    monkeypatch.setattr(script, "in_fresh_process", child)
    assert [job.name for job in script.run_all(jobs, corpus)] == ["local-plain-0"]
    assert ran == [job.name for job in jobs]
    ran.clear()
    script.run_all(jobs, corpus)
    assert ran == ["local-plain-0"]
    script.run_all(jobs[:1], SimpleNamespace(hash="another corpus"))
    assert ran == ["local-plain-0", jobs[0].name]


def learning(script, tmp_path, teachers):
    """Jobs of an arm that learns from these, on two folds, after two specialists."""
    tree = {"reference": "a", "comparisons": []}
    arms = [
        {"name": name, "recipe": "local-images", "overrides": [f"train.modalities=[{name}]"]} for name in ("ct", "oct")
    ]
    taught = ["train.objectives=[{kind: menu}, {kind: answer}]"]
    student = {"name": "student", "recipe": "local-images", "teachers": teachers, "views": 2, "overrides": taught}
    table = script.Table.model_validate(tree | {"arms": [*arms, student]})
    return script.jobs_of(table, 2, tmp_path / "out", script._common(tmp_path, tmp_path / "out", 640))


def test_a_student_learns_from_the_rows_of_its_fold_and_waits_for_them(script, tmp_path, monkeypatch):
    jobs = learning(script, tmp_path, ["ct", "oct"])
    students = [job for job in jobs if job.arm.name == "student"]
    assert [job.views for job in jobs] == [2, 2, 2, 2, None, None]
    recipe = students[1].recipe.train.teachers
    assert [one.name for one in recipe.rows] == ["ct", "oct"] and recipe.folder == tmp_path / "out" / "rows" / "1"
    corpus, ended = SimpleNamespace(hash="c"), []

    def child(job, log):
        time.sleep(0.3 if job.arm.name == "oct" else 0)
        if job.teachers:
            assert {teacher.name for teacher in job.teachers} <= set(ended)
        ended.append(job.name)
        return finished(job, corpus)

    monkeypatch.setattr(script, "in_fresh_process", child)
    assert not script.run_all(jobs, corpus, at_once=6)
    before = students[0].inputs(corpus)
    changed = learning(script, tmp_path, ["ct"])[-2]
    assert before["teachers"] != changed.inputs(corpus)["teachers"]
    with pytest.raises(RequestError, match=r"no arm before it is called 'cty'.*did you mean ct"):
        learning(script, tmp_path, ["cty"])


def finished(job, corpus):
    """Note a job as done."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "done.json").write_text(json.dumps(job.inputs(corpus)))
    return True


def test_a_student_fails_when_a_teacher_did(script, tmp_path, monkeypatch, capsys):
    """What a teacher left before is not what it would be now: nothing is learnt from it."""
    jobs, corpus, ran = learning(script, tmp_path, ["ct", "oct"]), SimpleNamespace(hash="c"), []

    def child(job, log):
        ran.append(job.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("it broke\n")
        return job.name != "oct-1" and finished(job, corpus)

    monkeypatch.setattr(script, "in_fresh_process", child)
    for job in jobs[:4]:
        finished(job, SimpleNamespace(hash="before"))
    assert [job.name for job in script.run_all(jobs, corpus)] == ["oct-1", "student-1"]
    assert "student-1" not in ran and not jobs[-1].done(corpus) and jobs[-2].done(corpus)
    said = capsys.readouterr()
    (line,) = [line for line in (said.out + said.err).splitlines() if "student-1" in line]
    assert line.endswith("failed: of its teachers oct-1 must be done first, as the table has them now")


def test_a_student_alone_fails_where_its_teachers_are_not_done(script, tmp_path, monkeypatch):
    jobs, corpus = learning(script, tmp_path, ["ct", "oct"]), SimpleNamespace(hash="c")
    students, ran = jobs[-2:], []
    monkeypatch.setattr(script, "in_fresh_process", lambda job, log: ran.append(job.name) or finished(job, corpus))
    finished(jobs[0], corpus), finished(jobs[2], corpus)  # of the first fold
    assert script.run_all(students, corpus) == students[1:] and ran == ["student-0"]


def test_a_child_ends_with_its_parent(tmp_path):
    program = f"""
import multiprocessing, os, sys, threading, time
sys.path.insert(0, {str(SCRIPTS)!r})
import local_table
def child(path):
    threading.Thread(target=local_table._end_with_parent, daemon=True).start()
    open(path, "w").write(str(os.getpid()))
    time.sleep(600)
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child, args=(sys.argv[1],))
    process.start()
    process.join()
"""
    (tmp_path / "parent.py").write_text(program)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py", tmp_path / "pid"])
    child = _wait(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert _wait(lambda: not _runs(int(child)))


def test_ablations_are_paired_by_fold(script):
    import local_table_page

    figures = {"a": {0: (0.7, 0.5), 1: (0.8, 0.6)}, "b": {0: (0.6, 0.5), 1: (0.75, 0.7)}}
    named = {
        arm: {fold: dict(zip(local_table_page.CHOSEN, pair, strict=True)) for fold, pair in folds.items()}
        for arm, folds in figures.items()
    }
    text = local_table_page._ablations("a", named)
    named["c"] = {0: {"macro_auroc": 0.9, "balanced_accuracy": None}}  # sets of several labels an image have none
    text = local_table_page._ablations("a", named)
    assert "| c | 1 | 0.900 | +0.200 (+0.200 to +0.200) | – | – |" in text
    assert "| b | 2 | 0.675 | -0.075 (-0.100 to -0.050) | 0.600 | +0.050 (+0.000 to +0.100) |" in text


def test_left_out_sets_are_a_line_an_arm_with_every_kind_of_prompts(script):
    import local_table_page

    def row(arm, source, value):
        estimate = {"value": value, "low": value - 0.1, "high": value + 0.1}
        spread = {"prompt sets": {"macro_auroc": {"values": {"plain": 0.61, "report": 0.62, "signs": 0.63}}}}
        facts = {"n": 9, "metrics": {"macro_auroc": estimate}, "chance": {"macro_auroc": 0.5}, "spread": spread}
        return {"arm": arm, "source": source, **facts, "trained": {"macro_auroc": {"values": [estimate]}}}

    rows = [row("without-b", "b", 0.7), row("without-a", "a", 0.8), row("without-both", "a", 0.6)]
    lines = [line for line in local_table_page._zero_shot(rows).splitlines() if line.startswith(("| a", "| b"))]
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| a", "without-a"],
        ["| a", "without-both"],
        ["| b", "without-b"],
    ]
    interval = "0.800 (0.700 to 0.900)"
    assert lines[0] == f"| a | without-a | macro AUROC | 9 | {interval} | 0.610 | 0.620 | 0.630 | 0.500 | {interval} |"


def test_a_missing_folder_is_refused(script, tmp_path):
    with pytest.raises(RequestError, match="no such folder"):
        script._common(tmp_path / "nowhere", tmp_path, None)


def _wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    return condition()


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def teacher_of(name, modalities, figures, folder):
    """A job of a teacher that has answered for two sets and has a log of its validation."""
    from medweave.evaluation.results import Results

    results = Results(folder / name / "results", {"name": name})
    run = folder / name / "run"
    run.mkdir(parents=True)
    line = {"kind": "validation", "step": 1, "sources": {source: {"macro_auroc": v} for source, v in figures.items()}}
    (run / "log.jsonl").write_text(json.dumps(line) + "\n")
    recipe = SimpleNamespace(train=SimpleNamespace(modalities=modalities), evaluate=SimpleNamespace(draws=100, seed=0))
    job = SimpleNamespace(name=f"{name}-0", folder=run, results=results.folder, recipe=recipe, arm=SimpleNamespace())
    return job, results


def answers(results, source, modality, right, shift=0.0):
    """Predictions of 40 images of two classes, right on the share `right`, as a result of `results`."""
    import numpy as np

    from medweave.evaluation import predictions, scoring

    truth = np.eye(2, dtype=np.int8)[np.arange(40) % 2]
    logits = truth * np.where(np.arange(40) < 40 * right, 2.0, -2.0)[:, None] + shift
    names = np.array([f"{source}/{n}" for n in range(40)])
    made = predictions.Predictions(["a", "b"], False, names, names, np.zeros(40, int), truth, {"all": logits})
    facts = dict.fromkeys(("family", "task", "anatomy", "published", "licence", "fold", "calibration", "choices"))
    facts |= {"benchmark": f"corpus-zero-shot/{source}", "family": "corpus-zero-shot", "source": source}
    facts["title"] = "prompted"
    facts |= {"modality": modality, "positive": None, "confounded": source == "b", "leaks": 0, "left_out": 0}
    predictions.write(made, results.folder / facts["benchmark"] / "predictions.parquet")
    results.results.append({**facts, **scoring.numbers(made, 100, 0)})
    return made


@pytest.fixture
def teachers(script, tmp_path):
    """Two teachers. Test images say: the specialist everywhere. Validation says: on a; on c the other one; d: alike."""
    specialist, own = teacher_of("specialist", ["ct"], {"a": 0.9, "c": 0.6, "d": 0.5}, tmp_path)
    generalist, others = teacher_of("generalist", None, {"a": 0.8, "b": 0.7, "c": 0.8, "d": 0.5}, tmp_path)
    made, sets = {}, (("a", "ct"), ("b", "mri"), ("c", "ct"), ("d", "ct"))
    for results, rights in ((own, (0.95, 0.99, 0.9, 0.9)), (others, (0.75, 0.8, 0.6, 0.6))):
        for (source, modality), right in zip(sets, rights, strict=True):
            made[results.model["name"], source] = answers(results, source, modality, right, right)
        results.write(100, 0)
    return [specialist, generalist], made


@pytest.mark.parametrize("how", ["best", "mean"])
def test_teachers_together_are_the_best_by_validation_or_their_mean(script, teachers, tmp_path, how):
    import local_table_combine
    import numpy as np
    from scipy.special import log_softmax

    from medweave.evaluation.results import load

    jobs, made = teachers
    job = SimpleNamespace(name="both-0", teachers=jobs, recipe=jobs[0].recipe, results=tmp_path / "both")
    job.arm = SimpleNamespace(combine=how, by="macro_auroc")
    local_table_combine.combine(job)
    results = load(tmp_path / "both")
    found = {r["source"]: results.predictions(r).scores["all"] for r in results.results}
    specialist, generalist = (made[name, "a"].scores["all"] for name in ("specialist", "generalist"))
    if how == "best":
        assert np.allclose(found["a"], specialist)
    else:
        assert np.allclose(found["a"], (log_softmax(specialist, 1) + log_softmax(generalist, 1)) / 2, atol=1e-6)
    both = found["b"] if how == "best" else np.exp(found["b"])
    one = made["generalist", "b"].scores["all"]
    assert np.allclose(both, one if how == "best" else np.exp(log_softmax(one, 1)), atol=1e-6), (
        "specialists know theirs"
    )
    if how == "best":
        for source in ("c", "d"):  # on all of its modality validation prefers the generalist
            assert np.allclose(found[source], made["generalist", source].scores["all"])
    right = {r["source"]: r["metrics"]["balanced_accuracy"]["value"] for r in results.results}
    assert right["b"] == pytest.approx(0.8)


def test_an_oracle_is_picked_by_the_figure_that_it_is_compared_by(script, teachers):
    import local_table_combine

    (specialist, generalist), _ = teachers
    for job, auroc, balanced in ((specialist, 0.9, 0.6), (generalist, 0.8, 0.7)):
        line = {"kind": "validation", "step": 1}
        line["sources"] = {"a": {"macro_auroc": auroc, "balanced_accuracy": balanced}, "tie": {"macro_auroc": auroc}}
        (job.folder / "log.jsonl").write_text(json.dumps(line) + "\n")
    found = {
        (source, by): local_table_combine.best(
            [(job, {"source": source, "modality": "ct"}, job.name) for job in (specialist, generalist)], [source], by
        )[1]
        for source in ("a", "tie")
        for by in local_table_combine.FIGURES
    }
    assert found["a", "macro_auroc"] == "specialist-0" and found["a", "balanced_accuracy"] == "generalist-0"
    assert found["tie", "balanced_accuracy"] == "specialist-0", "what is not measured says nothing"


def test_shares_of_the_oracle_are_corrected_for_chance(script, teachers, tmp_path):
    import local_table_combine
    import local_table_teachers

    jobs, _ = teachers
    job = SimpleNamespace(name="oracle-0", teachers=jobs, recipe=jobs[0].recipe, results=tmp_path / "oracle")
    job.arm = SimpleNamespace(combine="best", by="macro_auroc")
    local_table_combine.combine(job)
    tree = {"reference": "generalist", "comparisons": []}
    arms = [{"name": "specialist", "recipe": "local-images", "overrides": ["train.modalities=[ct]"]}]
    arms += [{"name": "generalist", "recipe": "local-images"}]
    arms += [{"name": "oracle", "recipe": "local-images", "combine": "best", "teachers": ["specialist", "generalist"]}]
    table = script.Table.model_validate(tree | {"arms": arms})
    pooled = {one.name.rpartition("-")[0]: one.results for one in (*jobs, job)}
    named = [SimpleNamespace(arm=SimpleNamespace(name=one.name.rpartition("-")[0]), recipe=one.recipe) for one in jobs]
    text, rows = local_table_teachers.against_teachers(table, named, pooled)
    of = {(row["sets of"], row["metric"]): row for row in rows}
    student, oracle = (0.75 + 0.8 + 0.6 + 0.6) / 4, (0.95 + 0.8 + 0.6 + 0.6) / 4
    row = of["all", "balanced_accuracy"]
    assert row["share"]["value"] == pytest.approx((student - 0.5) / (oracle - 0.5))
    assert row["share"]["low"] < row["share"]["value"] < row["share"]["high"]
    assert of["specialist", "balanced_accuracy"]["difference"]["value"] == pytest.approx((0.75 - 0.95) / 3)
    assert of["without confounded", "balanced_accuracy"]["sets"] == 3
    assert "| generalist | prompted | specialist | balanced accuracy | 3 | 0.650" in text
    assert local_table_teachers.against_teachers(table, named, {}) is None
    arms.append(arms[-1] | {"name": "oracle-balanced", "by": "balanced_accuracy"})
    table = script.Table.model_validate(tree | {"arms": arms})
    _, rows = local_table_teachers.against_teachers(table, named, pooled | {"oracle-balanced": pooled["generalist"]})
    of = {(row["sets of"], row["metric"]): row for row in rows}
    assert of["all", "balanced_accuracy"]["share"]["value"] == 1 != of["all", "macro_auroc"]["share"]["value"]


def test_a_corpus_of_ones_own_keeps_the_arms_that_fit_it(script, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("name: own\ncorpus: {path: elsewhere, sources: [{kind: folder, path: pictures}]}\n")
    strata = [SimpleNamespace(source="ward", modality=modality) for modality in ("ct", "xray")]
    table = script.load_recipe(SCRIPTS / "distil_table.yaml", script.Table)
    fitting = script.fitting(table, SimpleNamespace(strata=strata))
    arms = {arm.name: arm for arm in fitting.arms}
    assert {"radiographs", "sections", "everything", "student"} <= arms.keys()
    assert not {"eyes", "cells", "surfaces", "ultrasound"} & arms.keys()
    assert arms["student"].teachers == ["radiographs", "sections", "everything"]
    jobs = script.jobs_of(fitting, 2, tmp_path / "out", script._common(own, tmp_path / "out", None))
    (sections,) = [job for job in jobs if job.arm.name == "sections" and job.fold == 1]
    assert sections.recipe.train.modalities == ["ct"]
    assert [source.path.name for source in sections.recipe.corpus.sources] == ["pictures"]
    assert sections.recipe.corpus.path == tmp_path / "out" / "corpus" and sections.recipe.corpus.folds.count == 5
    left_out = script.load_recipe(SCRIPTS / "local_table.yaml", script.Table)
    names = {arm.name for arm in script.fitting(left_out, SimpleNamespace(strata=strata)).arms}
    assert "local-images" in names and "without-kermany" not in names


def test_a_recipe_without_a_corpus_is_refused(script, tmp_path):
    (tmp_path / "own.yaml").write_text("name: own\n")
    with pytest.raises(RequestError, match="corpus"):
        script._common(tmp_path / "own.yaml", tmp_path / "out", None)
