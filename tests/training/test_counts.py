from dataclasses import replace

import pytest

from medweave.errors import UserError
from medweave.training.counts import Counts, report


def counted(work, steps, change=lambda share: share):
    counts = Counts(work.data.corpus)
    for step in range(steps):
        counts.add(change(work.loader[step]))
    return counts


def test_counts_are_those_of_the_samples(work_of):
    work = work_of()
    found = report(counted(work, 9), 9, work.data.mix, work.data.order)
    seen = [n for step in range(9) for n in work.data.order.numbers(step).tolist()]
    sources = work.data.corpus.index(["source"])["source"].to_pylist()
    assert found["asked"] == found["read"] == len(seen) == 144 and found["skipped"] == {}
    assert found["repeated"] == len(seen) - len(set(seen))
    for name, row in found["mix"]["source"].items():
        assert row["read"] == sum(sources[n] == name for n in seen)
        assert row["share"] == row["read"] / 144
    assert found["texts"]["own"] + found["texts"]["bank"] + found["texts"]["other"] == 144
    assert found["texts"]["own"] > 0 and found["texts"]["bank"] > 0


def test_processes_add_up_to_the_whole(work_of):
    work = work_of()
    whole, total = counted(work, 4), Counts(work.data.corpus)
    total.load([counted(work, 2).state(), Counts(work.data.corpus).state()])
    for step in (2, 3):
        total.add(work.loader[step])
    assert total.state() == whole.state()


def test_what_could_not_be_read_is_listed_with_its_reason(work_of):
    work = work_of()
    found = counted(work, 2, lambda share: replace(share, problems=["damaged", *share.problems[1:]]))
    rows = report(found, 2, work.data.mix, work.data.order)
    assert rows["skipped"] == {"damaged": 2} and rows["read"] == 30
    first = [int(work.data.order.numbers(step)[0]) for step in range(2)]
    assert rows["skipped_examples"] == [{"sample": n, "reason": "damaged"} for n in first]


def test_too_much_damage_stops_the_run(work_of):
    work = work_of()
    with pytest.raises(UserError, match=r"21 of \d+ samples could not be read, the last: damaged"):
        counted(work, 4, lambda share: replace(share, problems=["damaged"] * 16))


def test_counts_that_do_not_add_up_are_an_error(work_of):
    work = work_of()
    counts = counted(work, 3)
    with pytest.raises(UserError, match="counts do not add up"):
        report(counts, 4, work.data.mix, work.data.order)
