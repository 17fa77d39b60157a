"""Processes that train one model together, under torchrun or alone. R processes; all see the same global batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from medweave.errors import RequestError

PATIENCE = timedelta(hours=12)  # while the first process embeds captions or measures teachers, the others wait


@dataclass(frozen=True)
class Ranks:
    """This process among its fellows. rank: in [0, world). device: where its model lives."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """The part of a global batch that this process embeds."""
        size = batch // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    def gather(self, rows: Tensor) -> Tensor:
        """Everybody's rows one after another, without gradient: [b, …] -> [R·b, …]."""
        if self.world == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.world)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def gather_objects(self, value: Any) -> list[Any]:
        """Everybody's plain value, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one message for each kind of number."""
        if self.world == 1:
            return
        for dtype in {t.dtype for t in tensors}:
            same = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.reshape(-1) for t in same])
            dist.all_reduce(flat)
            for tensor, part in zip(same, flat.split([t.numel() for t in same]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def same_start(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of the first process."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world > 1:
            dist.barrier()


def start() -> Ranks:
    """Join the processes that torchrun started; alone without it. CUDA where there is a device, else the CPU."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else "cpu"
    if torch.cuda.is_available():
        torch.cuda.set_device(device)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    return Ranks(rank, world, torch.device(device))


def stop(ranks: Ranks) -> None:
    """Leave the group that `start` joined."""
    if ranks.world > 1 and dist.is_initialized():
        dist.destroy_process_group()


def check_batch(batch: int, accumulate: int, ranks: Ranks, where: str = "train.batch") -> None:
    """Raises RequestError when a global batch cannot be dealt evenly."""
    if batch % (ranks.world * accumulate):
        raise RequestError(
            f"a batch of {batch} cannot be dealt to {ranks.world} processes in {accumulate} micro-batches each",
            where=where,
            todo=f"take a multiple of {ranks.world * accumulate}",
        )
