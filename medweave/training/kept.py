"""The weights as they learn and as they would be kept: averaged if the recipe says so, in eval()."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.modules.batchnorm import _BatchNorm

from medweave.training.norms import PICTURES, learning_norms, re_estimate
from medweave.training.work import Work


def learn(work: Work) -> None:
    """Training mode; batch norm keeps its statistics where it must."""
    work.model.train()
    if work.frozen_norm:
        for module in work.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


@contextmanager
def as_kept(work: Work) -> Iterator[None]:
    """The model as it would be kept; afterwards it learns on."""
    if work.average is not None:
        averaged(work)
    work.model.eval()
    yield
    if work.average is not None:
        work.average.swap()
    learn(work)


def averaged(work: Work) -> None:
    """Put the averaged weights into the model, with batch-norm statistics of their own; left in eval()."""
    assert work.average is not None
    work.average.swap()
    settle_norms(work)


def settle_norms(work: Work) -> None:
    """Measure the statistics of batch norms that learn anew, on the last training pictures; left in eval()."""
    norms = learning_norms(work.model)
    work.model.eval()
    if norms and work.step:
        first = max(0, work.step - -(-PICTURES // work.settings.batch))
        shares = (work.loader[step] for step in range(first, work.step))
        re_estimate(norms, work.towers.image, [share.micros[0].pixels.to(work.ranks.device) for share in shares])
