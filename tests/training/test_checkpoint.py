import pytest
import torch
from torch import nn

from medweave.errors import UserError
from medweave.training import checkpoint


def test_the_newest_state_comes_back_and_the_older_ones_go(tmp_path):
    assert checkpoint.latest(tmp_path, torch.device("cpu")) is None
    for step in (5, 10):
        checkpoint.save(tmp_path, step, {"step": step, "values": {"a": torch.full((3,), float(step))}})
    state = checkpoint.latest(tmp_path, torch.device("cpu"))
    assert state["step"] == 10 and torch.equal(state["values"]["a"], torch.full((3,), 10.0))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000010.pt"]


def test_an_unfinished_file_is_never_taken(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 5, {"step": 5})

    def dies(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 6, {"step": 6})
    assert checkpoint.latest(tmp_path, torch.device("cpu")) == {"step": 5}


def test_a_full_disk_is_an_error_of_the_system():
    """What `train` turns into one line: torch's own writer would raise a RuntimeError without a cause."""
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "wb") as file:
        torch.save({"values": torch.zeros(100_000)}, file)


def test_a_damaged_file_is_named(tmp_path):
    checkpoint.save(tmp_path, 5, {"step": 5, "values": torch.zeros(1000)})
    path = tmp_path / "step-000000005.pt"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"cannot be read.*step-000000005.pt"):
        checkpoint.latest(tmp_path, torch.device("cpu"))


def test_nothing_but_tensors_and_plain_values_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    path = tmp_path / "step-000000001.pt"
    torch.save({"step": Evil()}, path)
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.read(path)


def test_weights_of_another_architecture_are_refused(tmp_path):
    values = nn.Linear(3, 4).state_dict()
    with pytest.raises(UserError, match=r"another architecture: 2 weights differ \(bias: \(4,\) for \(5,\)"):
        checkpoint.fill(nn.Linear(3, 5), values, tmp_path)


def test_weights_alone(tmp_path):
    model, path = nn.Linear(3, 4), tmp_path / "best.safetensors"
    checkpoint.save_weights(path, model)
    other = nn.Linear(3, 4)
    checkpoint.fill(other, checkpoint.read_weights(path), path)
    assert torch.equal(other.weight, model.weight)
    path.write_bytes(b"short")
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.read_weights(path)
