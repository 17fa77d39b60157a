"""Things that come from a hub or a folder, and are made of it: whatever goes wrong becomes one clear line."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers

from medweave.errors import RequestError, UserError, in_short
from medweave.models.whole import refuse_broken

HUB = "huggingface_hub"  # its logger tells of each retry


@contextmanager
def reaching(name: str, what: str) -> Iterator[None]:
    """Turn the many errors of libraries into one UserError: `what` (weights, tokenizer, …) of `name`.

    name: a folder, or a name of the hub. A folder's own files are named where they are not whole.
    """
    try:
        with quietly():
            yield
    except UserError:
        raise
    except Exception as error:  # hub clients and readers of files raise whatever they like
        if Path(name).is_dir():
            refuse_broken(Path(name))
            raise UserError(f"the {what} in this folder cannot be read", where=name, todo=in_short(error)) from error
        raise UserError(
            f"cannot get the {what} of {name}",
            todo="it is no such folder here, not in the local hub cache, or the hub cannot be reached "
            f"({in_short(error)})",
        ) from error


@contextmanager
def making(what: str, where: str | Path) -> Iterator[None]:
    """Turn what libraries raise for a configuration that makes no model into a RequestError. where: who says it."""
    try:
        with quietly():
            yield
    except UserError:
        raise
    except Exception as error:  # each kind of model raises its own
        raise RequestError(f"this makes no {what}", where=where, todo=in_short(error)) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Keep the reports of transformers, open_clip and the hub's client off the terminal; we say what matters."""
    level, loggers = transformers.logging.get_verbosity(), [logging.getLogger(name) for name in (None, HUB)]
    levels = [logger.level for logger in loggers]
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # what they call an error they raise too
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)
        transformers.logging.enable_progress_bar()
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)
