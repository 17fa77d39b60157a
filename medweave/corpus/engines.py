"""Where workers of a build or an extraction run: in this process, in others of this machine, or on a Ray cluster."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Literal, TypeVar

from medweave.cores import cores
from medweave.errors import RequestError, UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 2  # tasks handed out a worker: the next one waits beside the one in work


def run(
    work: Callable[[Task], Result], tasks: Iterable[Task], engine: Literal["local", "ray"], workers: int | None
) -> Iterator[Result]:
    """Do every task and give the results as they come, in any order. The first error ends it, and is raised."""
    if engine == "ray":
        return _ray(work, tasks)
    workers = workers or cores()
    return map(work, tasks) if workers == 1 else _processes(work, tasks, workers)


def _processes(work: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    context = multiprocessing.get_context("fork")
    tasks = iter(tasks)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        pending = {pool.submit(work, task) for task in itertools.islice(tasks, AHEAD * workers)}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                pending |= {pool.submit(work, task) for task in itertools.islice(tasks, len(done))}
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker died, probably for lack of memory", todo="run the same command with fewer workers"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """A worker leaves Ctrl-C to its parent, and ends when its parent has been killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait for the parent process, and go when it is gone: for a thread of a child that must not outlive it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _ray(work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
    """The nodes of the cluster must see this folder, the sources and the corpus under the same paths."""
    ray, folder = _import_ray(), Path.cwd()

    def work_here(task: Task) -> Result:
        os.chdir(folder)
        return work(task)

    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False)
    try:
        yield from _as_done(ray, ray.remote(work_here), iter(tasks))
    finally:
        if ours:
            ray.shutdown()


def _as_done(ray: Any, remote: Any, tasks: Iterator[Any]) -> Iterator[Any]:
    room = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending = [remote.remote(task) for task in itertools.islice(tasks, room)]
    while pending:
        done, pending = ray.wait(pending)
        pending += [remote.remote(task) for task in itertools.islice(tasks, len(done))]
        try:
            yield from ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise RequestError("engine: ray needs the package ray", todo="pip install 'medweave[ray]'") from None
    return ray
