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


@pytest.fixture
def table(script):
    return script.load_recipe(SCRIPTS / "local_table.yaml", script.Table)


@pytest.fixture
def jobs(script, table, tmp_path):
    common = script._common(tmp_path, tmp_path / "out", 640)
    return [script.Job(arm, fold, tmp_path / "out", common) for arm in table.arms for fold in script._folds(arm, 2)]


def test_every_arm_is_a_valid_recipe_and_differs_from_the_others(script, table, jobs, tmp_path):
    assert {table.reference} | {c.partition("@")[0] for one in table.comparisons for c in one.columns} <= {
        arm.name for arm in table.arms
    }
    for job in jobs:
        recipe = job.recipe
        assert recipe.train.images == 640 and recipe.train.run == job.folder
        assert recipe.train.data.fold == recipe.evaluate.data.fold == job.fold
        assert {source.path for source in recipe.corpus.sources} == {tmp_path}
        assert (job.arm.evaluate == "left out") == bool(recipe.train.leave_out)
    corpus = SimpleNamespace(hash="c")
    assert len({job.inputs(corpus)["recipe"] for job in jobs}) == len(jobs)


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
    tree = {"reference": "a", "views": 2, "comparisons": []}
    arms = [
        {"name": name, "recipe": "local-images", "overrides": [f"train.modalities=[{name}]"]} for name in ("ct", "oct")
    ]
    taught = ["train.objectives=[{kind: menu}, {kind: answer}]"]
    student = {"name": "student", "recipe": "local-images", "teachers": teachers, "overrides": taught}
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
        return True

    monkeypatch.setattr(script, "in_fresh_process", child)
    assert not script.run_all(jobs, corpus, at_once=6)
    before = students[0].inputs(corpus)
    changed = learning(script, tmp_path, ["ct"])[-2]
    assert before["teachers"] != changed.inputs(corpus)["teachers"]
    with pytest.raises(RequestError, match=r"no arm before it is called 'cty'.*did you mean ct"):
        learning(script, tmp_path, ["cty"])


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
    assert "| b | 2 | 0.675 | -0.075 (-0.100 to -0.050) | 0.600 | +0.050 (+0.000 to +0.100) |" in text


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
