from medweave.cores import cores, share_of_cores


def test_processes_of_torchrun_share_the_cores_that_may_be_used(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(7))
    assert cores() == share_of_cores() == 7
    for processes, each in (("2", 3), ("7", 1), ("20", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert share_of_cores() == each
