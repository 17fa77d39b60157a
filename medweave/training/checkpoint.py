"""States of a run on disk: whole or absent, complete, read without unpickling anything but tensors and plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from medweave.errors import UserError, in_short
from medweave.files import whole_file, write_bytes

NAME, BEST = "step-{:09d}.pt", "best.safetensors"
FIRST, INGREDIENT = "first.safetensors", "soup-{:09d}.safetensors"  # what learns, at a branch's beginning and end
TEXTS = "texts-{}-{:09d}.safetensors"  # of the process of a rank, with the state of a step


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the state after `step` steps, then remove the older ones."""
    path = folder / NAME.format(step)
    with whole_file(path) as draft, draft.open("wb") as file:  # a file of our own: a full disk is then an OSError
        torch.save(state, file)
    for older in folder.glob("step-*.pt"):
        if older != path:
            older.unlink()


def latest(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest state, None when there is none. Raises UserError for a file that is no state."""
    found = sorted(folder.glob("step-*.pt"))
    return read(found[-1], device) if found else None


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """One state."""
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged archive can raise anything inside torch
        reason = in_short(error)
        raise UserError(
            f"the checkpoint cannot be read: {reason}", where=path, todo="remove it to start anew"
        ) from None
    return state


def fill(model: torch.nn.Module, values: dict[str, torch.Tensor], where: Path) -> None:
    """Put weights into a model. Raises UserError, with the first names, when they are not exactly its own."""
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in values.items()}
    wrong = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
    if wrong:
        shown = "; ".join(f"{n}: {given.get(n, 'missing')} for {own.get(n, 'nothing')}" for n in wrong[:3])
        raise UserError(
            f"the checkpoint is of another architecture: {len(wrong)} weights differ ({shown})",
            where=where,
            todo="use the recipe that it was made with",
        )
    model.load_state_dict(values)


def save_weights(path: Path, model: torch.nn.Module) -> None:
    """Write a model's weights."""
    values = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_bytes(path, safetensors.torch.save(values))


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a file that `save_weights` wrote. Raises UserError when it is missing or damaged."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"the weights cannot be read: {error}", where=path) from None


def clear(folder: Path) -> None:
    """Remove the states: the model is written."""
    for pattern in ("step-*.pt", BEST, FIRST, "soup-*", "texts-*"):
        for path in folder.glob(pattern):
            path.unlink()
