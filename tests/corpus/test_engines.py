import os
import signal

import pytest

from medweave.corpus.engines import run
from medweave.errors import UserError


def double(number):
    return 2 * number


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2, None])
def test_every_task_is_done_once(workers):
    assert sorted(run(double, range(50), "local", workers)) == list(range(0, 100, 2))


def test_no_tasks():
    assert list(run(double, [], "local", 2)) == []


def test_tasks_are_taken_as_workers_get_free():
    taken = []
    tasks = (taken.append(n) or n for n in range(1000))
    results = run(double, tasks, "local", 2)
    next(results)
    assert len(taken) < 20
    results.close()


def test_a_worker_that_dies_is_one_clear_line():
    with pytest.raises(UserError, match="fewer workers"):
        list(run(die, range(4), "local", 2))
